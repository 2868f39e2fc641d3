# SPDX-License-Identifier: Apache-2.0
"""One run of the program under test, with its consoles, and what a failure report needs."""
import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

from stream import SECONDS, FdStream, FileStream, Terminal, Timeout, connect, open_pty

sys.path.append(str(Path(__file__).resolve().parent.parent / "host"))
import cpio  # noqa: E402
from spinning import spins  # noqa: E402

PROGRAM = os.environ.get("VARAN", str(Path(__file__).resolve().parents[2] / "build" / "varan"))
GUEST = Path(os.environ.get("VARAN_GUEST", "/guest"))

IS_EMULATED = os.environ.get("VARAN_HOST_KIND") == "emulated"

# What a healthy guest's kernel never says.
BAD_KERNEL_WORDS = re.compile(r"BUG:|WARNING:|Call Trace|Oops|Kernel panic|soft lockup|blocked for more than|I/O error|"
                              r"ACPI (BIOS )?(Error|Warning)|Firmware Bug|MMIO read fault|nobody cared|"
                              r"unchecked MSR|BIOS bug|virtio.*(failed|timeout|bad)", re.IGNORECASE)


# What it says of the emulated host's CPU, and of ext4 with DAX, whatever the VMM.
HARMLESS_KERNEL_WORDS = re.compile(r"Speculative Return Stack Overflow|srso|DAX enabled. Warning: EXPERIMENTAL")
WARNING_BLOCK = re.compile(r"(?s)------------\[ cut here.*?---\[ end trace [^\n]*")


def bad_kernel_lines(dmesg):
    """Lines of a healthy guest's log that should not be there. The emulated host's CPU has XSAVE areas of a size that a
    kernel wonders at."""
    dmesg = WARNING_BLOCK.sub(lambda block: "" if "fpu/xstate.c" in block.group() else block.group(), dmesg)
    return [line for line in dmesg.splitlines() if BAD_KERNEL_WORDS.search(line) and not HARMLESS_KERNEL_WORDS.search(line)]


def kernel_version(flavour):
    return (GUEST / flavour / "version").read_text().strip()


class Vm:
    """Starts the program. `serial` and `console`: off, null, file, pty, socket or tty (one terminal for both).

    A `script` travels in a second archive behind the initramfs: no limit of a command line applies to it. Its output and
    status go to the guest's device `out`: the virtio console, if nothing is said. Then the guest powers off. It has to load
    what `extra_modules` names ("pmem") itself: /modules.pmem says what, and in which order.
    """

    def __init__(self, folder, kernel="cloud/vmlinux", script=None, out=None, root=None, options=(), cmdline="",
                 serial="file", console="file", has_initramfs=True, has_terminal=None, log_level=1, program=PROGRAM,
                 pass_fds=(), is_triple_fault_meant=False, extra_modules=()):
        self.folder = folder
        self.is_triple_fault_meant = is_triple_fault_meant
        self.process = self.terminal = None
        self.streams = {}
        folder.mkdir(parents=True, exist_ok=True)
        argv = [str(program)]
        if kernel:
            argv += ["--kernel", str(GUEST / kernel)]
            if has_initramfs:
                argv += ["--initramfs", str(self.make_initramfs(kernel, script, extra_modules))]
        words = ["console=ttyS0", "quiet", "panic=-1"]
        if root:
            words.append(f"varan.root={root}")
        if script is not None:
            words += [f"varan.out={out or '/dev/hvc0'}", f"varan.status={out or '/dev/hvc0'}"]
        if cmdline:
            words.append(cmdline)
        if kernel:
            argv += ["--cmdline", " ".join(words)]
        for name, mode in (("serial", serial), ("console", console)):
            value = f"{mode}={folder / name}" if mode in ("file", "socket") else mode
            if mode is not None:
                argv += [f"--{name}", value]
        if log_level is not None:
            argv += ["--log-file", str(folder / "log")] + ["-" + "v" * log_level] * bool(log_level)
        argv += [str(option) for option in options]
        self.argv = argv
        self._start("tty" in (serial, console) if has_terminal is None else has_terminal, pass_fds)
        self._open_streams(serial, console)

    def make_initramfs(self, kernel, script, extra_modules=()):
        folder = (GUEST / kernel).parent
        initramfs = folder / "initramfs"
        if script is None:
            return initramfs
        archive = cpio.Archive()
        archive.file("run.sh", script.encode(), 0o755)
        path = self.folder / "initramfs"
        path.write_bytes(initramfs.read_bytes() + b"".join((folder / f"{extra}.modules").read_bytes() for extra in extra_modules)
                         + archive.bytes())
        return path

    def _start(self, has_terminal, pass_fds):
        (self.folder / "argv").write_text("\n".join(self.argv) + "\n")
        self._out, self._err = (open(self.folder / name, "wb") for name in ("stdout", "stderr"))
        streams = {"stdin": subprocess.DEVNULL, "stdout": self._out}
        if has_terminal:
            self.terminal = Terminal()
            streams = {"stdin": self.terminal.slave, "stdout": self.terminal.slave,
                       "preexec_fn": self.terminal.take_control}
        self.started = time.monotonic()
        self.process = subprocess.Popen(self.argv, stderr=self._err, start_new_session=True, cwd=self.folder,
                                        pass_fds=pass_fds, **streams)

    def _open_streams(self, serial, console):
        shared = None
        for name, mode in (("serial", serial), ("console", console)):
            if mode == "file":
                self.streams[name] = FileStream(self.can_say_more, self.folder / name)
            elif mode == "tty" and self.terminal:
                if not shared:
                    shared = FdStream(self.can_say_more, os.dup(self.terminal.master))
                self.streams[name] = shared
            elif mode == "pty":
                self.streams[name] = open_pty(self.can_say_more, self.pty_path(name))

    @property
    def serial(self):
        return self.streams["serial"]

    @property
    def console(self):
        return self.streams["console"]

    def connect(self, name):
        """A new client of a console in socket mode."""
        self.streams[name] = connect(self.can_say_more, self.folder / name)
        return self.streams[name]

    def pty_path(self, name):
        """The program says on standard error where a pseudo-terminal is."""
        words = FileStream(self.is_running, self.folder / "stderr")
        return words.expect(rf"(?m)^{name}: (/dev/pts/\d+)\n", 20).group(1).decode()

    @property
    def pid(self):
        return self.process.pid

    def is_running(self):
        return self.process.poll() is None

    def has_lost_guest(self):
        """Whether a CPU of the guest triple-faulted though no test asked for it: see tests/host/README.md."""
        return IS_EMULATED and not self.is_triple_fault_meant and "triple fault" in self.log() + self.stderr()

    def how_guest_was_lost(self):
        """As the emulator loses them: a triple fault, or a kernel that waits for a lock for ever. Else None."""
        if self.has_lost_guest():
            return "triple fault"
        return spins(self.pid) if IS_EMULATED and self.is_running() else None

    def can_say_more(self):
        return self.is_running() and not self.has_lost_guest()

    def signal(self, number):
        self.process.send_signal(number)

    def stdout(self):
        return (self.folder / "stdout").read_text(errors="replace")

    def stderr(self):
        return (self.folder / "stderr").read_text(errors="replace")

    def log(self):
        path = self.folder / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    def wait(self, seconds=SECONDS):
        """The exit status; as subprocess has it: negative for a signal."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise Timeout(f"the program did not end within {seconds} s") from None

    def wait_ok(self, seconds=SECONDS):
        """The program ends by itself, with 0, and has nothing to complain of."""
        status = self.wait(seconds)
        assert (status, self.complaints()) == (0, ""), f"exit status {status}\n{self.report()}"

    def complaints(self):
        """What it said on standard error, but for the paths of pseudo-terminals; and errors in its log."""
        said = re.sub(r"(?m)^(serial|console): /dev/pts/\d+\n", "", self.stderr())
        return said + "".join(line for line in self.log().splitlines(True) if " ERROR:" in line)

    def results(self, name="console"):
        """What the sections of a script said: {name: output}, by the marks that sections() puts."""
        text = self.streams[name].text()
        pieces = re.split(r"(?m)^<<([\w.-]+)>>\n", text)
        found = dict(zip(pieces[1::2], (piece.strip("\n") for piece in pieces[2::2])))
        if "end" not in found:
            raise AssertionError(f"the guest's script did not get to its end\n{self.report()}")
        return found

    def report(self):
        """The ends of all that was said."""
        parts = [f"command: {' '.join(self.argv)}"]
        for name, text in (("stderr", self.stderr()), ("log", self.log()),
                           *((name, stream.text()) for name, stream in self.streams.items())):
            lines = text.replace("\r", "").splitlines()[-25:]
            parts.append(f"{name}:" + "".join(f"\n  | {line[:200]}" for line in lines))
        return "\n".join(parts)

    def examine(self):
        """A program that should have ended: its counters, and where its threads are. Into files, for the results."""
        if not self.is_running():
            return
        self.signal(signal.SIGUSR1)
        with open(self.folder / "threads", "w") as file:
            for task in sorted(Path(f"/proc/{self.pid}/task").iterdir()):
                for name in ("comm", "stat", "stack"):
                    try:
                        file.write((task / name).read_text())
                    except OSError:
                        pass
            file.flush()
            try:
                subprocess.run(["gdb", "-batch", "-nx", "-p", str(self.pid), "-ex", "thread apply all bt 12"],
                               stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, timeout=20, check=False)
            except (OSError, subprocess.TimeoutExpired):
                file.write("gdb: no answer\n")

    def end(self):
        """Kills it if it still runs. Whatever a test does, this is called."""
        if self.process and self.is_running():
            self.process.kill()
            self.process.wait()
        for stream in set(self.streams.values()):
            stream.close()
        if self.terminal:
            self.terminal.close()
            self.terminal = None
        self._out.close()
        self._err.close()


def sections(commands):
    """A script that runs each command of {name: command} and marks where its output begins."""
    lines = [f"printf '\\n<<{name}>>\\n'\n{{ :; {command}\n}} 2>&1" for name, command in commands.items()]
    return "\n".join(lines) + "\nprintf '\\n<<end>>\\n'\n"


def own_memory_kib(pid, guest_bytes):
    """Resident memory without the guest's RAM. That is told by its size: mappings of at least an eighth of it, in
    anonymous or shared memory; a process's own heap and stacks are much smaller than any guest."""
    total = 0
    size = rss = 0
    is_file = False
    limit_kib = guest_bytes // 8 // 1024
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        head = re.match(r"[0-9a-f]+-[0-9a-f]+ \S+ \S+ \S+ \S+\s*(.*)", line)
        if head:
            is_file = head.group(1).startswith("/") and "memfd:" not in head.group(1)
            continue
        name, _, value = line.partition(":")
        if name == "Size":
            size = int(value.split()[0])
        elif name == "Rss":
            rss = int(value.split()[0])
            if is_file or size < limit_kib:
                total += rss
    return total


def status_of(pid):
    """Numbers that must not grow: descriptors, threads, own memory's parts. The kernel's workers for io_uring look like
    threads, and come and go as it sees fit."""
    names = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            names.append((task / "comm").read_text())
    return {"fds": len(os.listdir(f"/proc/{pid}/fd")), "threads": sum(not name.startswith("iou-") for name in names),
            "mappings": len(Path(f"/proc/{pid}/maps").read_text().splitlines())}
