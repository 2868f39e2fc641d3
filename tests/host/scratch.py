# SPDX-License-Identifier: Apache-2.0
"""The disk that tests may write to: /scratch in the emulated host, with O_DIRECT and discard, which a tmpfs has not.

Every session gets a copy of one empty file system; the copy is sparse, so it costs what is written to it.
"""
from machine import SCRATCH_BYTES
from paths import HERE
from steps import Step, run


def extend(path, size):
    """Makes a file at least `size` long, without writing to it."""
    with open(path, "ab") as file:
        file.truncate(size)


def step():
    def make(folder):
        extend(folder / "scratch", SCRATCH_BYTES)
        # Without a journal ext4 does not pass the flushes of programs on; a small one will do.
        run(["mke2fs", "-q", "-t", "ext4", "-m", 0, "-N", 65536, "-J", "size=8", "-L", "scratch",
             "-E", "lazy_itable_init=1,lazy_journal_init=1", folder / "scratch"])

    return Step("scratch", "making the empty scratch disk", [SCRATCH_BYTES, HERE / "scratch.py"], make)
