# SPDX-License-Identifier: Apache-2.0
"""Disks to measure with, on storage that costs nothing but instructions: a null block device that keeps what is written in
memory, completes each request by an interrupt, and has ext4 on it, so that files and O_DIRECT are what they are on an SSD."""
import os
import subprocess
from contextlib import contextmanager
from pathlib import Path

CONFIG = Path("/sys/kernel/config/nullb")
MIB = 1 << 20


def _run(*words):
    subprocess.run([str(word) for word in words], check=True, stdout=subprocess.DEVNULL)


@contextmanager
def storage(folder, mib, completion_ns):
    """Mounts the device at `folder`. completion_ns: 0 completes from a soft interrupt, else by a timer that late."""
    _run("modprobe", "null_blk", "nr_devices=0")
    if not CONFIG.parent.joinpath("nullb").exists():
        _run("mount", "-t", "configfs", "configfs", CONFIG.parent)
    device = CONFIG / "nullb0"  # older kernels count, newer ones take the folder's name
    device.mkdir()
    try:
        settings = {"size": mib, "memory_backed": 1, "blocksize": 512, "hw_queue_depth": 256, "queue_mode": 2,
                    "irqmode": 2 if completion_ns else 1, "completion_nsec": completion_ns or 10000, "discard": 1, "power": 1}
        for name, value in settings.items():
            device.joinpath(name).write_text(str(value))
        path = f"/dev/{device.name}"
        _run("mke2fs", "-q", "-t", "ext4", "-m", 0, "-O", "^has_journal", "-E", "lazy_itable_init=0", path)
        folder.mkdir()
        _run("mount", path, folder)
        try:
            yield folder
        finally:
            _run("umount", folder)
    finally:
        device.joinpath("power").write_text("0")
        device.rmdir()


def image(path, kind, mib):
    """Every block is written, in file and image, with bytes that are not zero."""
    if kind == "raw":
        with open(path, "wb") as file:
            for _ in range(mib):
                file.write(b"\x5a" * MIB)
            os.fsync(file.fileno())
        return
    _run("qemu-img", "create", "-q", "-f", kind, path, f"{mib}M")
    _run("qemu-io", "-f", kind, "-c", f"write -P 0x5a 0 {mib}M", "-c", "flush", path)
