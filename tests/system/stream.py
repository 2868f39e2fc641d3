# SPDX-License-Identifier: Apache-2.0
"""The far end of a guest's console: what came out so far, waiting for words in it, and sending.

Whatever the kind, a stream remembers everything that it ever read, so that a failure can show it. Waiting never hangs:
it ends with the words, with the end of the program under test, or with the time.
"""
import fcntl
import os
import re
import select
import socket
import struct
import termios
import threading
import time

SECONDS = 180  # a hang guard: an emulated guest takes 2 to 4 s to user space, and many times that on a busy machine
POLL_SECONDS = 0.02


class Timeout(AssertionError):
    pass


class Stream:
    """`is_alive()` says whether more can come at all."""

    def __init__(self, is_alive):
        self.is_alive = is_alive
        self.position = 0  # expect() looks at what follows

    def data(self):
        """All bytes so far."""
        raise NotImplementedError

    def text(self):
        return self.data().decode(errors="replace").replace("\r\n", "\n")

    def expect(self, pattern, seconds=SECONDS):
        """Waits for a regular expression behind what was expected before. Returns the match."""
        wanted = re.compile(pattern.encode())
        end = time.monotonic() + seconds
        while True:
            was_alive = self.is_alive()
            match = wanted.search(self.data(), self.position)
            if match:
                self.position = match.end()
                return match
            if not was_alive:
                raise Timeout(f"nothing more can come, as the program ended or its guest was lost, and {pattern!r} did not; "
                              f"instead came:{self.tail()}")
            if time.monotonic() > end:
                raise Timeout(f"{pattern!r} did not come within {seconds} s; instead came:{self.tail()}")
            self._pause()

    def tail(self, n_bytes=1500):
        return "\n" + "".join(f"  | {line}\n" for line in self.text()[-n_bytes:].splitlines()) or " nothing"

    def _pause(self):
        time.sleep(POLL_SECONDS)

    def close(self):
        pass


class FileStream(Stream):
    """A file that the program writes."""

    def __init__(self, is_alive, path):
        super().__init__(is_alive)
        self.path = path

    def data(self):
        try:
            return self.path.read_bytes()
        except FileNotFoundError:
            return b""


class FdStream(Stream):
    """A descriptor of ours that is read by a thread, so that the guest never waits for the test."""

    def __init__(self, is_alive, fd):
        super().__init__(is_alive)
        self.fd = fd
        self._data = bytearray()
        self._changed = threading.Condition()
        self._wake, self._wake_far = os.pipe()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self):
        while True:
            ready, _, _ = select.select([self.fd, self._wake], [], [])
            if self._wake in ready:
                return
            try:
                data = os.read(self.fd, 65536)
            except OSError:  # EIO: the other side of a pseudo-terminal is closed
                return
            if not data:
                return
            with self._changed:
                self._data += data
                self._changed.notify_all()

    def data(self):
        with self._changed:
            return bytes(self._data)

    def _pause(self):
        with self._changed:
            self._changed.wait(0.2)

    def send(self, data):
        data = memoryview(data if isinstance(data, bytes) else data.encode())
        end = time.monotonic() + SECONDS
        while data:
            _, ready, _ = select.select([], [self.fd], [], 1)
            if ready:
                data = data[os.write(self.fd, data[:1024]):]
            elif time.monotonic() > end:
                raise Timeout(f"{len(data)} bytes were not taken within {SECONDS} s")

    def _stop_reading(self):
        os.write(self._wake_far, b"x")
        self._thread.join()

    def close(self):
        """Stops reading and lets go of the descriptor."""
        if self.fd is None:
            return
        self._stop_reading()
        for fd in (self.fd, self._wake, self._wake_far):
            os.close(fd)
        self.fd = None


class SocketStream(FdStream):
    """A client of a socket. When it leaves it first refuses more, and reads what was on its way: nothing is lost."""

    def _stop_reading(self):
        with socket.socket(fileno=os.dup(self.fd)) as s:
            try:
                s.shutdown(socket.SHUT_RD)
            except OSError:  # ENOTCONN: the program has closed its side
                pass
        self._thread.join()


def connect(is_alive, path, seconds=SECONDS):
    """A client of a Unix socket that the program makes."""
    end = time.monotonic() + seconds
    while True:
        client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            client.connect(str(path))
            return SocketStream(is_alive, client.detach())
        except (FileNotFoundError, ConnectionRefusedError):
            client.close()
            if time.monotonic() > end or not is_alive():
                raise Timeout(f"cannot connect to {path}") from None
            time.sleep(POLL_SECONDS)


def open_pty(is_alive, path):
    return FdStream(is_alive, os.open(path, os.O_RDWR | os.O_NOCTTY))


class Terminal:
    """A terminal of 80 by 24 for the program to run on: its standard streams and its controlling terminal.

    Both sides stay open here, so that the mode can be compared after the program's end.
    """

    def __init__(self, columns=80, rows=24):
        self.master, self.slave = os.openpty()
        self.resize(columns, rows)
        self.first_mode = self.mode()

    def resize(self, columns, rows):
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def mode(self):
        return termios.tcgetattr(self.slave)

    def is_raw(self):
        return not self.mode()[3] & (termios.ICANON | termios.ECHO | termios.ISIG)

    def take_control(self):
        """To be called in the new process, which leads a new session."""
        fcntl.ioctl(self.slave, termios.TIOCSCTTY, 0)

    def close(self):
        for fd in (self.master, self.slave):
            if fd is not None:
                os.close(fd)
        self.master = self.slave = None
