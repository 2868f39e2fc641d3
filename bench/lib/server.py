# SPDX-License-Identifier: Apache-2.0
"""A VMM that serves its API and has no guest; and a client that costs as little as one in Python can."""
import json
import os
import socket
import subprocess
import time
from contextlib import ExitStack

from run import RunFailed, _idle
from tracing import Instance

SECONDS = 5
HEAD_END = b"\r\n\r\n"


class Server:
    """The program, behind a small shell that waits for a word and then becomes it."""

    def __init__(self, argv, folder):
        self.path = folder / "api.sock"
        self.output = folder / "output"
        self.path.unlink(missing_ok=True)
        with open(self.output, "wb") as output:
            self.process = subprocess.Popen(["/bin/sh", "-c", 'read go; exec "$@"', "sh", *argv, f"path={self.path}"],
                                            cwd=folder, stdin=subprocess.PIPE, stdout=output, stderr=output)
        time.sleep(0.2)  # until it waits

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()

    @property
    def pid(self):
        return self.process.pid

    def go(self):
        os.write(self.process.stdin.fileno(), b"\n")

    def connect(self):
        limit = time.monotonic() + SECONDS
        while True:
            connection = socket.socket(socket.AF_UNIX)
            try:
                connection.connect(str(self.path))
                return connection
            except OSError as error:
                connection.close()
                if time.monotonic() > limit:
                    raise RunFailed(f"the API does not answer: {error}\n{self.output.read_text()}") from error
                time.sleep(0.01)


def ask(connection, method, name, body=None):
    """One request; its answer's body."""
    content = b"" if body is None else json.dumps(body).encode()
    length = b"" if body is None else b"Content-Length: %d\r\n" % len(content)
    connection.sendall(b"%s /api/v1/%s HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n%s\r\n%s"
                       % (method, name, length, content))
    data = b""
    while HEAD_END not in data:
        data += connection.recv(65536)
    head, _, answer = data.partition(HEAD_END)
    status = int(head.split(b" ", 2)[1])
    n = next((int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), 0)
    while len(answer) < n:
        answer += connection.recv(65536)
    if status not in (200, 204):
        raise RunFailed(f"{name.decode()}: status {status}: {answer.decode()}")
    return answer


def readiness(server):
    """Instructions and system calls from exec until the program listens at its socket."""
    with ExitStack() as stack:
        start, idle, count = (stack.enter_context(Instance(name)) for name in ("start", "idle", "count"))
        start.record("syscalls/sys_enter_execve", f"common_pid == {server.pid}")
        start.record("syscalls/sys_exit_listen", f"common_pid == {server.pid}")
        idle.record("power/cpu_idle")
        count.record("raw_syscalls/sys_enter", f"common_pid == {server.pid}")
        server.go()
        server.connect().close()
        times = {event: now for _, now, event, _ in start.events()}
        if set(times) != {"sys_execve", "sys_listen"}:
            raise RunFailed(f"the program did not listen: {sorted(times)}")
        began, ready = times["sys_execve"], times["sys_listen"]
        waited = _idle(list(idle.events()), began, ready)
        calls = sum(1 for _, now, _, _ in count.events() if began < now <= ready)
    return {"ready_instructions": ready - began - waited, "ready_waited": waited, "ready_system_calls": calls}


def _turns(events):
    """Instructions of the server for each request: from the end of its wait to the call that sends the answer."""
    began = None
    for _, now, event, _ in events:
        if event == "sys_epoll_wait":
            began = now
        elif began is not None:
            yield now - began
            began = None


def latency(server, method, name, n):
    """Instructions of the server for each of n requests on one connection, and of the whole round trip with this client."""
    with server.connect() as connection:
        for _ in range(10):
            ask(connection, method, name)
        with ExitStack() as stack:
            turn, trip, count = (stack.enter_context(Instance(key)) for key in ("turn", "trip", "count"))
            turn.record("syscalls/sys_exit_epoll_wait", f"common_pid == {server.pid}")
            turn.record("syscalls/sys_enter_sendto", f"common_pid == {server.pid}")
            trip.record("syscalls/sys_enter_sendto", f"common_pid == {os.getpid()}")
            trip.record("syscalls/sys_exit_recvfrom", f"common_pid == {os.getpid()}")
            for _ in range(n):
                ask(connection, method, name)
            times = [now for _, now, _, _ in trip.events()]
            turns = list(_turns(turn.events()))
        with Instance("count") as count:
            count.count("raw_syscalls/sys_enter", "common_pid", "id.syscall")
            for _ in range(n):
                ask(connection, method, name)
            count.stop_counting("raw_syscalls/sys_enter", "common_pid", "id.syscall")
            calls = {key[1].split("[")[0].strip().removeprefix("sys_"): hits / n
                     for key, hits in count.counts("raw_syscalls/sys_enter").items() if int(key[0]) == server.pid}
        size = len(ask(connection, method, name))
    if len(turns) != n or len(times) != 2 * n:
        raise RunFailed(f"{name.decode()}: {len(turns)} turns and {len(times)} times for {n} requests")
    return {"turns": turns, "trips": [b - a for a, b in zip(times[::2], times[1::2])], "system_calls": calls, "bytes": size}
