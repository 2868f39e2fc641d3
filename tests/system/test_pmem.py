# SPDX-License-Identifier: Apache-2.0
"""virtio pmem: a file of the host's is memory of the guest, without a page cache between; what the guest flushes is in the
file, and memory comes and goes while other devices are at work."""
import hashlib
import subprocess

import pytest

from test_disk import check_clean, pattern
from test_hotplug import Guest

MIB = 1 << 20

LOAD = r"""
while read -r module; do insmod "/modules/$module" || echo "no $module"; done </modules.pmem
memory() { set -- /dev/pmem*; [ -b "$1" ] && echo "$*"; }
appears() { for i in $(seq 300); do [ -n "$(memory)" ] && return; usleep 20000; done; echo 'no pmem'; }
leaves() { for i in $(seq 300); do [ -z "$(memory)" ] && return; usleep 20000; done; echo 'pmem is still there'; }
mkdir -p /mnt
"""


def file_system(path):
    # Blocks of a page: else there is no direct access.
    subprocess.run(["mke2fs", "-q", "-t", "ext4", "-b", "4096", str(path)], check=True)


def content_of(image, name):
    return subprocess.run(["debugfs", "-R", f"cat {name}", str(image)], capture_output=True, check=True).stdout


@pytest.mark.parametrize("transport", ["pci", "mmio"])
def test_direct_access(start, raw, folder, transport):
    """ext4 with DAX. What was synced is in the file while the guest still runs, and all of it at the end."""
    image = raw("memory", 64 * MIB)
    file_system(image)
    guest = Guest(start, folder, extra_modules=["pmem"],
                  options=["--pmem", f"file={image}", "--machine", f"transport={transport}"])
    assert guest.run(LOAD) == ""
    assert guest.run("appears; memory; cat /sys/block/pmem0/size /sys/block/pmem0/queue/dax").split() == \
        ["/dev/pmem0", str(64 * MIB // 512), "1"]
    assert guest.run("mount -t ext4 -o dax /dev/pmem0 /mnt && grep -c 'pmem0.*dax' /proc/mounts") == "1"
    large = guest.run("dd if=/dev/urandom of=/mnt/large bs=1M count=16 2>/dev/null; md5sum </mnt/large | cut -d ' ' -f 1")
    assert guest.run("echo marker of this test >/mnt/small; sync") == ""
    assert b"marker of this test\n" in image.read_bytes()
    assert guest.run("for i in $(seq 50); do echo $i >/mnt/file$i; done; umount /mnt") == ""
    guest.check_kernel()
    guest.end()
    check_clean(image)
    assert hashlib.md5(content_of(image, "/large")).hexdigest() == large
    assert content_of(image, "/file50") == b"50\n"


def test_what_is_discarded_and_what_has_no_name(ask, raw, folder):
    """Writes that stay with the guest, a part of a larger file, and a file without a name in a folder."""
    content = pattern(1, 8 * MIB)
    discarded, part = raw("discarded", content), raw("part", content)
    lent = folder / "lent"
    lent.mkdir()
    found = ask({
        "sizes": LOAD + "appears; sleep 1; cat /sys/block/pmem[012]/size",
        "read": "for i in 0 1; do md5sum </dev/pmem$i; done | cut -d ' ' -f 1",
        "write": "dd if=/dev/urandom of=/tmp/x bs=1M count=4 2>/dev/null; "
                 "for i in 0 1 2; do dd if=/tmp/x of=/dev/pmem$i bs=64k conv=fsync 2>/dev/null || echo failed; done; "
                 "echo 3 >/proc/sys/vm/drop_caches; for i in 0 1 2; do cmp -n 4194304 /tmp/x /dev/pmem$i; done",
        "sum": "md5sum </tmp/x | cut -d ' ' -f 1",
    }, extra_modules=["pmem"], options=["--pmem", f"file={discarded},discard_writes=on", f"file={part},size=4M",
                                        f"file={lent},size=16M"])
    assert found["sizes"].split() == [str(n * MIB // 512) for n in (8, 4, 16)]
    assert found["read"].split() == [hashlib.md5(content[:n * MIB]).hexdigest() for n in (8, 4)]
    assert found["write"] == ""
    assert discarded.read_bytes() == content
    written = part.read_bytes()
    assert hashlib.md5(written[:4 * MIB]).hexdigest() == found["sum"] and written[4 * MIB:] == content[4 * MIB:]
    assert list(lent.iterdir()) == []


def test_comes_and_goes_under_load(start, raw, folder):
    """The map of guest memory changes while a disk's requests are in flight, and each time all that was flushed stays."""
    disk, image = raw("disk", pattern(2, 16 * MIB)), raw("memory", 32 * MIB)
    file_system(image)
    guest = Guest(start, folder, extra_modules=["pmem"], options=["--cpus", "boot=2", "--memory", "size=512M",
                                                                 "--disk", f"path={disk}"])
    assert guest.run(LOAD) == ""
    guest.run("while :; do dd if=/dev/vda of=/dev/null bs=64k iflag=direct 2>/dev/null || echo failed >>/tmp/load; done & load=$!")
    for n in range(1, 9):
        info = guest.put("vm.add-pmem", {"file": str(image), "id": "mine"}, 200)
        assert info["id"] == "mine"
        (memory,) = guest.tree()["mine"]["resources"]
        assert memory["MmioAddressRange"]["size"] == 32 * MIB
        assert guest.run(f"appears; mount -t ext4 -o dax $(memory) /mnt && echo {n} >/mnt/file{n} && cat /mnt/file*") == \
            "\n".join(str(i) for i in range(1, n + 1))
        if n == 4:
            status, text = guest.refused("vm.add-pmem", {"file": str(image), "id": "twice"})
            assert status == 500 and "in use by another process, or by another disk" in text
        assert guest.run("umount /mnt") == ""
        guest.put("vm.remove-device", {"id": "mine"})
        guest.wait_removed(n)
        assert guest.run("leaves") == ""
        check_clean(image)
        assert content_of(image, f"/file{n}") == f"{n}\n".encode()
    assert guest.run("kill $load; cat /tmp/load 2>/dev/null; dd if=/dev/vda bs=64k iflag=direct 2>/dev/null | md5sum") == \
        hashlib.md5(disk.read_bytes()).hexdigest() + "  -"
    guest.check_kernel()
    guest.end()
