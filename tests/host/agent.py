# SPDX-License-Identifier: Apache-2.0
"""The agent in the emulated host: runs one command for the runner on the other side of a virtio-serial port.

It is started by the host's init and has said READY before a snapshot is taken, so that no session pays for Python's start.
START carries JSON: argv, env, cwd, tty (or null, or [rows, columns]), payload (is there one?), results (a folder to send
back, or null), time_ns and entropy (a host that comes from a snapshot has an old clock and used random numbers).
"""
import fcntl
import json
import os
import pty
import selectors
import signal
import struct
import subprocess
import termios
import time

import wire

STDIN_HELD_MAX = 1 << 20
RNDADDENTROPY, RNDRESEEDCRNG = 0x40085203, 0x5207  # <linux/random.h>
BLKFLSBUF = 0x1261  # <linux/fs.h>


def find_port(name):
    for port in os.listdir("/sys/class/virtio-ports"):
        with open(f"/sys/class/virtio-ports/{port}/name") as file:
            if file.read().strip() == name:
                return f"/dev/{port}"
    raise SystemExit(f"agent: no virtio-serial port {name}")


def find_disk(serial):
    for disk in os.listdir("/sys/block"):
        try:
            with open(f"/sys/block/{disk}/serial") as file:
                if file.read().strip() == serial:
                    return f"/dev/{disk}"
        except FileNotFoundError:
            continue
    raise SystemExit(f"agent: no disk with serial {serial}")


def open_fresh(serial):
    """Path of a disk, after dropping what the kernel cached of it before the snapshot was taken: that was another file."""
    path = find_disk(serial)
    with open(path, "rb") as disk:
        fcntl.ioctl(disk, BLKFLSBUF, 0)
    return path


class Port:
    """The stream to the runner."""

    def __init__(self):
        self.fd = os.open(find_port("varan.control"), os.O_RDWR)
        self._reader = wire.Reader()
        self.pending = []  # frames that came in one read with an earlier one

    def send(self, kind, body=b""):
        data = memoryview(wire.pack(kind, body))
        while data:
            data = data[os.write(self.fd, data):]

    def read(self):
        """Reads once, into `pending`. The runner is gone at end of file, and then this host has no purpose."""
        data = os.read(self.fd, wire.BODY_MAX)
        if not data:
            raise SystemExit(0)
        self.pending += self._reader.feed(data)

    def next(self):
        """Waits for a frame."""
        while not self.pending:
            self.read()
        return self.pending.pop(0)


class Command:
    """The command, and where its three streams are on our side."""

    def __init__(self, start):
        self.tty = None
        environment = {**os.environ, **start["env"]}
        if start["tty"]:
            self.tty, slave = pty.openpty()
            self.resize(*start["tty"])

            def take_terminal():
                fcntl.ioctl(0, termios.TIOCSCTTY, 0)

            streams = {"stdin": slave, "stdout": slave, "stderr": slave, "preexec_fn": take_terminal}
        else:
            streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        try:
            self.process = subprocess.Popen(start["argv"], env=environment, cwd=start["cwd"], start_new_session=True,
                                            bufsize=0, **streams)
        finally:
            if self.tty is not None:
                os.close(slave)
        if self.tty is not None:
            self.stdin, self.outputs = self.tty, {self.tty: wire.STDOUT}
        else:
            self.stdin = self.process.stdin.fileno()
            self.outputs = {self.process.stdout.fileno(): wire.STDOUT, self.process.stderr.fileno(): wire.STDERR}
        for fd in {self.stdin, *self.outputs}:
            os.set_blocking(fd, False)

    def resize(self, rows, columns):
        if self.tty is not None:
            fcntl.ioctl(self.tty, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def kill(self, number):
        try:
            os.killpg(self.process.pid, number)
        except ProcessLookupError:
            pass

    def close_stdin(self):
        """End of file. A terminal has no such thing: its end-of-file character stands for it."""
        if self.tty is None:
            self.process.stdin.close()
        else:
            os.write(self.tty, b"\x04")


class Session:
    """Carries bytes between the port and the command until the command ends."""

    def __init__(self, port, command):
        self.port, self.command = port, command
        self.held = bytearray()  # standard input that the command has not taken yet
        self.is_stdin_over = False  # the runner has said so
        self.is_stdin_open = True  # on the command's side
        self.selector = selectors.DefaultSelector()
        self.ended = os.pidfd_open(command.process.pid)
        self.selector.register(self.ended, selectors.EVENT_READ)
        self.watched = {}

    def watch(self):
        """Says to the selector what we can use now. With enough input held, the port is not read: that slows the runner."""
        want = {fd: selectors.EVENT_READ for fd in self.command.outputs}
        if len(self.held) < STDIN_HELD_MAX:
            want[self.port.fd] = selectors.EVENT_READ
        if self.held:
            want[self.command.stdin] = want.get(self.command.stdin, 0) | selectors.EVENT_WRITE
        for fd in self.watched.keys() - want.keys():
            self.selector.unregister(fd)
        for fd, events in want.items():
            if fd not in self.watched:
                self.selector.register(fd, events)
            elif self.watched[fd] != events:
                self.selector.modify(fd, events)
        self.watched = want

    def take_frames(self):
        while self.port.pending:
            kind, body = self.port.next()
            if kind == wire.STDIN and body:
                if self.is_stdin_open:
                    self.held += body
            elif kind == wire.STDIN:
                self.is_stdin_over = True
            elif kind == wire.SIZE:
                self.command.resize(*json.loads(body))
            elif kind == wire.SIGNAL:
                self.command.kill(json.loads(body))
            elif kind == wire.BYE:
                raise SystemExit(0)

    def give_input(self):
        try:
            if self.held:
                del self.held[:os.write(self.command.stdin, self.held[:wire.BODY_MAX])]
            if not self.held and self.is_stdin_over and self.is_stdin_open:
                self.is_stdin_open = False
                self.command.close_stdin()
        except BlockingIOError:
            pass
        except (BrokenPipeError, OSError):  # nobody reads it any more: it is dropped, as a pipe would
            self.held.clear()
            self.is_stdin_open = False

    def take_output(self, fd):
        """False when there is nothing now. At its end (a pty says EIO) the stream is watched no more."""
        try:
            data = os.read(fd, wire.BODY_MAX)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if data:
            self.port.send(self.command.outputs[fd], data)
        else:
            del self.command.outputs[fd]
        return bool(data)

    def run(self):
        while True:
            self.take_frames()
            self.give_input()
            self.watch()
            ready = {key.fd for key, _ in self.selector.select()}
            if self.port.fd in ready:
                self.port.read()
            for fd in [fd for fd in self.command.outputs if fd in ready]:
                self.take_output(fd)
            if self.ended in ready:
                break
        # What it wrote before it ended is still in the pipes. What its left-over children write from now on is nobody's.
        for fd in list(self.command.outputs):
            while self.take_output(fd):
                pass
        status = self.command.process.wait()
        self.command.kill(signal.SIGKILL)
        return status if status >= 0 else 128 - status


def prepare(start):
    """Makes a host that may come from a snapshot new: clock, random numbers, scratch disk, payload."""
    if start["time_ns"]:
        time.clock_settime(time.CLOCK_REALTIME, start["time_ns"] / 1e9)
    entropy = bytes.fromhex(start["entropy"])
    with open("/dev/urandom", "wb") as random:
        fcntl.ioctl(random, RNDADDENTROPY, struct.pack("ii", len(entropy) * 8, len(entropy)) + entropy)
        fcntl.ioctl(random, RNDRESEEDCRNG)
    os.makedirs("/scratch", exist_ok=True)
    subprocess.run(["mount", "-t", "ext4", "-o", "discard", open_fresh("scratch"), "/scratch"], check=True)
    os.makedirs("/scratch/tmp", exist_ok=True)
    os.makedirs(start["cwd"], exist_ok=True)
    if start["payload"]:
        subprocess.run(["tar", "-xf", open_fresh("payload"), "-C", "/varan"], check=True)
    if start["results"]:
        os.makedirs(start["results"], exist_ok=True)


def send_results(port, folder):
    tar = subprocess.Popen(["tar", "-cf", "-", "-C", folder, "."], stdout=subprocess.PIPE)
    while data := tar.stdout.read(wire.BODY_MAX):
        port.send(wire.RESULTS, data)
    tar.wait()
    port.send(wire.RESULTS)


def serve(port, start):
    prepare(start)
    port.send(wire.STARTED)
    try:
        status = Session(port, Command(start)).run()
    except OSError as error:  # no such command: 127, as a shell says
        port.send(wire.STDERR, f"{start['argv'][0]}: {error.strerror}\n".encode())
        status = 127
    if start["results"]:
        send_results(port, start["results"])
    port.send(wire.EXIT, status)


def warm_up():
    """Has the kernel read what every session will need, so that it is in memory when the snapshot is taken."""
    for argv in (["python3", "-m", "pytest", "--version"], ["qemu-system-x86_64", "--version"], ["tar", "--version"],
                 ["mount", "--version"], ["bash", "-c", "ls; cp --version; stat /; cat /proc/mounts"]):
        subprocess.run(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def main():
    # A shell starts what it puts in the background with these ignored; the commands must not inherit that.
    for number in (signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)
    port = Port()
    with open("/proc/cmdline") as file:
        if "varan.warm" in file.read():
            warm_up()
    port.send(wire.READY)
    while True:
        kind, body = port.next()
        if kind == wire.START:
            serve(port, json.loads(body))
        elif kind == wire.BYE:
            raise SystemExit(0)


if __name__ == "__main__":
    main()
