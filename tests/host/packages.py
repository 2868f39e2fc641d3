# SPDX-License-Identifier: Apache-2.0
"""Debian packages: the lists in tools/packages, downloads through apt (which verifies signatures), and debootstrap."""
import hashlib
import re
import subprocess

from paths import PACKAGE_LISTS
from steps import run

SUITE = "bookworm"


def list_path(name):
    return PACKAGE_LISTS / f"{name}.txt"


def read_list(name):
    """The package names of one list: the first word of each line."""
    lines = list_path(name).read_text().splitlines()
    return [line.split()[0] for line in lines if line.strip() and not line.startswith("#")]


def _kernel_behind(meta):
    """The real package behind a meta package: linux-image-amd64 -> linux-image-6.1.0-N-amd64."""
    text = subprocess.run(["apt-cache", "show", "--no-all-versions", meta], capture_output=True, text=True).stdout
    found = re.search(r"^Depends:.*?(linux-image-[0-9][^ ,]*)", text, re.M)
    return found and found.group(1)


def download_kernel(meta, folder):
    """Fetches the kernel behind a meta package. Returns its path and a manifest line: name, version, sha256."""
    # apt's lists may be missing on a fresh machine, or name a version that the mirror no longer has.
    for is_last in (False, True):
        package = _kernel_behind(meta)
        # Root's apt would give up its rights to a user who cannot write to our cache, and warn about it.
        fetch = ["apt-get", "-o", "APT::Sandbox::User=root", "download", package or meta]
        if package and (is_last or subprocess.run(fetch, cwd=folder, capture_output=True).returncode == 0):
            break
        run(["apt-get", "update"])
    if is_last:
        run(fetch, cwd=folder)
    (path,) = folder.glob("*.deb")
    version = run(["dpkg-deb", "-f", path, "Version"]).decode().strip()
    return path, f"{package} {version} {hashlib.sha256(path.read_bytes()).hexdigest()}\n"


def mirror():
    """The archive that this machine's apt uses for Debian's suite, so that local mirrors keep working."""
    ask = ["apt-get", "indextargets", "--format", "$(REPO_URI) $(CODENAME) $(COMPONENT)", "Created-By: Packages"]
    for line in subprocess.run(ask, capture_output=True, text=True).stdout.splitlines():
        uri, codename, component = line.split()
        if (codename, component) == (SUITE, "main") and "security" not in uri:
            return uri
    return "http://deb.debian.org/debian"


def debootstrap(folder, packages):
    """A minimal Debian with `packages` in `folder`, without what only people at a keyboard read."""
    run(["debootstrap", "--variant=minbase", f"--include={','.join(packages)}", SUITE, folder, mirror()])
    for waste in ("var/cache/apt", "var/lib/apt/lists", "usr/share/doc", "usr/share/man", "usr/share/info",
                  "usr/share/locale", "usr/share/i18n", "debootstrap"):
        run(["rm", "-rf", "--", folder / waste])
        if waste.startswith("var/"):
            (folder / waste).mkdir()
