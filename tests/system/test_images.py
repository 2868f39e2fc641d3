# SPDX-License-Identifier: Apache-2.0
"""Disk images of every format under a real guest, made and judged by qemu-img: what the guest wrote is in them, they are
sound, and what they are based on is as it was."""
import hashlib
import subprocess
from pathlib import Path

import pytest

from test_disk import HAMMER, MIB, check_clean, hammered, pattern
from vmm import sections

# What qemu-img calls it, its options, what our --disk says of it; whether `qemu-img check` knows it.
FORMATS = {
    "qcow2": ("qcow2", "", "", True),
    "qcow2-small": ("qcow2", "cluster_size=4096,lazy_refcounts=on", ",image_type=qcow2", True),
    "qcow2-subclusters": ("qcow2", "extended_l2=on", "", True),
    "vhd": ("vpc", "subformat=dynamic,force_size=on", ",image_type=vhd", False),
    "vhdx": ("vhdx", "subformat=dynamic", "", True),
    "vmdk": ("vmdk", "subformat=monolithicSparse", "", True),
}


def qemu_img(*words):
    done = subprocess.run(["qemu-img", *map(str, words)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, (words, done.stdout, done.stderr)
    return done.stdout


@pytest.fixture
def image(folder):
    """image(name of FORMATS, bytes or size): a new image."""

    def make(name, content):
        kind, options, _, _ = FORMATS[name]
        path = folder / f"{name}.img"
        if isinstance(content, int):
            qemu_img("create", "-q", "-f", kind, *(["-o", options] if options else []), path, content)
        else:
            raw = folder / f"{name}.source"
            raw.write_bytes(content)
            qemu_img("convert", "-f", "raw", "-O", kind, *(["-o", options] if options else []), raw, path)
            raw.unlink()
        return path

    return make


def judge(path, name, content, folder):
    kind, _, _, can_check = FORMATS[name]
    if can_check:
        qemu_img("check", "-f", kind, path)
    raw = folder / "expected"
    raw.write_bytes(content)
    qemu_img("compare", "-f", kind, "-F", "raw", path, raw)


def test_parallel_io(ask, raw, image, folder):
    """Four vCPUs at random places of every format, one queue each and four; what arrives is compared outside. The other
    engines: test_fio.py."""
    source = pattern(7, 24 * MIB)
    images = {name: image(name, 16 * MIB) for name in FORMATS}
    letters = "bcdefg"
    found = ask({
        "hammer": HAMMER.replace("DISKS", " ".join(f"/dev/vd{letter}" for letter in letters)),
        "sums": f"echo 3 >/proc/sys/vm/drop_caches; md5sum {' '.join(f'/dev/vd{letter}' for letter in letters)} | cut -d ' ' -f 1",
        "errors": "dmesg | grep -i error",
    }, options=["--cpus", "boot=4", "--disk", f"path={raw('source', source)},readonly=on",
                *(f"path={path}{FORMATS[name][2]},num_queues={4 if n % 2 else 1}"
                  for n, (name, path) in enumerate(images.items()))])
    expected = hammered(source)
    assert found["hammer"] == found["errors"] == ""
    assert found["sums"].split() == [hashlib.md5(expected).hexdigest()] * len(images)
    for name, path in images.items():
        judge(path, name, expected, folder)


def test_root_on_an_overlay(ask, copy, folder):
    """A file system's life on a thin image over one that stays as it was; what is trimmed is given back."""
    base = copy("small.ext4")
    before = hashlib.md5(base.read_bytes()).hexdigest()
    overlay = folder / "overlay.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", "-b", base, "-F", "raw", overlay)
    disk = ["--disk", f"path={overlay},image_type=qcow2,backing_files=on"]
    write = ask({
        "root": "grep ' / ' /proc/mounts",
        "write": "mkdir /new && cd /new && for i in $(seq 200); do echo number $i >file$i; done && "
                 "dd if=/dev/urandom of=large bs=64k count=48 2>/dev/null",
        "sum": "cd /new && cat file* large | md5sum",
    }, root="/dev/vda", options=disk)
    assert write["root"].startswith("/dev/vda / ext4 rw") and write["write"] == ""
    read = ask({"sum": "cd /new && cat file* large | md5sum", "free": "rm -r /new; sync; fstrim / || echo failed"},
               root="/dev/vda", options=disk)
    assert read["sum"] == write["sum"] and read["free"] == ""
    qemu_img("check", "-f", "qcow2", overlay)
    assert hashlib.md5(base.read_bytes()).hexdigest() == before
    flat = folder / "flat.ext4"
    qemu_img("convert", "-f", "qcow2", "-O", "raw", overlay, flat)
    check_clean(flat)


def test_discards_shrink_an_image(ask, image):
    path = image("qcow2", 32 * MIB)
    ask({"fill": "dd if=/dev/urandom of=/dev/vda bs=1M 2>/dev/null; sync"}, options=["--disk", f"path={path}"])
    full = Path(path).stat().st_blocks * 512
    found = ask({"discard": "blkdiscard /dev/vda || echo failed", "read": "md5sum </dev/vda"}, options=["--disk", f"path={path}"])
    assert found["discard"] == ""
    assert found["read"].split()[0] == hashlib.md5(bytes(32 * MIB)).hexdigest()
    assert full >= 32 * MIB and Path(path).stat().st_blocks * 512 < MIB
    qemu_img("check", "-f", "qcow2", path)


def refused(start, disk):
    vm = start(script=sections({"x": "true"}), options=["--disk", disk])
    assert vm.wait() == 1
    return vm.stderr()


def test_what_may_not_be_opened(start, image, folder, raw):
    base = image("qcow2", 4 * MIB)
    overlay = folder / "overlay.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", "-b", base, "-F", "qcow2", overlay)
    assert "backing_files" in refused(start, f"path={overlay}")
    assert "qcow2" in refused(start, f"path={raw('plain', MIB)},image_type=qcow2")
    cut = folder / "cut.qcow2"
    cut.write_bytes(base.read_bytes()[:200])
    assert str(cut) in refused(start, f"path={cut}")


def test_a_guest_cannot_make_a_raw_disk_look_like_another(start, raw, image):
    """Found to be raw by its bytes, not said to be: the first sector takes nothing that would be found to be something else
    next time."""
    header = image("qcow2", 4 * MIB).read_bytes()[:512]
    found, said = raw("found", 4 * MIB), raw("said", 4 * MIB)
    vm = start(script=sections({
        "found": "dd if=/dev/vdc of=/dev/vda bs=512 count=1 conv=notrunc,fsync 2>/dev/null; echo $?",
        "other": "echo text | dd of=/dev/vda bs=512 conv=sync,fsync 2>/dev/null; echo $?",
        "said": "dd if=/dev/vdc of=/dev/vdb bs=512 count=1 conv=notrunc,fsync 2>/dev/null; echo $?",
    }), options=["--disk", f"path={found}", f"path={said},image_type=raw", f"path={raw('header', header)},image_type=raw"])
    assert vm.wait() == 0
    result = vm.results()
    assert vm.complaints().count("\n") == 1 and "I/O error: type 1, offset 0" in vm.complaints()
    assert (result["found"], result["other"], result["said"]) == ("1", "0", "0")
    assert found.read_bytes()[:4] == b"text" and said.read_bytes()[:512] == header
