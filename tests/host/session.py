# SPDX-License-Identifier: Apache-2.0
"""One session: a machine, one command in it, our own standard streams connected to that command."""
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time

import wire

QUEUE_MAX = 1 << 20
READY_SECONDS = 180
STARTED_SECONDS = 120
GRACE_SECONDS = 15  # between asking the command to end and ending the machine
STATUS_TIMEOUT, STATUS_HOST_FAILED = 124, 125


class HostFailed(Exception):
    """The machine is gone or does not answer."""

    status = STATUS_HOST_FAILED


class OverTime(HostFailed):
    """The command has used up its time and does not end."""

    status = STATUS_TIMEOUT


def receive_ready(control, seconds=READY_SECONDS):
    """Waits until the agent of a machine that boots is there."""
    control.settimeout(seconds)
    try:
        data = control.recv(4096)
    except socket.timeout:
        raise HostFailed(f"the emulated host was not ready after {seconds} s") from None
    finally:
        control.settimeout(None)
    if not data:
        raise HostFailed("the emulated host ended while it was booting")
    if data != wire.pack(wire.READY):
        raise HostFailed("the emulated host said something unexpected")


class Session:
    def __init__(self, control, start, stdin, results, timeout, raw=None):
        """`stdin`: a file descriptor or None. `results`: a local folder or None. `raw`: our terminal, if there is one."""
        self.control, self.stdin, self.results, self.raw = control, stdin, results, raw
        self._queue = bytearray(wire.pack(wire.START, start))
        self._reader = wire.Reader()
        self._status = None
        self._tar = None
        self._interrupts = 0
        self._is_over_time = False
        self._limits = {"start the command": time.monotonic() + STARTED_SECONDS}
        if timeout:
            self._limits["end"] = time.monotonic() + timeout

    def end_input(self):
        """The command reads an end of file at once."""
        self._queue += wire.pack(wire.STDIN)

    def run(self):
        """Returns the command's exit status."""
        self.control.setblocking(False)
        # A signal's handler only queues a frame; this pair wakes the loop to send it.
        wake, wake_far = socket.socketpair()
        wake.setblocking(False)
        wake_far.setblocking(False)
        old_wake = signal.set_wakeup_fd(wake_far.fileno())
        old = {number: signal.signal(number, self._on_signal)
               for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGWINCH)}
        try:
            while self._status is None:
                self._turn(wake)
            return STATUS_TIMEOUT if self._is_over_time else self._status
        finally:
            signal.set_wakeup_fd(old_wake)
            for number, handler in old.items():
                signal.signal(number, handler)
            if self._tar:
                self._tar.stdin.close()
                self._tar.wait()

    def _on_signal(self, number, _frame):
        if number == signal.SIGWINCH:
            if self.raw:
                from terminal import size
                self._queue += wire.pack(wire.SIZE, size(self.raw.fd))
            return
        self._interrupts += 1
        if self._interrupts > 1:
            raise SystemExit(128 + number)
        self._ask_to_end(number)

    def _ask_to_end(self, number):
        self._queue += wire.pack(wire.SIGNAL, int(number))
        self._limits["obey a signal"] = time.monotonic() + GRACE_SECONDS

    def _turn(self, wake):
        poll = select.poll()
        poll.register(wake, select.POLLIN)
        poll.register(self.control, select.POLLIN | (select.POLLOUT if self._queue else 0))
        if self.stdin is not None and len(self._queue) < QUEUE_MAX:
            poll.register(self.stdin, select.POLLIN)
        wait = max(0.0, min(self._limits.values()) - time.monotonic()) * 1000 + 1 if self._limits else None
        ready = dict(poll.poll(wait))
        if wake.fileno() in ready:
            wake.recv(4096)
        if self.stdin in ready:
            self._take_input()
        if ready.get(self.control.fileno(), 0) & select.POLLOUT:
            try:
                del self._queue[:self.control.send(self._queue[:wire.BODY_MAX])]
            except BlockingIOError:
                pass
            except OSError:
                raise HostFailed("the emulated host has ended") from None
        if ready.get(self.control.fileno(), 0) & (select.POLLIN | select.POLLHUP):
            self._take_frames()
        self._check_limits()

    def _check_limits(self):
        now = time.monotonic()
        for what, end in list(self._limits.items()):
            if now < end:
                continue
            if what == "end":  # an interrupt, so that a test run can still write its report
                print("host: the time for this command is over: interrupting it", file=sys.stderr)
                self._is_over_time = True
                del self._limits[what]
                self._ask_to_end(signal.SIGINT)
            elif self._is_over_time:
                raise OverTime("the command did not react to an interrupt: ending the emulated host")
            else:
                raise HostFailed(f"the emulated host did not {what} in time")

    def _take_input(self):
        data = os.read(self.stdin, wire.BODY_MAX)
        if self.raw and self.raw.is_escape(data):
            raise SystemExit(130)
        self._queue += wire.pack(wire.STDIN, data)
        if not data:
            self.stdin = None

    def _take_frames(self):
        try:
            data = self.control.recv(4 * wire.BODY_MAX)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            raise HostFailed("the emulated host ended before the command did")
        for kind, body in self._reader.feed(data):
            if kind == wire.STDOUT:
                write_all(1, body)
            elif kind == wire.STDERR:
                write_all(2, body)
            elif kind == wire.STARTED:
                self._limits.pop("start the command", None)
            elif kind == wire.RESULTS:
                self._take_results(body)
            elif kind == wire.EXIT:
                self._status = json.loads(body)

    def _take_results(self, body):
        if not self._tar:
            os.makedirs(self.results, exist_ok=True)
            self._tar = subprocess.Popen(["tar", "-xf", "-", "--no-same-owner", "--warning=no-timestamp", "-C", self.results],
                                         stdin=subprocess.PIPE)
        if body:
            self._tar.stdin.write(body)


def write_all(fd, data):
    data = memoryview(data)
    while data:
        try:
            data = data[os.write(fd, data):]
        except BlockingIOError:  # our caller's pipe is in non-blocking mode and full
            select.select([], [fd], [])
