# SPDX-License-Identifier: Apache-2.0
"""The frames between the runner and the agent in the emulated host: a kind, a length, a body.

One byte stream each way (a virtio-serial port) carries everything: what to run, standard input, output and error kept
apart, signals, terminal sizes, the exit status and the tar of results.
"""
import json
import struct

READY = 1  # agent: listening; a snapshot may be taken now
START = 2  # runner: JSON, see agent.py
STDIN = 3  # runner: bytes; an empty one means end of file
STDOUT = 4  # agent: bytes
STDERR = 5  # agent: bytes
SIZE = 6  # runner: JSON [rows, columns] of the terminal
SIGNAL = 7  # runner: JSON number, for the command's process group
EXIT = 8  # agent: JSON exit status, as a shell would report it
RESULTS = 9  # agent: bytes of a tar; an empty one means end of file
BYE = 10  # runner: power off
STARTED = 11  # agent: everything is prepared, the command runs

_HEADER = struct.Struct(">BI")
BODY_MAX = 64 * 1024


def pack(kind, body=b""):
    if not isinstance(body, (bytes, bytearray, memoryview)):
        body = json.dumps(body).encode()
    return _HEADER.pack(kind, len(body)) + body


class Reader:
    """Cuts a byte stream into frames."""

    def __init__(self):
        self._buffer = bytearray()

    def feed(self, data):
        """Adds bytes; yields the frames that are whole now."""
        self._buffer += data
        while len(self._buffer) >= _HEADER.size:
            kind, length = _HEADER.unpack_from(self._buffer)
            if len(self._buffer) < _HEADER.size + length:
                break
            body = bytes(self._buffer[_HEADER.size:_HEADER.size + length])
            del self._buffer[:_HEADER.size + length]
            yield kind, body
