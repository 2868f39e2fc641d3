# SPDX-License-Identifier: Apache-2.0
"""A small QMP client: one command at a time, over a socket that is already connected."""
import json
import time


class Qmp:
    def __init__(self, connected_socket):
        self._file = connected_socket.makefile("rw", encoding="utf-8")
        self._read()  # the greeting
        self.command("qmp_capabilities")

    def _read(self):
        line = self._file.readline()
        if not line:
            raise EOFError("the emulator has closed its monitor")
        return json.loads(line)

    def command(self, name, **arguments):
        self._file.write(json.dumps({"execute": name, "arguments": arguments}) + "\n")
        self._file.flush()
        while True:
            answer = self._read()
            if "error" in answer:
                raise RuntimeError(f"{name}: {answer['error']['desc']}")
            if "return" in answer:
                return answer["return"]

    def migrate(self, name, uri, seconds):
        """`migrate` or `migrate-incoming`, without the memory that lies in a shared file, until it is complete."""
        self.command("migrate-set-capabilities", capabilities=[{"capability": "x-ignore-shared", "state": True}])
        self.command(name, uri=uri)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            status = self.command("query-migrate").get("status")
            if status == "completed":
                return
            if status == "failed":
                raise RuntimeError(f"{name}: failed")
            time.sleep(0.01)
        raise TimeoutError(f"{name}: not complete after {seconds} s")
