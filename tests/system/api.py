# SPDX-License-Identifier: Apache-2.0
"""A VMM that serves its API, and clients that speak to it: bytes on a socket, so that nothing is hidden or mended."""
import array
import json
import os
import socket
import struct
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from vmm import PROGRAM

ROOT = "/api/v1/"
SECONDS = 20  # for anything that takes milliseconds


@dataclass
class Answer:
    status: int
    head: bytes
    body: bytes

    @property
    def json(self):
        return json.loads(self.body)

    def fields(self):
        return dict(line.split(": ", 1) for line in self.head.decode().split("\r\n")[1:] if line)


class Client:
    """One connection. Requests may be sent ahead of their answers."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        # A time-out of Python's own would make connecting fail when the backlog is full, instead of waiting.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", SECONDS, 0))
        self.socket.connect(str(path))
        self.socket.settimeout(SECONDS)
        self.received = b""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.socket.close()

    def send(self, data, fds=()):
        if fds:
            sent = self.socket.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))])
            assert sent == len(data)
        else:
            self.socket.sendall(data)

    def ended(self):
        """Whether the server has closed, with nothing more to read."""
        try:
            self.received += self.socket.recv(65536)
        except ConnectionResetError:
            return True
        return not self.received

    def _more(self):
        piece = self.socket.recv(1 << 20)
        if not piece:
            raise EOFError(f"the server closed behind {self.received[-200:]!r}")
        self.received += piece

    def answer(self):
        while b"\r\n\r\n" not in self.received:
            self._more()
        head, _, rest = self.received.partition(b"\r\n\r\n")
        length = 0
        for line in head.split(b"\r\n"):
            if line.startswith(b"Content-Length: "):
                length = int(line[16:])
        self.received = rest
        while len(self.received) < length:
            self._more()
        body, self.received = self.received[:length], self.received[length:]
        return Answer(int(head[9:12]), head, body)

    def request(self, method, name, body=None, fds=()):
        """`body`: bytes as they are, anything else as JSON."""
        self.send(request_bytes(method, name, body), fds)
        return self.answer()

    def get(self, name):
        return self.request("GET", name)

    def put(self, name, body=None):
        return self.request("PUT", name, body)


def request_bytes(method, name, body=None):
    path = name if name.startswith("/") else ROOT + name
    data = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    length = f"Content-Length: {len(data)}\r\n" if body is not None else ""
    return f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n{length}\r\n".encode() + data


class Vmm:
    """The program with --api-socket, and nothing to boot."""

    def __init__(self, folder, *options, name="vmm", socket_option=None, **how):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.path = folder / f"{name}.sock"
        self.log = folder / f"{name}.log"
        self.errors = folder / f"{name}.stderr"
        with open(self.errors, "wb") as errors:
            self.process = subprocess.Popen(
                [PROGRAM, "--api-socket", socket_option or f"path={self.path}", "--log-file", self.log, "-v", *options],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=errors, cwd=folder, start_new_session=True, **how)

    def wait_ready(self):
        end = time.monotonic() + SECONDS
        while time.monotonic() < end and self.process.poll() is None:
            try:
                with self.client() as client:
                    assert client.get("vmm.ping").status == 200
                    return self
            except (FileNotFoundError, ConnectionRefusedError):
                time.sleep(0.01)
        raise AssertionError(f"no API: exit status {self.process.poll()}, {self.errors.read_text()}")

    def client(self):
        return Client(self.path)

    def n_fds(self):
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def settled_fds(self):
        """How many there are when connections that clients have closed are closed here, too."""
        n, since = self.n_fds(), time.monotonic()
        while time.monotonic() < since + 0.2:
            time.sleep(0.01)
            if self.n_fds() != n:
                n, since = self.n_fds(), time.monotonic()
        return n

    def wait_n_fds(self, wanted):
        """Connections that clients have closed are closed here soon after."""
        end = time.monotonic() + SECONDS
        while (n := self.n_fds()) != wanted and time.monotonic() < end:
            time.sleep(0.01)
        listing = [os.readlink(f"/proc/{self.process.pid}/fd/{fd}") for fd in os.listdir(f"/proc/{self.process.pid}/fd")]
        assert n == wanted, f"{n} descriptors instead of {wanted}: {listing}"

    def resident_kib(self):
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1])
        raise AssertionError("no VmRSS")

    def end(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


def idle_guest(path):
    """A guest that halts for ever: an ELF file with a PVH entry point."""
    entry = 0x100000
    code = b"\xfa\xf4\xeb\xfd".ljust(16, b"\0")  # cli; hlt; jmp to the hlt
    note = struct.pack("<III4sQ", 4, 8, 18, b"Xen", entry)
    header = b"\x7fELF\x02\x01\x01".ljust(16, b"\0") + struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, entry, 64, 0, 0, 64, 56, 2, 64, 0, 0)
    at = 64 + 2 * 56
    load = struct.pack("<IIQQQQQQ", 1, 5, at, entry, entry, len(code + note), len(code + note), 0x1000)
    notes = struct.pack("<IIQQQQQQ", 4, 4, at + len(code), entry + len(code), entry + len(code), len(note), len(note), 4)
    path.write_bytes(header + load + notes + code + note)
    return path
