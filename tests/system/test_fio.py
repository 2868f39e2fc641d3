# SPDX-License-Identifier: Apache-2.0
"""Disks of every format by every engine under fio, which reads again what it wrote: alone, trimmed, coming and going, growing,
and held back by rate limits."""
import errno
import hashlib
import shutil
import struct
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import fio
from test_disk import blocks, check_clean, pattern
from test_hotplug import SCRIPT, Guest
from test_images import qemu_img
from test_resize import GROWS
from vmm import bad_kernel_lines, sections

MIB = 1 << 20

# What qemu-img calls a format and its options, what --disk calls it, and whether `qemu-img check` knows it.
FORMATS = {
    "raw": ("raw", None, "raw", False),
    "qcow2": ("qcow2", None, "qcow2", True),
    "subclusters": ("qcow2", "extended_l2=on", "qcow2", True),
    "vhd": ("vpc", "subformat=dynamic,force_size=on", "vhd", False),
    "vhdx": ("vhdx", "subformat=dynamic,block_size=1M", "vhdx", True),
    "vmdk": ("vmdk", "subformat=monolithicSparse", "vmdk", True),
}
ENGINES = {"io_uring": "", "workers": ",_disable_io_uring=on,_disable_aio=on", "direct": ",direct=on"}


@pytest.fixture(scope="session")
def fio_disk():
    folder = Path(tempfile.mkdtemp(prefix="fio-"))
    yield fio.make_disk(folder / "fio.ext4")
    shutil.rmtree(folder)


def make_image(path, name, size, source=None):
    """A new image; with a raw `source`, it begins with what is in there."""
    kind, options, _, _ = FORMATS[name]
    words = ["-o", options] if options else []
    if source:
        qemu_img("convert", "-f", "raw", "-O", kind, *words, source, path)
    else:
        qemu_img("create", "-q", "-f", kind, *words, path, size)
    return path


def content(path, name):
    """What qemu-img finds in an image, which it also checks where it can."""
    kind, _, _, can_check = FORMATS[name]
    if can_check:
        qemu_img("check", "-f", kind, path)
    raw = path.with_name(path.name + ".flat")
    qemu_img("convert", "-f", kind, "-O", "raw", path, raw)
    data = raw.read_bytes()
    raw.unlink()
    return data


def n_written(data, old):
    """Bytes of the blocks that fio wrote, which begin with its mark, their length and their place. Between them all is as it
    was before."""
    at, found = 0, 0
    while at < len(data):
        magic, _, n_bytes, _, place = struct.unpack_from("<HHIQQ", data, at)
        is_written = (magic, place) == (fio.MAGIC, at) and n_bytes > 0
        if not is_written:
            n_bytes = 512
            assert data[at:at + n_bytes] == old[at:at + n_bytes], at
        found += n_bytes * is_written
        at += n_bytes
    return found


@pytest.mark.parametrize("n_queues, depth", [(1, 32), (4, 8)])
def test_verified(start, folder, raw, fio_disk, n_queues, depth):
    """Eighteen disks at a time, half written at random. As many jobs a disk as it has queues, each on a CPU of its own; their
    parts meet inside the formats' clusters. The guest's sums and qemu-img's are of the same bytes."""
    size, part = 6 * MIB, 4 * MIB // n_queues + 512
    old = pattern(11, 3 * MIB) + bytes(3 * MIB)
    source = raw("source", old)
    disks = {}
    for kind in FORMATS:
        new = make_image(folder / kind, kind, size, source)
        for engine in ENGINES:
            disks[f"{kind}.{engine}"] = Path(shutil.copy(new, folder / f"{kind}.{engine}"))
    letters = dict(zip(disks, "bcdefghijklmnopqrs"))
    job_file = fio.jobs({**fio.VERIFY, "bsrange": "512-64k", "iodepth": depth, "numjobs": n_queues, "offset": "1M", "size": part,
                         "io_size": part // 2, "offset_increment": part, "cpus_allowed": f"0-{n_queues - 1}",
                         "cpus_allowed_policy": "split"},
                        {name: {"filename": f"/dev/vd{letter}"} for name, letter in letters.items()})
    vm = start(script=fio.SCRIPT + fio.put("verify", job_file) + sections({
        "queues": "echo /sys/block/vd[b-s]/mq/* | wc -w",
        "fio": "run_fio verify",
        "report": "cat /run/verify.json",
        "sums": "md5sum /dev/vd[b-s]",
        "kernel": "dmesg",
    }), options=["--cpus", f"boot={n_queues}", "--disk", fio.option(fio_disk), *(
        f"path={path},image_type={FORMATS[name.split('.')[0]][2]}{ENGINES[name.split('.')[1]]},num_queues={n_queues}"
        for name, path in disks.items())])
    vm.wait_ok(400)
    found = vm.results()
    assert (found["queues"], found["fio"], bad_kernel_lines(found["kernel"])) == (str(n_queues * len(disks)), "", [])
    done = fio.report(found["report"])
    sums = dict(zip(disks, (line.split()[0] for line in found["sums"].splitlines())))
    with ThreadPoolExecutor(max_workers=2) as pool:
        contents = pool.map(lambda name: content(disks[name], name.split(".")[0]), disks)
    for name, data in zip(disks, contents):
        fio.check_written(done[name], part // 2 * n_queues)
        assert hashlib.md5(data).hexdigest() == sums[name], name
        assert len(data) == size and n_written(data, old) >= part // 2 * n_queues, name


class FioGuest(Guest):
    """A guest with fio. Its job files come with it; they name disks by /run/NAME, which attach() makes."""

    def __init__(self, start, folder, fio_disk, job_files, disks, **how):
        script = fio.SCRIPT + "".join(fio.put(name, text) for name, text in job_files.items())
        super().__init__(start, folder, ["--cpus", "boot=2", "--disk", fio.option(fio_disk), *disks], script=script + SCRIPT, **how)

    def attach(self, *names):
        """The guest has a disk with each serial number."""
        for name in names:
            assert self.run(f"appears {name}; ln -sf /dev/$d /run/{name}") == ""

    def report(self, name):
        return fio.report(self.run(f"cat /run/{name}.json"))


# In the background until it is stopped. What was written is read again soon; and it leaves some of the CPUs to others.
FOREVER = {"time_based": 1, "runtime": 900}
BUSY = {**fio.VERIFY, **FOREVER, "iodepth": 16, "size": "4M", "verify_backlog": 32, "rate_iops": 60}


def on(names):
    """A job for each of these disks of a FioGuest."""
    return {name: {"filename": f"/run/{name}"} for name in names}


def check_busy(job):
    """It did something, and found no fault."""
    assert job["error"] == 0 and job["write"]["total_ios"] > 32 and job["read"]["total_ios"] > 0, job


def test_trimmed(start, folder, raw, fio_disk):
    """File systems on a thin raw image and on a qcow2 one: what is removed in them is given back to the host (by qcow2 with the
    next flush), while fio writes to a file beside it and to another disk."""
    source = raw("source", 64 * MIB)
    subprocess.run(["mke2fs", "-q", "-t", "ext4", "-E", "nodiscard,lazy_itable_init=0", source], check=True)
    images = {kind: make_image(folder / kind, kind, 0, source) for kind in ("raw", "qcow2")}
    busy = fio.jobs(BUSY, {**on(["other"]), **{kind: {"filename": f"/mnt/{kind}/busy"} for kind in images}})
    guest = FioGuest(start, folder, fio_disk, {"busy": busy}, [
        f"path={raw('other', 8 * MIB)},serial=other",
        *(f"path={path},image_type={kind},serial={kind},num_queues=2" for kind, path in images.items())])
    guest.attach("other", *images)
    assert guest.run("for k in raw qcow2; do mkdir -p /mnt/$k; mount -t ext4 /run/$k /mnt/$k || echo failed; done") == ""
    guest.run("start_fio busy; d=$(disk qcow2); is_busy; d=$(disk raw); is_busy")
    assert guest.run("for k in raw qcow2; do for f in removed kept; do "
                     "dd if=/dev/$(disk fio) of=/mnt/$k/$f bs=1M count=16 conv=fsync 2>/dev/null || echo failed; done; done") == ""
    full = {kind: blocks(path) for kind, path in images.items()}
    assert guest.run("rm /mnt/*/removed; sync; for k in raw qcow2; do fstrim /mnt/$k || echo failed; done; stop_fio busy") == ""
    for job in guest.report("busy").values():
        check_busy(job)
    sums = guest.run("umount /mnt/*; for k in raw qcow2; do mount -t ext4 -o ro /run/$k /mnt/$k; md5sum </mnt/$k/kept; done; "
                     "umount /mnt/*")
    trimmed = {kind: blocks(path) for kind, path in images.items()}
    with open(fio_disk, "rb") as file:
        assert sums.split()[::2] == [hashlib.md5(file.read(16 * MIB)).hexdigest()] * 2
    guest.check_kernel()
    guest.end()
    for kind, path in images.items():
        assert full[kind] >= 36 * MIB and trimmed[kind] <= full[kind] - 15 * MIB, (kind, full, trimmed)
        check_clean(raw("flat", content(path, kind)))


HOT = ("qcow2", "vhdx", "raw")


def test_come_and_go(start, folder, raw, fio_disk):
    """Disks of three formats come, are written and go, while fio keeps another one busy; then they go under fio. Whatever has
    gone is nobody's any more, and sound."""
    part = 4 * MIB
    images = {kind: make_image(folder / kind, kind, 16 * MIB) for kind in HOT}
    common = {"size": part, "iodepth": 16}
    guest = FioGuest(start, folder, fio_disk, {
        "busy": fio.jobs(BUSY, on(["other"])),
        "once": fio.jobs({**fio.VERIFY, **common, "offset": "1M"}, on(HOT)),
        "under": fio.jobs({**fio.PLAIN, **common, **FOREVER, "rw": "randrw", "offset": "8M"}, on(HOT)),
    }, [f"path={raw('other', 8 * MIB)},serial=other"])
    guest.attach("other")
    guest.run("start_fio busy; d=$(disk other); is_busy")

    def add():
        for kind, path in images.items():
            guest.put("vm.add-disk", {"path": str(path), "id": kind, "serial": kind, "image_type": FORMATS[kind][0].capitalize(),
                                      "num_queues": 2}, 200)
        guest.attach(*HOT)

    def remove(n):
        for kind in HOT:
            guest.put("vm.remove-device", {"id": kind})
        guest.wait_removed(n)
        assert guest.run(f"for k in {' '.join(HOT)}; do leaves $k; done") == ""

    add()
    assert guest.run("run_fio once") == ""
    for job in guest.report("once").values():
        fio.check_written(job, part)
    sums = dict(zip(HOT, guest.run("for k in qcow2 vhdx raw; do md5sum </run/$k; done").split()[::2]))
    for kind, path in images.items():
        done = subprocess.run(["qemu-io", "-f", kind, "-c", "read 0 512", path], capture_output=True, text=True, check=False)
        assert done.returncode != 0 and "lock" in done.stderr, done
    remove(3)
    written = {kind: content(path, kind) for kind, path in images.items()}
    assert {kind: hashlib.md5(data).hexdigest() for kind, data in written.items()} == sums
    add()
    guest.run("start_fio under; for k in qcow2 vhdx raw; do d=$(disk $k); is_busy; done")
    remove(6)
    assert "status" in guest.run("wait_fio under")
    errors = {kind: job["error"] for kind, job in guest.report("under").items()}
    # ENOSPC: one that has gone has no sectors.
    assert set(errors.values()) <= {errno.EIO, errno.ENODEV, errno.ENXIO, errno.ENOSPC}, (errors, guest.run("cat /run/under.said"))
    for kind, path in images.items():
        data = content(path, kind)
        assert data[:8 * MIB] == written[kind][:8 * MIB] and data[12 * MIB:] == written[kind][12 * MIB:], kind
        assert data[8 * MIB:12 * MIB] != bytes(4 * MIB), kind
    assert guest.run("stop_fio busy") == ""
    check_busy(guest.report("busy")["other"])
    guest.check_kernel()
    guest.end()


def test_grown(start, folder, raw, fio_disk):
    """Larger while fio writes and reads; then another one does so over what was the end before."""
    sizes = (8 * MIB, 24 * MIB, 40 * MIB + 512)
    images = {kind: make_image(folder / kind, kind, sizes[0], raw("source", sizes[0])) for kind in ("raw", "qcow2")}
    new = {f"over{end}": fio.jobs({**fio.VERIFY, "iodepth": 16, "offset": end - 2 * MIB, "size": "4M"}, on(images))
           for end in sizes[:-1]}
    guest = FioGuest(start, folder, fio_disk, {"busy": fio.jobs(BUSY, on(images)), **new}, [
        f"path={path},image_type={kind},serial={kind},id={kind},num_queues=2" for kind, path in images.items()])
    guest.run(GROWS)
    guest.attach(*images)
    guest.run("start_fio busy")
    for end, size in zip(sizes, sizes[1:]):
        guest.run("for k in raw qcow2; do d=$(disk $k); is_busy; done")
        for kind in images:
            guest.put("vm.resize-disk", {"id": kind, "desired_size": size})
            assert guest.run(f"grows {kind} {size // 512}") == ""
        assert guest.run(f"run_fio over{end}") == ""
        for job in guest.report(f"over{end}").values():
            fio.check_written(job, 4 * MIB)
    assert guest.run("stop_fio busy") == ""
    for job in guest.report("busy").values():
        check_busy(job)
    sums = guest.run("md5sum </run/raw; md5sum </run/qcow2").split()[::2]
    guest.check_kernel()
    guest.end()
    for kind, total in zip(images, sums):
        data = content(images[kind], kind)
        assert len(data) == sizes[-1] and hashlib.md5(data).hexdigest() == total, kind


def check_rate(name, amount, per_second, burst, seconds):
    """Never more than was allowed; less only as far as a busy machine cannot keep up."""
    assert amount <= (per_second * seconds + burst) * 1.01, (name, amount)
    assert amount >= per_second * seconds * 0.4, (name, amount)


def test_rates(ask, raw, fio_disk):
    """Bytes, operations, with a burst at first, and a group of two, for ten seconds at the same time."""
    limits = {"bytes": "bw_size=262144,bw_refill_time=250", "ops": "ops_size=6,ops_refill_time=200,num_queues=2",
              "burst": "bw_size=131072,bw_refill_time=250,bw_one_time_burst=2097152",
              "first": "rate_limit_group=both", "second": "rate_limit_group=both"}
    jobs = {name: {"filename": f"/dev/vd{letter}", "rw": "randread" if name in ("bytes", "second") else "randwrite",
                   "bs": "4k" if name == "ops" else "64k"} for name, letter in zip(limits, "bcdef")}
    common = {**fio.PLAIN, "iodepth": 8, "time_based": 1, "runtime": 10}
    del common["bsrange"]
    found = ask({"fio": fio.SCRIPT + fio.put("rates", fio.jobs(common, jobs)) + "sleep 1; run_fio rates",
                 "report": "cat /run/rates.json"}, options=[
        "--cpus", "boot=2", "--rate-limit-group", "id=both,bw_size=131072,bw_refill_time=125", "--disk", fio.option(fio_disk),
        *(f"path={raw(name, 16 * MIB)},{limit}" for name, limit in limits.items())])
    assert found["fio"] == ""
    done = {name: job[jobs[name]["rw"].removeprefix("rand")] for name, job in fio.report(found["report"]).items()}
    took = {name: part["runtime"] / 1000 for name, part in done.items()}
    check_rate("bytes", done["bytes"]["io_bytes"], MIB, MIB // 4, took["bytes"])
    check_rate("burst", done["burst"]["io_bytes"], MIB // 2, MIB // 8 + 2 * MIB, took["burst"])
    check_rate("ops", done["ops"]["total_ios"], 30, 6, took["ops"])
    check_rate("group", done["first"]["io_bytes"] + done["second"]["io_bytes"], MIB, MIB // 8, max(took["first"], took["second"]))
