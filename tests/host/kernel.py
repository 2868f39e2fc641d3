# SPDX-License-Identifier: Apache-2.0
"""Debian's kernels: the package, its bzImage, the ELF kernel inside, and its modules with their dependencies."""
import shutil

import packages
import vmlinux
from paths import HERE
from steps import Step, run

FLAVOURS = {"cloud": "linux-image-cloud-amd64", "generic": "linux-image-amd64"}


def kernel_step(flavour):
    """Makes a folder with vmlinuz, vmlinux, config, modules/ (lib/modules/VERSION of the package) and manifest."""
    meta = FLAVOURS[flavour]

    def make(folder):
        deb, manifest = packages.download_kernel(meta, folder)
        root = folder / "root"
        run(["dpkg-deb", "-x", deb, root])
        (modules,) = (root / "lib" / "modules").iterdir()
        version = modules.name
        # The package leaves this to its post-installation script.
        run(["depmod", "-b", root, version])
        shutil.move(root / "boot" / f"vmlinuz-{version}", folder / "vmlinuz")
        shutil.move(root / "boot" / f"config-{version}", folder / "config")
        shutil.move(modules, folder / "modules")
        vmlinux.extract(folder / "vmlinuz", folder / "vmlinux")
        (folder / "version").write_text(version + "\n")
        (folder / "manifest").write_text(manifest)
        shutil.rmtree(root)
        deb.unlink()

    return Step(f"kernel-{flavour}", f"fetching Debian's {meta}, extracting its ELF kernel and modules",
                [meta, HERE / "kernel.py", HERE / "vmlinux.py"], make)
