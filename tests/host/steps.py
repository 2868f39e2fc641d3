# SPDX-License-Identifier: Apache-2.0
"""Build steps that are skipped when their inputs have not changed.

A step makes one folder in the cache. It builds into `NAME.new` and renames at the end, so a folder that is there is whole.
Its stamp holds the hash of everything that went in: files by content, other inputs as text, earlier steps by their stamp.
"""
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

from paths import cache


def say(text):
    """Progress goes to standard error: standard output belongs to the command that a user asked for."""
    print(f"host: {text}", file=sys.stderr, flush=True)


def run(argv, **more):
    """Runs a program. Its output is shown only if it fails."""
    done = subprocess.run([str(a) for a in argv], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, **more)
    if done.returncode != 0:
        sys.stderr.buffer.write(done.stdout[-8000:])
        raise SystemExit(f"host: `{' '.join(str(a) for a in argv)}` failed with status {done.returncode}")
    return done.stdout


class Step:
    def __init__(self, name, why, inputs, make):
        """`inputs`: Path (hashed by content), Step (by its stamp) or text. `make(folder)` fills a new folder."""
        self.name, self.why, self.inputs, self.make = name, why, inputs, make
        self.folder = cache() / name

    def hash(self):
        digest = hashlib.sha256()
        for item in self.inputs:
            if isinstance(item, Step):
                text = item.hash()
            elif isinstance(item, Path):
                text = hashlib.sha256(item.read_bytes()).hexdigest()
            else:
                text = str(item)
            digest.update(text.encode() + b"\0")
        return digest.hexdigest()

    def _stamp(self):
        return cache() / "stamps" / self.name

    def is_fresh(self):
        try:
            return self.folder.is_dir() and self._stamp().read_text() == self.hash()
        except FileNotFoundError:
            return False

    def build(self):
        if self.is_fresh():
            return
        say(f"{self.name}: {self.why} ...")
        begin = time.monotonic()
        new = self.folder.with_name(self.name + ".new")
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(parents=True)
        self.make(new)
        self._stamp().parent.mkdir(exist_ok=True)
        self._stamp().unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)
        os.rename(new, self.folder)
        self._stamp().write_text(self.hash())
        say(f"{self.name}: done in {time.monotonic() - begin:.0f} s")


@contextmanager
def build_lock():
    """One builder at a time in one cache: a second one waits, and then finds everything done."""
    cache().mkdir(parents=True, exist_ok=True)
    with open(cache() / "lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another build of the host is running: waiting for it ...")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
