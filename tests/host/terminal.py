# SPDX-License-Identifier: Apache-2.0
"""The caller's terminal in raw mode, put back however we end."""
import atexit
import os
import termios
import tty

ESCAPE = 0x1D  # Ctrl-]
ESCAPE_TIMES = 3


def size(fd):
    """Rows and columns; a terminal that does not know says what terminals were."""
    columns, rows = os.get_terminal_size(fd)
    return [rows or 24, columns or 80]


class Raw:
    """A context in which terminal `fd` passes every byte on. Counts the escape: three times Ctrl-] in a row."""

    def __init__(self, fd):
        self.fd, self._escapes = fd, 0

    def __enter__(self):
        self._saved = termios.tcgetattr(self.fd)
        atexit.register(self._restore)
        tty.setraw(self.fd, termios.TCSADRAIN)
        return self

    def _restore(self):
        termios.tcsetattr(self.fd, termios.TCSADRAIN, self._saved)

    def __exit__(self, *_):
        self._restore()
        atexit.unregister(self._restore)

    def is_escape(self, data):
        for byte in data:
            self._escapes = self._escapes + 1 if byte == ESCAPE else 0
            if self._escapes == ESCAPE_TIMES:
                return True
        return False
