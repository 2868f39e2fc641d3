# SPDX-License-Identifier: Apache-2.0
"""What guests (L2) boot from: two kernels, an initramfs for each, a small busybox root and a whole Debian.

    cloud/ generic/   vmlinuz (bzImage), vmlinux (ELF, has a PVH note), initramfs, config, version; pmem.modules: what an
                      initramfs gets for persistent memory, in the order of its /modules.pmem
    small.ext4        busybox; the same /sbin/init as in the initramfs
    debian.ext4       systemd, a login prompt on each console; user root, password varan
    manifest          packages, versions, sha256 of the kernels
"""
import os
import shutil

import images
from paths import HERE
from steps import Step, run

MODULES = ("virtio_pci", "virtio_mmio", "virtio_blk", "virtio_console", "virtio_rng", "ext4", "crc32c_generic", "button", "evdev")
# What few tests need, as archives of their own: each module costs every guest that loads it its time.
EXTRA_MODULES = {"pmem": ("virtio_pmem", "nd_pmem")}
SCRIPTS = {"sbin/init": "init", "etc/profile": "profile", "etc/acpi/PWRF/00000080": "power-button"}


def _scripts():
    return [(name, (HERE / "guest" / source).read_bytes(), 0o755) for name, source in SCRIPTS.items()]


def _make_small_root(folder):
    root = folder / "root"
    for name in ("bin", "sbin", "etc/acpi/PWRF", "dev", "proc", "sys", "run", "tmp", "root", "newroot"):
        (root / name).mkdir(parents=True)
    shutil.copy(images.BUSYBOX, root / "bin" / "busybox")
    for applet in run([images.BUSYBOX, "--list"]).decode().split():
        if applet != "busybox":
            (root / "bin" / applet).symlink_to("busybox")
    (root / "etc" / "inittab").symlink_to("/run/inittab")
    for name, data, mode in _scripts():
        (root / name).write_bytes(data)
        os.chmod(root / name, mode)
    images.ext4(folder / "small.ext4", root, "guest-small", spare_mib=20)
    shutil.rmtree(root)


def assets_step(kernels, debian):
    def make(folder):
        manifest = ""
        for name, kernel in kernels.items():
            (folder / name).mkdir()
            for file in ("vmlinuz", "vmlinux", "config", "version"):
                shutil.copy(kernel.folder / file, folder / name / file)
            first = ("init", (HERE / "guest" / "initramfs-init").read_bytes(), 0o755)
            initramfs = images.initramfs(kernel.folder, MODULES, [first, *_scripts()],
                                         links=[("etc/inittab", "/run/inittab")])
            (folder / name / "initramfs").write_bytes(initramfs)
            for extra, wanted in EXTRA_MODULES.items():
                (folder / name / f"{extra}.modules").write_bytes(images.more_modules(kernel.folder, extra, wanted, MODULES))
            manifest += (kernel.folder / "manifest").read_text()
        (folder / "manifest").write_text(manifest)
        _make_small_root(folder)
        os.link(debian.folder / "debian.ext4", folder / "debian.ext4")

    return Step("guest", "making initramfs and disk images of the guests",
                [*kernels.values(), debian, images.BUSYBOX, *sorted((HERE / "guest").iterdir()), HERE / "guest.py",
                 HERE / "images.py", HERE / "modules.py", HERE / "cpio.py"], make)


def image_step(assets):
    """The same folder as a disk image: /guest in the emulated host."""

    def make(folder):
        images.ext4(folder / "guest.ext4", assets.folder, "guest", spare_mib=1)

    return Step("guest-image", "packing the guests' files for the emulated host", [assets, HERE / "images.py"], make)
