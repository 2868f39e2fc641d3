# SPDX-License-Identifier: Apache-2.0
"""Where things are: the source tree, and the cache folder outside git that all built files go to."""
import os
from pathlib import Path

HERE = Path(__file__).resolve().parent
SOURCE = HERE.parent.parent
PACKAGE_LISTS = SOURCE / "tools" / "packages"


def cache():
    """The cache folder: $VARAN_CACHE, or `varan` in the user's cache folder."""
    if os.environ.get("VARAN_CACHE"):
        return Path(os.environ["VARAN_CACHE"]).absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "varan"


def guest_assets():
    """Kernels, initramfs and disk images of the guests, as built on this machine."""
    return cache() / "guest"
