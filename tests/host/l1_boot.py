# SPDX-License-Identifier: Apache-2.0
"""Kernel and initrd of the emulated host (L1)."""
import shutil

import images
from paths import HERE
from steps import Step

INITRD_MODULES = ("virtio_pci", "virtio_blk", "virtio_console", "ext4", "overlay")


def boot_step(kernel):
    """vmlinux and initrd. What changes often (init, agent) is in here, so that a change costs no new root."""
    agent = [HERE / "agent.py", HERE / "wire.py", HERE / "steady.py"]
    scripts = [HERE / "l1" / "initrd-init", HERE / "l1" / "init"]

    def make(folder):
        shutil.copy(kernel.folder / "vmlinux", folder / "vmlinux")
        files = [("init", scripts[0].read_bytes(), 0o755), ("host-init", scripts[1].read_bytes(), 0o755)]
        files += [(path.name, path.read_bytes(), 0o644) for path in agent]
        (folder / "initrd").write_bytes(images.initramfs(kernel.folder, INITRD_MODULES, files))

    return Step("l1-boot", "making the initrd of the emulated host",
                [kernel, *agent, *scripts, images.BUSYBOX, HERE / "images.py", HERE / "modules.py", HERE / "cpio.py",
                 HERE / "l1_boot.py"], make)
