# SPDX-License-Identifier: Apache-2.0
"""The whole Debian guest: systemd, and a login prompt on each console. User root, password varan."""
import shutil

import images
import packages
from paths import HERE
from steps import Step, run

PASSWORD = "varan"


def debian_step():
    def make(folder):
        root = folder / "root"
        packages.debootstrap(root, packages.read_list("guest-root"))
        (root / "etc" / "hostname").write_text("guest\n")
        (root / "etc" / "hosts").write_text("127.0.0.1 localhost guest\n::1 localhost\n")
        # The disk is mounted before systemd starts, whatever its name.
        (root / "etc" / "fstab").write_text("# The root file system is mounted by the initramfs.\n")
        run(["sh", "-c", f"echo root:{PASSWORD} | chroot '{root}' chpasswd"])
        # Timers that would look for updates.
        units = root / "etc" / "systemd" / "system"
        for unit in ("apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "e2scrub_all.timer"):
            (units / unit).symlink_to("/dev/null")
        images.ext4(folder / "debian.ext4", root, "guest-debian", spare_mib=96, has_journal=True)
        shutil.rmtree(root)

    return Step("guest-debian", "building the whole Debian guest",
                [packages.list_path("guest-root"), HERE / "packages.py", HERE / "images.py", HERE / "guest_debian.py"], make)
