# SPDX-License-Identifier: Apache-2.0
"""Disks that qemu-storage-daemon serves: over several queues and a reboot, killed and started again under a guest that
writes, added to a running guest and taken away. The daemon (7.2) keeps no account of what it has in flight."""
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from stream import SECONDS
from test_disk import HAMMER, MIB, hammered, pattern
from test_hotplug import Guest

DAEMON = shutil.which("qemu-storage-daemon")
SERIAL = "vhost_user_blk"  # what the daemon says, whatever it serves

pytestmark = pytest.mark.skipif(not DAEMON, reason="qemu-storage-daemon is not installed (Debian: qemu-system-common)")


class Daemon:
    def __init__(self, folder, image, n_queues):
        self.socket = folder / f"{image.name}.socket"
        self.words = [DAEMON, "--blockdev", f"driver=file,node-name=file,filename={image}", "--export",
                      "type=vhost-user-blk,id=export,node-name=file,addr.type=unix,"
                      f"addr.path={self.socket},writable=on,num-queues={n_queues}"]
        self.errors = folder / f"{image.name}.errors"
        self.start()

    def start(self):
        self.socket.unlink(missing_ok=True)
        with self.errors.open("ab") as errors:
            self.process = subprocess.Popen(self.words, stdin=subprocess.DEVNULL, stdout=errors, stderr=errors)
        end = time.monotonic() + SECONDS
        while not self.is_listening():
            assert self.process.poll() is None and time.monotonic() < end, self.errors.read_text()
            time.sleep(0.01)

    def is_listening(self):
        """The name is there a moment before."""
        sockets = Path("/proc/net/unix").read_text().splitlines()[1:]
        return any(line.endswith(f" {self.socket}") and line.split()[3] == "00010000" for line in sockets)

    def kill(self):
        self.process.kill()
        self.process.wait()


@pytest.fixture
def serve(folder):
    """serve(image, n_queues): a daemon, ended with the test."""
    daemons = []

    def start_one(image, n_queues=1):
        daemons.append(Daemon(folder, image, n_queues))
        return daemons[-1]

    yield start_one
    for daemon in daemons:
        daemon.kill()


def disk_option(daemon, more=""):
    return f"vhost_user=on,socket={daemon.socket}{more}"


def reconnects(guest, name):
    status, counters = guest.call("GET", "vm.counters")
    assert status == 200
    return counters[name]["reconnects"]


@pytest.mark.parametrize("machine", ["transport=pci", "transport=mmio"])
def test_queues_and_a_reboot(start, folder, raw, serve, machine):
    source, target = pattern(3, 24 * MIB), raw("target", 16 * MIB)
    daemon = serve(target, 2)
    guest = Guest(start, folder, ["--cpus", "boot=2", "--memory", "size=512M,shared=on", "--machine", machine, "--disk",
                                  f"path={raw('source', source)},readonly=on", disk_option(daemon, ",num_queues=2,id=other")])
    assert guest.run("ls /sys/block/vdb/mq | wc -l; cat /sys/block/vdb/size /sys/block/vdb/serial") == \
        f"2\n{16 * MIB // 512}\n{SERIAL}"
    assert guest.run(one_line(HAMMER.replace("DISKS", "/dev/vdb"))) == ""
    sums = "echo 3 >/proc/sys/vm/drop_caches; md5sum </dev/vdb"
    before = guest.run(sums)
    guest.put("vm.pause")
    guest.put("vm.resume")
    assert guest.run(sums) == before
    guest.put("vm.reboot")
    guest.shell.expect("<<ready>>\n")
    assert guest.run(sums) == before
    guest.check_kernel()
    guest.end()
    assert target.read_bytes() == hammered(source)


# Eight processes write what says where it is, each to its own 2 MiB, again and again.
WRITERS = r"""
write() { n=0; while [ -e /run/writing ]; do n=$((n + 1)); yes "part $1 round $n" | head -c 2097152 >/tmp/part$1;
dd if=/tmp/part$1 of=/dev/$d bs=16384 seek=$(($1 * 128)) conv=notrunc,fsync 2>/dev/null || echo write $1 >>/run/errors; done; }
for i in 0 1 2 3 4 5 6 7; do write $i & done
"""

# Prints the parts that are not as they were written last.
READERS = r"""
echo 3 >/proc/sys/vm/drop_caches
for i in 0 1 2 3 4 5 6 7; do
[ "$(dd if=/dev/$d bs=65536 skip=$((i * 32)) count=32 2>/dev/null | md5sum)" = "$(md5sum </tmp/part$i)" ] || echo part $i
done
"""


def one_line(script):
    """For the guest's shell, which takes lines."""
    lines = [line.strip() for line in script.strip().splitlines()]
    return " ".join(line if line.endswith(("do", "{", ";", "&")) else f"{line};" for line in lines)


def test_killed_and_started_again_under_load(start, folder, raw, serve):
    target = raw("target", 16 * MIB)
    daemon = serve(target, 2)
    guest = Guest(start, folder, ["--cpus", "boot=2", "--memory", "size=512M,shared=on", "--disk",
                                  disk_option(daemon, ",num_queues=2,id=other")])
    guest.run(f"appears {SERIAL}")
    guest.run("touch /run/writing; " + one_line(WRITERS))
    for n in range(1, 6):
        time.sleep(1.5)
        daemon.kill()
        time.sleep(0.3)
        assert guest.run("echo alive") == "alive"
        daemon.start()
        end = time.monotonic() + SECONDS
        while reconnects(guest, "other") < n:
            assert time.monotonic() < end
            time.sleep(0.05)
    # While the backend is away a pause ends, and so does a resumption.
    daemon.kill()
    guest.put("vm.pause")
    guest.put("vm.resume")
    daemon.start()
    assert guest.run("rm /run/writing; wait; cat /run/errors 2>/dev/null; dmesg | grep -i 'error'") == ""
    assert guest.run(one_line(READERS)) == ""
    guest.check_kernel()
    guest.put("vmm.shutdown", status=200)
    assert guest.vm.wait() == 0, guest.vm.report()
    assert target.read_bytes()[:6] == b"part 0"


def test_added_and_removed(start, folder, raw, serve):
    """Also while the daemon is away; and a guest without shared memory gets none."""
    content = pattern(8, 4 * MIB)
    daemon = serve(raw("target", content))
    guest = Guest(start, folder, ["--memory", "size=512M,shared=on"])
    disk = {"vhost_user": True, "vhost_socket": str(daemon.socket), "id": "other"}
    for n in range(1, 4):
        assert guest.put("vm.add-disk", disk, 200)["id"] == "other"
        assert guest.run(f"appears {SERIAL}; dd if=/dev/$d bs=64k 2>/dev/null | wc -c") == str(4 * MIB)
        if n == 2:
            daemon.kill()
        guest.put("vm.remove-device", {"id": "other"})
        assert guest.wait_removed(n)[0] == "other"
        assert guest.run(f"leaves {SERIAL}") == ""
        if n == 2:
            daemon.start()
    status, text = guest.refused("vm.add-disk", {**disk, "vhost_socket": str(folder / "nobody")})
    assert status == 500 and "cannot connect to" in text
    guest.check_kernel()
    guest.put("vmm.shutdown", status=200)
    assert guest.vm.wait() == 0, guest.vm.report()
