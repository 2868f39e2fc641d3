# SPDX-License-Identifier: Apache-2.0
"""virtio block: what the guest writes is in the image, what is in the image the guest reads, and what it asks of the
disk beside that is done."""
import hashlib
import os
import random
import subprocess
from pathlib import Path

import pytest

from test_hotplug import Guest
from vmm import PROGRAM, sections

MIB = 1 << 20


def check_clean(image):
    """The file system was unmounted, and has no faults."""
    done = subprocess.run(["e2fsck", "-fn", str(image)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    dump = subprocess.run(["dumpe2fs", "-h", str(image)], capture_output=True, text=True, check=True).stdout
    assert "Filesystem state:         clean\n" in dump
    assert "needs_recovery" not in dump


@pytest.mark.parametrize("transport", ["pci", "mmio"])
def test_root_is_kept(ask, copy, transport):
    root = copy("small.ext4")
    options = ["--disk", f"path={root}", "--machine", f"transport={transport}"]
    write = ask({"root": "grep ' / ' /proc/mounts",
                 "write": "mkdir /new && cd /new && for i in $(seq 200); do echo number $i >file$i; done && "
                          "dd if=/dev/urandom of=large bs=64k count=96 2>/dev/null && mv file7 moved && rm file8",
                 "sum": "cd /new && cat file* moved large | md5sum"},
                root="/dev/vda", options=options)
    assert write["root"].startswith("/dev/vda / ext4 rw")
    assert write["write"] == ""
    check_clean(root)
    read = ask({"sum": "cd /new && cat file* moved large | md5sum", "count": "ls /new | wc -l"},
               root="/dev/vda", options=options)
    assert (read["sum"], read["count"]) == (write["sum"], "200")
    check_clean(root)


def pattern(seed, n_bytes):
    return random.Random(seed).randbytes(n_bytes)


def test_several_disks(ask, raw):
    """Order, sizes, serial numbers, and that a read-only disk refuses."""
    contents = [pattern(i, (i + 1) * MIB) for i in range(5)]
    images = [raw(f"disk{i}", content) for i, content in enumerate(contents)]
    os.chmod(images[1], 0o444)
    extra = [",serial=first", ",readonly=on,serial=12345678901234567890", ",direct=on", ",id=fourth,sparse=off",
             ",_disable_io_uring=on,_disable_aio=on,queue_size=16"]
    found = ask({
        "disks": "ls -d /sys/block/vd* | tr '\\n' ' '",
        "sizes": "cat /sys/block/vd*/size",
        "serials": "for d in /sys/block/vd*; do echo $(cat $d/serial).; done",
        "readonly": "cat /sys/block/vd*/ro",
        "sums": "md5sum /dev/vd? | cut -d ' ' -f 1",
        "refused": "blockdev --setrw /dev/vdb; dd if=/dev/zero of=/dev/vdb bs=4k count=1 conv=fsync; echo $?",
        "written": "for d in a c d e; do echo disk $d | dd of=/dev/vd$d bs=512 seek=1000 conv=sync,fsync 2>/dev/null; "
                   "done; dmesg | grep -i 'error' | grep -v vdb",
    }, options=["--disk", *(f"path={image}{more}" for image, more in zip(images, extra))])
    assert found["disks"].split() == [f"/sys/block/vd{c}" for c in "abcde"]
    assert found["sizes"].split() == [str(len(content) // 512) for content in contents]
    serials = [line.removesuffix(".") for line in found["serials"].splitlines()]
    assert serials[:3] == ["first", "12345678901234567890", ""]
    assert found["readonly"].split() == ["0", "1", "0", "0", "0"]
    assert found["sums"].split() == [hashlib.md5(content).hexdigest() for content in contents]
    assert found["refused"].split()[-1] != "0"
    assert found["written"] == ""
    for i, letter in enumerate("abcde"):
        expected = bytearray(contents[i])
        if letter != "b":
            line = f"disk {letter}\n".encode()
            expected[512000:512512] = line.ljust(512, b"\0")
        assert images[i].read_bytes() == expected, f"vd{letter}"


# What each vCPU does at the same time: whole and odd pieces at random places of its own eighth of the disk.
HAMMER = r"""
worker() {
	n=$1 disk=$2
	dd if=/dev/vda of=$disk bs=64k skip=$((n * 64)) seek=$((n * 64)) count=64 conv=notrunc 2>/dev/null || echo failed
	for i in $(seq 12); do
		at=$((n * 8192 + (i * 5197 + n * 311) % 8000))
		dd if=/dev/vda of=$disk bs=512 skip=$((at + 8192)) seek=$at count=$((i * 7)) conv=notrunc 2>/dev/null || echo failed
		dd if=$disk of=/dev/null bs=3k skip=$((at / 6)) count=9 2>/dev/null || echo failed
	done
}
for disk in DISKS; do
	for n in 0 1 2 3; do worker $n $disk & done
	wait
	dd if=/dev/null of=$disk conv=notrunc,fsync 2>/dev/null
done
"""


def hammered(source):
    """What HAMMER makes of an empty disk."""
    disk = bytearray(16 * MIB)
    for n in range(4):
        disk[n * 4 * MIB:(n + 1) * 4 * MIB] = source[n * 4 * MIB:(n + 1) * 4 * MIB]
        for i in range(1, 13):
            at = n * 8192 + (i * 5197 + n * 311) % 8000
            size = i * 7 * 512
            disk[at * 512:at * 512 + size] = source[(at + 8192) * 512:(at + 8192) * 512 + size]
    return bytes(disk)


@pytest.mark.parametrize("transport", ["pci", "mmio"])
def test_parallel_io(ask, raw, transport):
    """Four queues, four vCPUs, every engine; what arrives is compared outside."""
    source = pattern(99, 24 * MIB)
    kinds = ["num_queues=4", "num_queues=4,direct=on", "num_queues=2,_disable_io_uring=on,_disable_aio=on", "queue_size=32"]
    images = [raw(f"disk{i}", 16 * MIB) for i in range(len(kinds))]
    found = ask({
        "queues": "for d in b c d e; do ls /sys/block/vd$d/mq | wc -l; done",
        "hammer": HAMMER.replace("DISKS", "/dev/vdb /dev/vdc /dev/vdd /dev/vde"),
        "sums": "echo 3 >/proc/sys/vm/drop_caches; md5sum /dev/vd[bcde] | cut -d ' ' -f 1",
    }, options=["--cpus", "boot=4", "--machine", f"transport={transport}", "--disk", f"path={raw('source', source)},readonly=on",
                *(f"path={image},{kind}" for image, kind in zip(images, kinds))])
    assert found["queues"].split() == ["4", "4", "2", "1"]
    assert found["hammer"] == ""
    expected = hammered(source)
    for image, kind in zip(images, kinds):
        assert image.read_bytes() == expected, kind
    assert found["sums"].split() == [hashlib.md5(expected).hexdigest()] * len(kinds)


def test_large_sequential(ask, raw):
    """64 MiB read, copied and compared from outside, with large requests and past the page cache."""
    source = pattern(7, 64 * MIB)
    image = raw("copy", 64 * MIB)
    found = ask({"copy": "dd if=/dev/vda of=/dev/vdb bs=1M iflag=direct oflag=direct conv=fsync",
                 "sum": "md5sum /dev/vda | cut -d ' ' -f 1"},
                options=["--disk", f"path={raw('source', source)}", f"path={image}"])
    assert "64+0 records out" in found["copy"]
    assert found["sum"] == hashlib.md5(source).hexdigest()
    assert image.read_bytes() == source


@pytest.mark.parametrize("irqchip", ["split", "kernel"])
def test_interrupts_by_line(ask, raw, irqchip):
    """Without MSI a PCI device has a level line, shared, that each interrupt raises and the driver's read lowers."""
    source = pattern(5, 4 * MIB)
    image = raw("copy", 4 * MIB)
    found = ask({"copy": "dd if=/dev/vda of=/dev/vdb bs=64k iflag=direct oflag=direct conv=fsync 2>/dev/null; echo $?",
                 "sum": "md5sum /dev/vda | cut -d ' ' -f 1",
                 "msi": "grep -c MSI /proc/interrupts",
                 "lines": "grep virtio /proc/interrupts"},
                cmdline="pci=nomsi", options=["--machine", f"irqchip={irqchip}", "--cpus", "boot=2", "--disk",
                                              f"path={raw('source', source)}", f"path={image}"])
    assert (found["copy"], found["msi"]) == ("0", "0")
    assert found["sum"] == hashlib.md5(source).hexdigest()
    assert image.read_bytes() == source
    assert "IO-APIC" in found["lines"] and "fasteoi" in found["lines"]


def blocks(image):
    return os.stat(image).st_blocks * 512


def test_discard_frees_blocks(ask, raw, copy):
    image = raw("full", pattern(3, 32 * MIB))
    kept = raw("kept", pattern(4, 4 * MIB))
    root = copy("small.ext4")
    before = image.read_bytes()
    used, kept_used, root_used = blocks(image), blocks(kept), blocks(root)
    found = ask({
        "limits": "cat /sys/block/vd[abc]/queue/discard_max_bytes /sys/block/vd[abc]/queue/write_zeroes_max_bytes",
        "discard": "blkdiscard -o 8388608 -l 16777216 /dev/vda; echo $?",
        "kept": "blkdiscard /dev/vdb; echo $?",
        "trim": "mkdir -p /mnt && mount -t ext4 /dev/vdc /mnt && dd if=/dev/urandom of=/mnt/x bs=1M count=12 2>/dev/null "
                "&& sync && rm /mnt/x && sync && fstrim /mnt && umount /mnt && echo ok",
    }, options=["--disk", f"path={image}", f"path={kept},sparse=off", f"path={root}"])
    assert found["discard"] == "0" and found["trim"] == "ok"
    after = image.read_bytes()
    assert used - blocks(image) >= 15 * MIB
    assert after[:8 * MIB] == before[:8 * MIB] and after[24 * MIB:] == before[24 * MIB:]
    assert after[8 * MIB:24 * MIB] == bytes(16 * MIB)
    assert blocks(kept) >= kept_used, "sparse=off: nothing is given back"
    assert blocks(root) < root_used + 4 * MIB, "what was written and removed is given back"
    check_clean(root)


def flushes(path):
    """Flush requests that the host's own disk below `path` has got so far; None where that cannot be told."""
    device = os.stat(path).st_dev
    stat = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}/stat")
    fields = stat.read_text().split() if stat.exists() else []
    return int(fields[15]) if len(fields) > 15 else None


def test_flush_reaches_the_host(start, raw):
    image = raw("disk", 4 * MIB)
    counted = flushes(image)
    if counted is None:
        pytest.skip("the host's file system lies on no disk that counts flushes")
    with open(image, "r+b") as file:
        for n in range(4):
            os.pwrite(file.fileno(), b"x", n * 4096)
            os.fdatasync(file.fileno())
    if flushes(image) - counted < 4:
        pytest.skip("the host's file system does not pass a program's own flushes on to its disk")
    vm = start(script=sections({
        "cache": "cat /sys/block/vda/queue/write_cache",
        "write": "for i in $(seq 10); do dd if=/dev/zero of=/dev/vda bs=4k count=1 seek=$i conv=notrunc,fsync 2>/dev/null "
                 "|| echo failed; done",
    }), options=["--disk", f"path={image}"])
    before = flushes(image)
    vm.wait_ok()
    assert vm.results()["cache"] == "write back"
    assert vm.results()["write"] == ""
    assert flushes(image) - before >= 10


def test_a_write_beyond_the_hosts_limit_is_an_error(start, raw, folder):
    """RLIMIT_FSIZE, and so SIGXFSZ, which ends a program that does not look out: a guest's write is not to do that."""
    limited = folder / "limited"
    limited.write_text(f'#!/bin/sh\nexec prlimit --fsize={8 * MIB} -- {PROGRAM} "$@"\n')
    limited.chmod(0o755)
    image = raw("disk", 16 * MIB)
    write = "dd if=/dev/zero of=/dev/vda bs=4k count=1 seek={} conv=notrunc,fsync 2>/dev/null; echo $?"
    vm = start(script=sections({"inside": write.format(16), "beyond": write.format(3000), "again": write.format(17)}),
               program=limited, options=["--disk", f"path={image}"])
    assert vm.wait() == 0
    found = vm.results()
    assert vm.complaints().count("\n") == 1 and "File too large" in vm.complaints()
    assert (found["inside"], found["beyond"], found["again"]) == ("0", "1", "0")


def test_whole_root_on_a_read_only_disk(ask, copy):
    root = copy("small.ext4")
    before = hashlib.md5(root.read_bytes()).hexdigest()
    found = ask({"root": "grep ' / ' /proc/mounts", "touch": "touch /x || echo refused"}, root="/dev/vda",
                cmdline="varan.rootflags=ro,noload", options=["--disk", f"path={root},readonly=on"])
    assert found["root"].startswith("/dev/vda / ext4 ro")
    assert found["touch"].splitlines()[-1] == "refused"
    assert hashlib.md5(root.read_bytes()).hexdigest() == before


def test_queues_run_on_their_cpus(start, folder, raw):
    cpus = sorted(os.sched_getaffinity(0))
    affinity = f"[0@[{cpus[-1]}],1@[{cpus[0]}]]"
    guest = Guest(start, folder, ["--cpus", "boot=2", "--disk",
                                  f"path={raw('data', MIB)},serial=data,num_queues=2,queue_affinity={affinity}"])
    assert guest.run("appears data; dd if=/dev/$d of=/dev/null bs=64k iflag=direct 2>/dev/null || echo failed") == ""
    found = {(task / "comm").read_text().strip(): os.sched_getaffinity(int(task.name))
             for task in Path(f"/proc/{guest.vm.pid}/task").iterdir() if not (task / "comm").read_text().startswith("iou-")}
    assert (found["_disk0_q0"], found["_disk0_q1"]) == ({cpus[-1]}, {cpus[0]})
    guest.end()
