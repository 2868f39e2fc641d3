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


def _add_modules(archive, kernel, list_name, order):
    """The modules, and a file that names them in the order in which to insert them."""
    names = [Path(path).name.removesuffix(".xz") for path in order]
    for name, path in zip(names, order):
        archive.file("modules/" + name, modules.read(kernel / "modules", path))
    archive.file(list_name, "".join(name + "\n" for name in names).encode())


def more_modules(kernel, name, wanted, present):
    """An archive to put behind an initramfs that has the modules `present`: those that `wanted` needs besides, and
    /modules.NAME that lists them."""
    have = modules.load_order(kernel / "modules", present)
    archive = cpio.Archive()
    _add_modules(archive, kernel, f"modules.{name}", [path for path in modules.load_order(kernel / "modules", wanted)
                                                      if path not in have])
    return archive.bytes()


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
    _add_modules(archive, kernel, "modules.list", modules.load_order(kernel / "modules", wanted))
    for name, data, mode in files:
        archive.file(name, data, mode)
    for name, target in links:
        archive.link(name, target)
    return archive.bytes()
