# SPDX-License-Identifier: Apache-2.0
"""Puts the pieces together: builds what is missing, starts a machine (from a snapshot, if it can), runs one command."""
import fcntl
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path

import guest
import guest_debian
import kernel
import l1_boot
import l1_root
import scratch
import session
import terminal
from machine import CMDLINE, MEMORY_MIB, PAYLOAD_BYTES, QEMU, Machine, Setup
from paths import HERE, SOURCE, cache
from steps import Step, build_lock, run, say

WORK_FOLDER = "/varan"  # the source tree's files, inside
RESULTS_FOLDER = "/results"


class Host:
    """The build steps of the host and its guests, by name."""

    def __init__(self):
        kernels = {name: kernel.kernel_step(name) for name in kernel.FLAVOURS}
        self.root = l1_root.root_step(kernels["cloud"])
        self.boot = l1_boot.boot_step(kernels["cloud"])
        self.guest_debian = guest_debian.debian_step()
        self.guest = guest.assets_step(kernels, self.guest_debian)
        self.guest_image = guest.image_step(self.guest)
        self.scratch = scratch.step()
        self.snapshot = Step("snapshot", "booting the emulated host once, to start from there in future",
                             [self.root, self.boot, self.guest_image, self.scratch, CMDLINE, MEMORY_MIB, PAYLOAD_BYTES,
                              HERE / "machine.py", HERE / "qmp.py", _qemu_version()], self._make_snapshot)
        self.kernels = kernels

    def _steps(self, assets_only):
        steps = [*self.kernels.values(), self.guest_debian, self.guest]
        if not assets_only:
            steps += [self.root, self.boot, self.guest_image, self.scratch]
        return steps

    def is_built(self, assets_only=False):
        return all(step.is_fresh() for step in self._steps(assets_only))

    def build(self, assets_only=False):
        """Everything that is missing. With `assets_only`, what tests on this machine's own KVM need."""
        if not self.is_built(assets_only):
            with build_lock():
                for step in self._steps(assets_only):
                    step.build()

    def setup(self, folder, **more):
        return Setup(self.boot.folder, self.root.folder, self.guest_image.folder, folder / "payload", folder / "scratch",
                     folder / "serial.log", **more)

    def _make_snapshot(self, folder):
        with session_folder(self) as temporary:
            scratch.extend(temporary / "payload", PAYLOAD_BYTES)
            with Machine(self.setup(temporary, ram=folder / "ram")) as machine:
                try:
                    session.receive_ready(machine.control)
                    machine.qmp.command("stop")
                    machine.qmp.migrate("migrate", f"exec:cat >'{folder}/state'", 60)
                except Exception:
                    sys.stderr.write(machine.log_tail())
                    raise

    def start(self, folder, icount=False, memory_mib=MEMORY_MIB, is_cold=False):
        """A machine whose agent waits for START."""
        if not (icount or is_cold or memory_mib != MEMORY_MIB):
            with build_lock():
                self.snapshot.build()
            machine = Machine(self.setup(folder, ram=self.snapshot.folder / "ram", incoming=True))
            try:
                machine.qmp.migrate("migrate-incoming", f"exec:cat '{self.snapshot.folder}/state'", 60)
                machine.qmp.command("cont")
                return machine
            except Exception as error:
                say(f"cannot start from the snapshot ({error}): booting")
                machine.kill()
        machine = Machine(self.setup(folder, icount=icount, memory_mib=memory_mib))
        try:
            session.receive_ready(machine.control)
            return machine
        except session.HostFailed as error:
            machine.kill()
            raise session.HostFailed(f"{error}; the end of its log:\n{machine.log_tail()}") from None


def _qemu_version():
    return subprocess.run([QEMU, "--version"], capture_output=True, text=True).stdout.splitlines()[0]


@contextmanager
def session_folder(host):
    """A folder for the files of one session, gone afterwards. It lies in the cache: its files are sparse, and large."""
    parent = cache() / "sessions"
    parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        with open(parent / "lock", "w") as starting:
            fcntl.flock(starting, fcntl.LOCK_EX)
            _remove_left_over(parent)
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=parent)))
            alive = stack.enter_context(open(folder / "lock", "w"))
            fcntl.flock(alive, fcntl.LOCK_EX)
        run(["cp", "--sparse=always", host.scratch.folder / "scratch", folder / "scratch"])
        yield folder


def _remove_left_over(parent):
    """Folders of runners that were killed: nobody holds their lock."""
    for lock in parent.glob("*/lock"):
        with open(lock) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            shutil.rmtree(lock.parent, ignore_errors=True)


def _pack(payload, path):
    """The payload: a tar of files of the source tree under their own names, or of LOCAL under NAME for `LOCAL=NAME`."""

    def wanted(entry):
        return None if "__pycache__" in entry.name else entry

    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
        for item in payload:
            local, _, name = item.partition("=")
            tar.add(SOURCE / local, name or local, filter=wanted)
    if os.path.getsize(path) > PAYLOAD_BYTES:
        raise SystemExit(f"host: the payload is larger than {PAYLOAD_BYTES >> 20} MiB")
    scratch.extend(path, PAYLOAD_BYTES)


def environment(extra):
    values = {"VARAN": f"{WORK_FOLDER}/build/varan", "VARAN_GUEST": "/guest", "VARAN_RESULTS": RESULTS_FOLDER,
              "VARAN_HOST_KIND": "emulated", "TMPDIR": "/scratch/tmp",
              "PATH": f"{WORK_FOLDER}/build:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
    if os.environ.get("TERM"):
        values["TERM"] = os.environ["TERM"]
    values.update(item.split("=", 1) for item in extra)
    return values


def run_command(argv, payload=(), env=(), results=None, timeout=0, is_tty=False, has_stdin=True, log=None, **start):
    """Runs one command in a new session of the emulated host. Returns its exit status."""
    host = Host()
    host.build()
    with session_folder(host) as folder:
        _pack(payload, folder / "payload")
        machine = None
        # Our own end must take the machine and the folder with it, also before the session catches signals.
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda number, _: sys.exit(128 + number))
        try:
            with host.start(folder, **start) as machine:
                order = {"argv": argv, "env": environment(env), "cwd": WORK_FOLDER, "payload": bool(payload),
                         "tty": terminal.size(0) if is_tty else None, "results": RESULTS_FOLDER if results else None,
                         "time_ns": time.time_ns(), "entropy": secrets.token_hex(64)}
                with terminal.Raw(0) if is_tty else nullcontext() as raw:
                    stdin = 0 if has_stdin else None
                    talk = session.Session(machine.control, order, stdin, results, timeout, raw)
                    if not has_stdin:
                        talk.end_input()
                    return talk.run()
        except session.HostFailed as error:
            say(str(error))
            if machine and error.status == session.STATUS_HOST_FAILED:
                sys.stderr.write(machine.log_tail())
            return error.status
        except BrokenPipeError:
            return 128 + signal.SIGPIPE
        finally:
            if log and machine:
                shutil.copy(machine.setup.log, log)
