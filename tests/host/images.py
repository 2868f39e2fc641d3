# SPDX-License-Identifier: Apache-2.0
"""File-system images and initial RAM file systems, made from folders without mounting anything."""
import os
from pathlib import Path

import cpio
import modules
from steps import run

BLOCK = 4096
BUSYBOX = Path("/bin/busybox")


def ext4(image, folder, label, spare_mib, has_journal=False):
    """An ext4 image with the contents of `folder` and `spare_mib` of room."""
    used, inodes = 0, 0
    for top, folders, files in os.walk(folder):
        for name in folders + files:
            status = os.lstat(os.path.join(top, name))
            # A sparse file costs what it holds; every file costs an inode, every folder a block.
            used += -(-min(status.st_size, status.st_blocks * 512) // BLOCK) * BLOCK + BLOCK // 4
            inodes += 1
    inodes += 256 * spare_mib
    size = used + used // 50 + inodes * 256 + (spare_mib + 2) * 2**20
    run(["mke2fs", "-q", "-t", "ext4", "-b", BLOCK, "-m", 0, "-N", inodes, "-L", label, "-d", folder,
         "-O", ("" if has_journal else "^") + "has_journal,^resize_inode", "-E", "lazy_itable_init=0", image, f"{size // 2**20 + 1}M"])


def initramfs(kernel, wanted, files, links=()):
    """The bytes of an initramfs: busybox, the wanted modules of one kernel in load order, `files` and symbolic `links`.

    `files` is a list of (name, bytes, mode), `links` one of (name, target). /modules.list names the modules in the order in which to insert them.
    """
    archive = cpio.Archive()
    folders = {"bin", "dev", "proc", "sys", "modules", "newroot", "root", "tmp", "run"}
    folders |= {str(parent) for name, _, _ in files for parent in Path(name).parents if parent.name}
    for name in sorted(folders):  # a folder sorts before what is in it
        archive.folder(name)
    archive.device("dev/console", 5, 1)  # the kernel opens it for /init before devtmpfs is mounted
    archive.device("dev/null", 1, 3)
    archive.file("bin/busybox", BUSYBOX.read_bytes(), 0o755)
    archive.link("bin/sh", "busybox")
    order = modules.load_order(kernel / "modules", wanted)
    for path in order:
        archive.file("modules/" + Path(path).name.removesuffix(".xz"), modules.read(kernel / "modules", path))
    archive.file("modules.list", "".join(Path(p).name.removesuffix(".xz") + "\n" for p in order).encode())
    for name, data, mode in files:
        archive.file(name, data, mode)
    for name, target in links:
        archive.link(name, target)
    return archive.bytes()
