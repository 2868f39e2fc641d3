# SPDX-License-Identifier: Apache-2.0
"""The Debian root image of the emulated host (L1)."""
import shutil

import images
import packages
from paths import HERE
from steps import Step


def root_step(kernel):
    """root.ext4: Debian with the tools that tests need, and all modules of the kernel."""

    def make(folder):
        root = folder / "root"
        packages.debootstrap(root, packages.read_list("host-root"))
        version = (kernel.folder / "version").read_text().strip()
        shutil.copytree(kernel.folder / "modules", root / "lib" / "modules" / version)
        (root / "etc" / "hostname").write_text("varan-host\n")
        (root / "etc" / "hosts").write_text("127.0.0.1 localhost varan-host\n::1 localhost\n")
        (root / "guest").mkdir()
        images.ext4(folder / "root.ext4", root, "varan-host", spare_mib=8)
        shutil.rmtree(root)

    return Step("l1-root", "building the Debian root of the emulated host",
                [kernel, packages.list_path("host-root"), HERE / "packages.py", HERE / "images.py", HERE / "l1_root.py"], make)
