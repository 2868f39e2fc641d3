# SPDX-License-Identifier: Apache-2.0
"""The guest has all the memory that was asked for, uses it, and the host gives only what it touches."""
import re
import shutil
import threading
import time

import pytest

from vmm import GUEST, bad_kernel_lines, sections

MIB = 1 << 20
LOOK = {
    "meminfo": "cat /proc/meminfo",
    "dmesg": "dmesg",
    # What is written must be there later: 16 files of a MiB, each one different. The kernel fills its memory from the top.
    "fill": "seq 150000 >/tmp/block; all() { for i in $(seq 16); do echo $i; cat /tmp/block; done; }; all >/tmp/all; "
            "all | md5sum; md5sum </tmp/all",
}
# 3 GiB is where RAM ends below the devices' addresses; a MiB more is the first above 4 GiB.
SIZES = {"128M": 128, "3G": 3072, "3073M": 3073, "5G": 5120}


@pytest.mark.parametrize("size", SIZES)
def test_size(start, size):
    asked = SIZES[size] * MIB
    vm = start(script=sections(LOOK) + "read line </dev/ttyS0\n", serial="socket", options=["--memory", f"size={size}"])
    vm.console.expect("<<end>>\n")
    resident_kib = int(re.search(r"VmRSS:\s+(\d+)", open(f"/proc/{vm.pid}/status").read()).group(1))
    vm.connect("serial").send("go\n")
    vm.wait_ok()
    found = vm.results()

    ranges = re.findall(r"BIOS-e820: \[mem 0x(\w+)-0x(\w+)\] usable", found["dmesg"])
    usable = sum(int(last, 16) + 1 - int(first, 16) for first, last in ranges)
    # The first MiB has room for tables and for what old machines had there.
    assert asked - MIB <= usable <= asked

    # The kernel's own account: what it has, what of that it keeps for itself; MemTotal grows later by what it frees.
    match = re.search(r"Memory: (\d+)K/(\d+)K available .*?(\d+)K reserved", found["dmesg"])
    free_kib, all_kib, reserved_kib = map(int, match.groups())
    total_kib = int(re.search(r"MemTotal:\s+(\d+)", found["meminfo"]).group(1))
    assert abs(all_kib * 1024 - usable) < MIB
    assert all_kib - reserved_kib <= total_kib <= all_kib

    written, read = found["fill"].splitlines()
    assert written == read
    if asked >= 1 << 30:
        assert resident_kib * 1024 < asked / 4, "memory that the guest did not touch is allocated"
    assert free_kib > 0


# The kernel's text, read through its own eyes: a page that were lost or old would end the guest, or change the sum.
SUM = "sum() { md5sum </proc/kallsyms; }"
BUSY = f"{SUM}; sum; exec 3<>/dev/ttyS0; echo ready >&3; read line <&3; sum; find / -xdev -type f | wc -l >/dev/null; dmesg; "


def mapped_kernel_kib(vm, kernel):
    """How much of guest memory comes from the kernel's file, and how much is in huge pages."""
    from_file = huge = 0
    name = ""
    for line in open(f"/proc/{vm.pid}/smaps"):
        if re.match(r"[0-9a-f]+-", line):
            name = line.split()[5] if len(line.split()) > 5 else ""
        elif line.startswith("Size:") and name == str(kernel):
            from_file += int(line.split()[1])
        elif line.startswith("AnonHugePages:"):
            huge += int(line.split()[1])
    return from_file, huge


def wait_until_mapped(vm, kernel):
    end = time.monotonic() + 30
    while time.monotonic() < end:
        mapped, huge = mapped_kernel_kib(vm, kernel)
        if mapped > 16 << 10:
            return huge
        time.sleep(0.02)
    raise AssertionError(f"{kernel} is not mapped")


def test_kernel_gets_huge_pages(start):
    """What the guest only reads of its kernel is mapped from the file, and after a while it is the guest's own."""
    vm = start(script=BUSY, serial="socket")
    huge_before = wait_until_mapped(vm, GUEST / "cloud/vmlinux")
    vm.connect("serial").expect("ready\r?\n")
    end = time.monotonic() + 90
    mapped = huge = 1
    while mapped and time.monotonic() < end:
        time.sleep(0.5)
        mapped, huge = mapped_kernel_kib(vm, GUEST / "cloud/vmlinux")
    assert mapped == 0
    assert huge >= huge_before + (16 << 10)
    vm.serial.send("go\n")
    vm.wait_ok()
    first, second = re.findall(r"^[0-9a-f]{32}", vm.console.text(), re.M)
    assert first == second
    assert not bad_kernel_lines(vm.console.text())


@pytest.mark.parametrize("map_kernel", ["readonly", "all"])
def test_kernel_file_changes(start, folder, map_kernel):
    """Whoever writes to a kernel that a guest is mapped from waits a moment; the guest keeps what it had."""
    (folder / "boot").mkdir()
    kernel = folder / "boot" / "vmlinux"
    shutil.copyfile(GUEST / "cloud/vmlinux", kernel)
    (folder / "boot" / "initramfs").symlink_to(GUEST / "cloud/initramfs")
    vm = start(kernel=kernel, script=BUSY, serial="socket", options=["--machine", f"map_kernel={map_kernel}"])
    wait_until_mapped(vm, kernel)

    def spoil():
        with open(kernel, "r+b") as f:
            f.write(b"\xcc" * (40 << 20))
            f.truncate(4096)

    writer = threading.Thread(target=spoil)
    writer.start()
    writer.join(40)  # the host's kernel would let it go on after 45 s, whatever the holder of the file does
    assert not writer.is_alive()
    assert mapped_kernel_kib(vm, kernel)[0] == 0
    vm.connect("serial").expect("ready\r?\n")
    vm.serial.send("go\n")
    vm.wait_ok()
    first, second = re.findall(r"^[0-9a-f]{32}", vm.console.text(), re.M)
    assert first == second
    assert not bad_kernel_lines(vm.console.text())
