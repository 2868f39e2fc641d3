# SPDX-License-Identifier: Apache-2.0
"""A whole Debian system with systemd: to its login prompt, in, and out again."""
import signal
import time

import pytest

from test_disk import check_clean
from vmm import bad_kernel_lines

PROMPT = r"root@guest:[^#\n]*# "


def log_in(stream, seconds=400):
    stream.expect("guest login: ", seconds)
    stream.send("root\n")
    stream.expect("Password: ")
    time.sleep(0.3)
    stream.send("varan\n")
    stream.expect(PROMPT)


def command(stream, words, expected):
    """Types it; the output is told from its echo by the value that only the shell can put together."""
    stream.send(f"{words}; echo status-$((40 + 2))\n")
    match = stream.expect(rf"(?s)({expected})\s*status-42\r?\n")
    stream.expect(PROMPT)
    return match.group(1).decode().replace("\r\n", "\n")


@pytest.mark.parametrize("how", [
    {"kernel": "cloud/vmlinuz", "machine": "transport=pci,irqchip=split", "n": 2, "direct": "off",
     "power": "button"},
    {"kernel": "generic/vmlinux", "machine": "transport=mmio,irqchip=kernel", "n": 1, "direct": "on",
     "power": "command"},
], ids=["pci-2cpu", "mmio-1cpu"])
def test_login(start, copy, raw, how):
    root, spare = copy("debian.ext4"), raw("spare", b"\xa5" * (8 << 20))
    vm = start(kernel=how["kernel"], root="/dev/vda", serial="socket",
               options=["--cpus", f"boot={how['n']}", "--machine", how["machine"], "--memory", "size=512M",
                        "--disk", f"path={root},direct={how['direct']}", f"path={spare}"])
    serial = vm.connect("serial")
    log_in(serial)
    command(serial, "stty -echo; PS1='root@guest:# '; dmesg -n 1", "")
    assert command(serial, "systemctl is-system-running --wait", r"[a-z]+\r?\n").strip().endswith("running")
    assert command(serial, "nproc", r"\d+").strip().endswith(str(how["n"]))
    command(serial, "blkdiscard -z -o 1M -l 4M /dev/vdb && echo zeroed", r"zeroed\r?\n")
    command(serial, "dd if=/dev/urandom of=/root/data bs=1M count=4 status=none && sync && md5sum /root/data",
            r"[0-9a-f]{32}[^\n]*\n")
    # Not all of it: over an emulated host's serial port that takes a minute.
    bad = bad_kernel_lines(command(serial, "dmesg --level=emerg,alert,crit,err,warn", ".*"))
    assert not bad, "\n".join(bad)
    if how["power"] == "button":
        vm.signal(signal.SIGUSR2)
    else:
        serial.send("systemctl poweroff\n")
    vm.wait_ok(120)
    check_clean(root)
    assert spare.read_bytes() == b"\xa5" * (1 << 20) + bytes(4 << 20) + b"\xa5" * (3 << 20)
