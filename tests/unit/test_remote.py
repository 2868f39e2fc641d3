# SPDX-License-Identifier: Apache-2.0
"""The client, against a server that follows a script: the bytes that it sends, and what it makes of any answer.

VARAN names the program. Nothing here needs KVM.
"""
import array
import json
import os
import signal
import socket
import subprocess
import threading
import time

import pytest

VARAN = os.environ.get("VARAN", "build/varan")
OK = b"HTTP/1.1 200 \r\nServer: Cloud Hypervisor API\r\nConnection: keep-alive\r\nContent-Type: application/json\r\n"
NO_CONTENT = b"HTTP/1.1 204 \r\nServer: Cloud Hypervisor API\r\nConnection: keep-alive\r\n\r\n"
SECONDS = 20


def answer(body, status=200):
    if not isinstance(body, bytes):
        body = json.dumps(body).encode()
    return OK.replace(b"200", str(status).encode()) + b"Content-Length: %d\r\n\r\n" % len(body) + body


class Server:
    """Serves one script: a list of answers, one per request. An answer is bytes, or a list of bytes and pauses in
    seconds; the connection ends after the last one, or where the answer is None. Notes requests and descriptors."""

    def __init__(self, folder, answers):
        self.path = str(folder / "api.sock")
        self.answers, self.requests, self.fds = answers, [], []
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.bind(self.path)
        self.socket.listen()
        self.socket.settimeout(SECONDS)
        self.is_over = threading.Event()
        self.thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.is_over.set()
        self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()
        self.thread.join(SECONDS)
        for fd in self.fds:
            os.close(fd)

    def _receive(self, connection):
        data = b""
        while True:
            chunk, ancillary, _, _ = connection.recvmsg(65536, socket.CMSG_SPACE(1024))
            for _, _, content in ancillary:
                fds = array.array("i")
                fds.frombytes(content)
                # They came with the first byte of the request.
                self.fds_came_first = not data
                self.fds += fds
            if not chunk:
                return data
            data += chunk
            head, separator, body = data.partition(b"\r\n\r\n")
            length = next((int(line.split(b":")[1]) for line in head.split(b"\r\n")
                           if line.startswith(b"Content-Length:")), 0)
            if separator and len(body) >= length:
                return data

    def _answer(self, connection, steps):
        """Whether the connection goes on."""
        for step in steps if isinstance(steps, list) else [steps]:
            if step is None:
                return False
            if isinstance(step, (int, float)):
                self.is_over.wait(step)
            else:
                connection.sendall(step)
        return True

    def _serve(self):
        todo = list(self.answers)
        while todo:
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(SECONDS)
                try:
                    while todo:
                        data = self._receive(connection)
                        if not data:
                            break
                        self.requests.append(data)
                        if not self._answer(connection, todo.pop(0)):
                            break
                except OSError:
                    pass  # the client has gone, which is its right


def run(*words, stdin=b"", name=None, pass_fds=(), timeout=SECONDS):
    argv = [VARAN, "remote", *words] if name is None else [name, *words]
    return subprocess.run(argv, executable=VARAN, input=stdin, capture_output=True, pass_fds=pass_fds, timeout=timeout)


def ask(server, *words, **more):
    return run("--api-socket", server.path, *words, **more)


def request(method, endpoint, body=None):
    text = f"{method} /api/v1/{endpoint} HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n"
    if body is not None:
        text += f"Content-Length: {len(body.encode())}\r\n"
    return (text + "\r\n" + (body or "")).encode()


PLAIN = {
    "boot": "vm.boot", "delete": "vm.delete", "nmi": "vm.nmi", "pause": "vm.pause", "power-button": "vm.power-button",
    "reboot": "vm.reboot", "resume": "vm.resume", "shutdown": "vm.shutdown", "shutdown-vmm": "vmm.shutdown",
}


@pytest.mark.parametrize("name", [None, "ch-remote"])
@pytest.mark.parametrize("command", PLAIN)
def test_command_without_words(tmp_path, command, name):
    with Server(tmp_path, [NO_CONTENT]) as server:
        done = ask(server, command, name=name)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert server.requests == [request("PUT", PLAIN[command])]


@pytest.mark.parametrize("command, endpoint", [("info", "vm.info"), ("counters", "vm.counters"), ("ping", "vmm.ping")])
def test_query(tmp_path, command, endpoint):
    with Server(tmp_path, [answer({"a": 1})]) as server:
        done = ask(server, "--json", command)
    assert (done.returncode, done.stdout) == (0, b'{"a": 1}\n')
    assert server.requests == [request("GET", endpoint)]


BODIES = [
    (["resize", "--cpus", "4"], "vm.resize", {"desired_vcpus": 4}),
    (["resize", "--memory", "2G"], "vm.resize", {"desired_ram": 2 << 30}),
    (["resize", "--balloon", "128M", "--cpus=1", "--memory=1K"], "vm.resize",
     {"desired_vcpus": 1, "desired_ram": 1024, "desired_balloon": 128 << 20}),
    (["resize"], "vm.resize", {}),
    (["resize-disk", "--disk", "d0", "--size", "10G"], "vm.resize-disk", {"id": "d0", "desired_size": 10 << 30}),
    (["resize-zone", "--id", "mem0", "--size", "512M"], "vm.resize-zone", {"id": "mem0", "desired_ram": 512 << 20}),
    (["remove-device", "_disk0"], "vm.remove-device", {"id": "_disk0"}),
    (["remove-device", 'a"b\\c\n'], "vm.remove-device", {"id": 'a"b\\c\n'}),
    (["snapshot", "file:///tmp/s"], "vm.snapshot", {"destination_url": "file:///tmp/s"}),
    (["coredump", "file:///tmp/c"], "vm.coredump", {"destination_url": "file:///tmp/c"}),
    (["receive-migration", "unix:/tmp/m"], "vm.receive-migration",
     {"receiver_url": "unix:/tmp/m", "memory_mode": "Precopy"}),
    (["receive-migration", "receiver_url=tcp:0:1,tls_dir=/t,memory_mode=postcopy,zone_updates=[z@1]"],
     "vm.receive-migration", {"receiver_url": "tcp:0:1", "tls_dir": "/t", "memory_mode": "Postcopy",
                              "zone_updates": [{"id": "z", "host_numa_node": 1}]}),
    (["send-migration", "tcp:host:1"], "vm.send-migration",
     {"destination_url": "tcp:host:1", "local": False, "downtime_ms": 300, "timeout_s": 3600, "connections": 1,
      "timeout_strategy": "Cancel", "memory_mode": "Precopy"}),
    (["send-migration", "destination_url=unix:/m,local=on,downtime_ms=5,timeout_s=6,timeout_strategy=ignore,"
      "connections=8,tls_dir=/t,memory_mode=postcopy"], "vm.send-migration",
     {"destination_url": "unix:/m", "local": True, "downtime_ms": 5, "timeout_s": 6, "connections": 8,
      "timeout_strategy": "Ignore", "memory_mode": "Postcopy", "tls_dir": "/t"}),
    (["restore", "source_url=file:///s,prefault=on"], "vm.restore", {"source_url": "file:///s", "prefault": True}),
    (["add-disk", "path=/d.img,readonly=on,id=d"], "vm.add-disk",
     {"path": "/d.img", "readonly": True, "id": "d", "num_queues": 1, "queue_size": 128}),
    (["add-fs", "tag=t,socket=/s"], "vm.add-fs", {"tag": "t", "socket": "/s", "num_queues": 1, "queue_size": 1024}),
    (["add-pmem", "file=/p,size=2M"], "vm.add-pmem", {"file": "/p", "size": 2 << 20}),
    (["add-vsock", "cid=3,socket=/v"], "vm.add-vsock", {"cid": 3, "socket": "/v"}),
    (["add-vdpa", "path=/dev/vhost-vdpa-0"], "vm.add-vdpa", {"path": "/dev/vhost-vdpa-0", "num_queues": 1}),
    (["add-device", "path=/sys/bus/pci/devices/0000:01:00.0,iommu=on"], "vm.add-device",
     {"path": "/sys/bus/pci/devices/0000:01:00.0", "iommu": True}),
    (["add-user-device", "socket=/u,id=u0"], "vm.add-user-device", {"socket": "/u", "id": "u0"}),
    (["add-net", "tap=tap0,mac=12:34:56:78:90:ab"], "vm.add-net", {"tap": "tap0", "mac": "12:34:56:78:90:ab"}),
    (["add-generic-vhost-user", "socket=/g,device_type=26,queue_sizes=[128,256]"], "vm.add-generic-vhost-user",
     {"socket": "/g", "device_type": 26, "queue_sizes": [128, 256]}),
]


@pytest.mark.parametrize("name", [None, "ch-remote"])
@pytest.mark.parametrize("words, endpoint, body", BODIES, ids=[" ".join(words)[:40] for words, _, _ in BODIES])
def test_command_with_words(tmp_path, words, endpoint, body, name):
    with Server(tmp_path, [NO_CONTENT]) as server:
        done = ask(server, *words, name=name)
    assert (done.returncode, done.stderr) == (0, b"")
    [data] = server.requests
    sent = data.partition(b"\r\n\r\n")[2].decode()
    assert data == request("PUT", endpoint, sent)  # head and length are exact; the body's members have any order
    found = json.loads(sent)
    # An object of the configuration is sent whole, with its defaults; a small request has just what was asked for.
    if words[0].startswith("add-") or words[0] == "restore":
        found = {key: found.get(key) for key in body}
    assert {key: value for key, value in found.items() if value != []} == body


def test_all_commands_are_tested():
    listed = run("--help").stdout.decode().split("Commands:\n")[1]
    commands = {line.split()[0] for line in listed.splitlines()}
    tested = {*PLAIN, "info", "counters", "ping", "create", "events"} | {words[0] for words, _, _ in BODIES}
    assert commands == tested


@pytest.mark.parametrize("source", ["file", "stdin", "dash"])
def test_create(tmp_path, source):
    body = b'{"payload":{"kernel":"/k\xc3\xa9"}}\n'
    (tmp_path / "vm.json").write_bytes(body)
    words = {"file": [str(tmp_path / "vm.json")], "stdin": [], "dash": ["-"]}[source]
    with Server(tmp_path, [NO_CONTENT]) as server:
        done = ask(server, "create", *words, stdin=b"" if source == "file" else body)
    assert done.returncode == 0
    assert server.requests == [request("PUT", "vm.create", body.decode())]


def test_create_from_a_bad_file(tmp_path):
    with Server(tmp_path, []) as server:
        done = ask(server, "create", str(tmp_path / "none"))
        assert done.returncode == 1 and b"none: No such file" in done.stderr
        done = ask(server, "create", stdin=b"")
        assert done.returncode == 1 and b"is empty" in done.stderr
        done = ask(server, "create", stdin=b" " * ((4 << 20) + 1))
        assert done.returncode == 1 and b"more than 4194304 bytes" in done.stderr


def files(folder, n):
    return [os.open(folder / f"file{i}", os.O_RDWR | os.O_CREAT) for i in range(n)]


def check_fds(server, sent):
    assert [os.fstat(fd).st_ino for fd in server.fds] == [os.fstat(fd).st_ino for fd in sent]
    assert server.fds_came_first


@pytest.mark.parametrize("name", [None, "ch-remote"])
def test_descriptors_of_a_net(tmp_path, name):
    fds = files(tmp_path, 2)
    with Server(tmp_path, [NO_CONTENT]) as server:
        done = ask(server, "add-net", f"fd=[{fds[0]},{fds[1]}],num_queues=4", pass_fds=fds, name=name)
        assert done.returncode == 0, done.stderr
        check_fds(server, fds)
    # Numbers of the client's descriptors mean nothing to the server.
    assert not json.loads(server.requests[0].partition(b"\r\n\r\n")[2]).get("fds")


def test_descriptors_of_a_restore(tmp_path):
    fds = files(tmp_path, 3)
    with Server(tmp_path, [NO_CONTENT]) as server:
        done = ask(server, "restore", f"source_url=file:///s,net_fds=[a@[{fds[2]}],b@[{fds[0]},{fds[1]}]]", pass_fds=fds)
        assert done.returncode == 0, done.stderr
        check_fds(server, [fds[2], fds[0], fds[1]])
    nets = json.loads(server.requests[0].partition(b"\r\n\r\n")[2])["net_fds"]
    assert [(net["id"], net["num_fds"]) for net in nets] == [("a", 1), ("b", 2)]


def test_descriptors_of_a_migration(tmp_path):
    fds = files(tmp_path, 2)
    with Server(tmp_path, [NO_CONTENT]) as server:
        done = ask(server, "receive-migration", f"receiver_url=unix:/m,vfio_fds=[v@{fds[1]}],iommufd_fd={fds[0]}",
                   pass_fds=fds)
        assert done.returncode == 0, done.stderr
        check_fds(server, [fds[1], fds[0]])
    body = json.loads(server.requests[0].partition(b"\r\n\r\n")[2])
    assert body["vfio_fds"] == [{"id": "v"}] and "iommufd_fd" not in body


def test_descriptor_that_is_not_open(tmp_path):
    with Server(tmp_path, []) as server:
        done = ask(server, "add-net", "fd=[77]")
    assert done.returncode == 1 and b"file descriptor 77 is not open" in done.stderr


WRONG_WORDS = [
    (["add-disk", "foo=1"], b"Error parsing disk syntax", b"Error parsing --disk: unknown option: foo"),
    (["add-net", "mac=xx"], b"Error parsing network syntax", b"Error parsing --net: "),
    (["add-fs", "tag=x"], b"Error parsing filesystem syntax", b"Error parsing --fs: socket missing"),
    (["add-vsock", "socket=/s"], b"Error parsing vsock syntax", b"Error parsing --vsock: cid missing"),
    (["resize", "--memory", "2X"], b"Error parsing memory size", b"2X"),
    (["resize", "--balloon", ""], b"Error parsing balloon size", b""),
    (["resize", "--cpus", "-1"], None, None),
    (["resize", "--cpus=-1"], b"Error parsing CPU count", b"-1"),
    (["restore", "prefault=on"], b"Error parsing restore syntax", b"source_url missing"),
    (["send-migration", "destination_url=x,connections=129"], b"Error parsing send migration syntax", b"129"),
]


@pytest.mark.parametrize("words, what, why", WRONG_WORDS, ids=[" ".join(words) for words, _, _ in WRONG_WORDS])
def test_wrong_words(tmp_path, words, what, why):
    with Server(tmp_path, []) as server:
        ours, theirs = ask(server, *words), ask(server, *words, name="ch-remote")
    if what is None:  # an option's value may not look like an option
        assert ours.returncode == theirs.returncode == 2
        return
    assert ours.returncode == theirs.returncode == 1
    assert ours.stderr.startswith(b"varan remote: " + words[0].encode() + b": " + what + b": ") and why in ours.stderr
    assert theirs.stderr.startswith(b"Error: ch-remote exited with the following chain of errors:\n  0: " + what + b"\n  1: ")
    assert why in theirs.stderr and server.requests == []


USAGE = [
    ([], b"Usage: "), (["frobnicate"], b"unrecognized subcommand 'frobnicate'"), (["add-disk"], b"<disk_config>"),
    (["resize-disk", "--disk", "x"], b"--size <size>"), (["info", "more"], b"unexpected argument 'more' found"),
    (["remove-device", "a", "b"], b"unexpected argument 'b' found"), (["--nope", "info"], b"unexpected argument '--nope'"),
    (["info", "--timeout", "x"], b"--timeout"), (["info"], b"--api-socket <api-socket>"), (["events"], b"--event-monitor"),
]


@pytest.mark.parametrize("words, why", USAGE, ids=[" ".join(words) for words, _ in USAGE])
def test_usage(words, why):
    done = run(*words)
    assert done.returncode == 2 and why in done.stderr and done.stdout == b""


def test_what_ch_remote_does_not_have(tmp_path):
    with Server(tmp_path, []) as server:
        assert ask(server, "events", name="ch-remote").returncode == 2
        assert ask(server, "info", "--json", name="ch-remote").returncode == 2
        assert ask(server, "remove-device", "x", "--wait", name="ch-remote").returncode == 2
    done = run("info", name="ch-remote")
    assert done.returncode == 1 and done.stderr.startswith(b"Please either provide the api-socket option")


def test_help_and_version():
    for words in (["--help"], ["-h"], ["help"]):
        done = run(*words)
        assert done.returncode == 0 and b"add-generic-vhost-user" in done.stdout and b"events" in done.stdout
    done = run("--help", name="/usr/bin/ch-remote")
    assert done.returncode == 0 and b"events" not in done.stdout and b"--json" not in done.stdout
    done = run("add-disk", "--help")
    assert done.returncode == 0 and b"readonly=on|off" in done.stdout
    assert run("-V").stdout.startswith(b"varan remote v")
    assert run("-V", name="ch-remote").stdout.startswith(b"ch-remote v")


def test_options_on_either_side(tmp_path):
    with Server(tmp_path, [answer({"x": 1})] * 3) as server:
        for words in (["--json", "--api-socket", server.path, "ping"], ["ping", "--json", "--api-socket", server.path],
                      [f"--api-socket=path={server.path}", "ping", "--json", "--timeout=5"]):
            done = run(*words)
            assert (done.returncode, done.stdout) == (0, b'{"x": 1}\n')


def document(name):
    return subprocess.run([VARAN, "document", name], capture_output=True, check=True, text=True).stdout


def test_manual_page_of_the_program():
    page = document("man")
    sections = [line[4:] for line in page.splitlines() if line.startswith(".SH ")]
    assert sections == ["NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "SUB-COMMANDS", "EXIT STATUS", "SIGNALS", "FILES",
                        "SEE ALSO"]
    listed = subprocess.run([VARAN, "--help"], capture_output=True, text=True).stdout.split("Sub-commands:\n")[1]
    names = [line.split()[1] for line in listed.splitlines()]
    assert names == ["remote", "doctor", "image", "document"]
    for name in names:
        assert f".TP\n\\fBvaran {name}\\fR " in page


# --- answers that say no ------------------------------------------------------------------------------------------------

def test_refusal_for_people(tmp_path):
    causes = ["Error from API", "The VM could not boot", "VM is not created \x1b[2J"]
    with Server(tmp_path, [answer(causes, 404)]) as server:
        done = ask(server, "boot")
    assert done.returncode == 1 and done.stdout == b""
    assert done.stderr == (b"varan remote: boot: refused with status 404 (NotFound)\n  Error from API\n"
                           b"  The VM could not boot\n  VM is not created ?[2J\n")


@pytest.mark.parametrize("status, name", [(400, "BadRequest"), (404, "NotFound"), (409, "Conflict"),
                                          (429, "TooManyRequests"), (500, "InternalServerError"), (503, "Unknown")])
def test_refusal_for_ch_remote(tmp_path, status, name):
    with Server(tmp_path, [answer(["Error from API", "VM is not running"], status)]) as server:
        done = ask(server, "resume", name="ch-remote")
    assert done.returncode == 1 and done.stdout == b""
    assert done.stderr.decode() == (
        "Error: ch-remote exited with the following chain of errors:\n  0: http client error\n"
        f"  1: Server responded with {name}\n  2: Error from API\n  3: VM is not running\n")


@pytest.mark.parametrize("body", [b"not JSON", b"", b'{"a":1}', b"[1,2]", b"[]", b"x" * 100000])
def test_refusal_without_causes(tmp_path, body):
    with Server(tmp_path, [answer(body, 500)] * 2) as server:
        ours, theirs = ask(server, "boot"), ask(server, "boot", name="ch-remote")
    assert ours.returncode == theirs.returncode == 1
    assert ours.stderr.startswith(b"varan remote: boot: refused with status 500 (InternalServerError)\n")
    assert len(ours.stderr) < 2000
    assert b"  X: Can't get remote's error messages from JSON response: " in theirs.stderr


def test_refusal_without_a_body(tmp_path):
    with Server(tmp_path, [b"HTTP/1.1 400 \r\n\r\n"]) as server:
        done = ask(server, "boot")
    assert (done.returncode, done.stderr) == (1, b"varan remote: boot: refused with status 400 (BadRequest)\n")


# --- no answer, or a broken one -----------------------------------------------------------------------------------------

def test_nobody_there(tmp_path):
    done = run("--api-socket", str(tmp_path / "none"), "ping")
    assert done.returncode == 1 and b"there is no socket at" in done.stderr
    done = run("--api-socket", str(tmp_path / "none"), "ping", name="ch-remote")
    assert (done.returncode, done.stderr) == (1, b"Error opening HTTP socket: No such file or directory (os error 2)\n")
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(tmp_path / "left"))
    left.close()
    done = run("--api-socket", str(tmp_path / "left"), "ping")
    assert done.returncode == 1 and b"nobody listens at" in done.stderr
    (tmp_path / "file").write_text("")
    done = run("--api-socket", str(tmp_path / "file"), "ping")
    assert done.returncode == 1 and b"nobody listens at" in done.stderr
    for path in ("", "/" + "x" * 107):
        done = run(f"--api-socket={path}", "ping")
        assert done.returncode == 1 and b"must have 1 to 107 bytes" in done.stderr


def test_full_queue_of_a_server_that_never_accepts(tmp_path):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s"))
        server.listen(0)
        waiting = []
        try:
            for _ in range(4):
                one = socket.socket(socket.AF_UNIX)
                one.setblocking(False)
                waiting.append(one)
                one.connect(str(tmp_path / "s"))
        except BlockingIOError:
            pass
        done = run("--api-socket", str(tmp_path / "s"), "ping", "--timeout=1")
        for one in waiting:
            one.close()
    assert done.returncode == 1 and b"did not take the connection within 1000 ms" in done.stderr


BROKEN = [
    ("ssh", [b"SSH-2.0-OpenSSH\r\n", 0.5], b"does not speak HTTP"),
    ("http2", b"HTTP/2 200\r\n\r\n", b"does not speak HTTP"),
    ("closed at once", None, b"without an answer"),
    ("cut in the status", [b"HTTP/1.1 2", None], b"the answer is cut: the connection ended in its head"),
    ("cut in the head", [OK, None], b"the answer is cut: the connection ended in its head"),
    ("cut in the body", [OK + b"Content-Length: 10\r\n\r\n{\"a\"", None], b"ended after 4 of 10 bytes of its body"),
    ("status of letters", b"HTTP/1.1 abc\r\n\r\n", b"status line is broken"),
    ("status too long", b"HTTP/1.1 2000\r\n\r\n", b"status line is broken"),
    ("status 0", b"HTTP/1.1 099\r\n\r\n", b"status line is broken"),
    ("negative length", OK + b"Content-Length: -1\r\n\r\n", b"Content-Length is broken"),
    ("empty length", OK + b"Content-Length: \r\n\r\n", b"Content-Length is broken"),
    ("two lengths", OK + b"Content-Length: 1\r\ncontent-length: 2\r\n\r\n{}", b"Content-Length is broken"),
    ("overflowing length", OK + b"Content-Length: 99999999999999999999\r\n\r\n", b"Content-Length is broken"),
    ("huge length", OK + b"Content-Length: 99999999999\r\n\r\n", b"99999999999 bytes; at most 33554432"),
    ("more than announced", OK + b"Content-Length: 2\r\n\r\n{}{}", b"more than the answer it announced"),
    ("no colon", b"HTTP/1.1 200 \r\nnothing\r\n\r\n", b"a line of the answer's head is broken"),
    ("chunked", b"HTTP/1.1 200 \r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", b"transfer coding"),
    ("huge head", b"HTTP/1.1 200 \r\n" + b"X: y\r\n" * 20000, b"head has more than 65536 bytes"),
    ("endless body", [b"HTTP/1.1 200 \r\nConnection: close\r\n\r\n" + b"x" * (33 << 20), None], b"more than 33554432 bytes"),
]


@pytest.mark.parametrize("name, steps, why", BROKEN, ids=[name for name, _, _ in BROKEN])
def test_broken_answer(tmp_path, name, steps, why):
    with Server(tmp_path, [steps] * 2) as server:
        done = ask(server, "ping")
        theirs = ask(server, "ping", name="ch-remote")
    assert done.returncode == theirs.returncode == 1 and done.stdout == theirs.stdout == b""
    assert done.stderr.startswith(b"varan remote: ping: ") and why in done.stderr
    assert theirs.stderr.startswith(b"Error: ch-remote exited with the following chain of errors:\n  0: http client error\n  1: ")


def test_slow_answer_that_comes(tmp_path):
    whole = answer({"version": "x"})
    with Server(tmp_path, [[part for i in range(len(whole)) for part in (whole[i:i + 1], 0.002)]]) as server:
        done = ask(server, "--json", "ping", "--timeout=10")
    assert (done.returncode, done.stdout) == (0, b'{"version": "x"}\n')


@pytest.mark.parametrize("steps", [[3], [OK, 3], [OK + b"Content-Length: 5\r\n\r\n{", 3],
                                   [step for _ in range(30) for step in (b"HTTP/1.1 200 \r\n"[_:_ + 1], 0.2)]],
                         ids=["nothing", "head", "body", "a byte now and then"])
def test_slow_answer_that_does_not(tmp_path, steps):
    with Server(tmp_path, [steps]) as server:
        began = time.monotonic()
        done = ask(server, "ping", "--timeout", "1")
        took = time.monotonic() - began
    assert done.returncode == 1 and b"no whole answer within 1000 ms" in done.stderr and 0.9 < took < 2.5


FINE = [
    ("with a reason", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"),
    ("without a space", b"HTTP/1.1 200\r\nContent-Length: 2\r\n\r\n{}"),
    ("version 1.0", b"HTTP/1.0 200 OK\r\nContent-Length:2\r\n\r\n{}"),
    ("any case, spaces", b"HTTP/1.1 200 \r\ncOnTeNt-LeNgTh: \t2 \r\n\r\n{}"),
    ("until the end", [b"HTTP/1.1 200 \r\nConnection: close\r\n\r\n{}", None]),
    ("after 100", b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 \r\nContent-Length: 2\r\n\r\n{}"),
    ("the same length twice", b"HTTP/1.1 200 \r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\n{}"),
]


@pytest.mark.parametrize("name, steps", FINE, ids=[name for name, _ in FINE])
def test_answers_that_are_fine(tmp_path, name, steps):
    with Server(tmp_path, [steps]) as server:
        done = ask(server, "--json", "ping")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"{}\n", b"")


def test_large_bodies_both_ways(tmp_path):
    sent = b'{"x":"' + b"a" * ((4 << 20) - 8) + b'"}'
    received = b'{"y":"' + b"b" * (20 << 20) + b'"}'
    with Server(tmp_path, [answer(received)]) as server:
        done = ask(server, "create", stdin=sent)
    assert done.returncode == 0 and done.stdout == received + b"\n"
    assert server.requests[0].endswith(b"\r\n\r\n" + sent)


def test_server_that_answers_before_it_has_read(tmp_path):
    """A body that is refused unread: the answer counts, not the broken pipe."""
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen()

        def serve():
            connection, _ = server.accept()
            with connection:
                connection.recv(100)
                connection.sendall(answer(["too large"], 413))
                connection.shutdown(socket.SHUT_RD)
                time.sleep(0.3)
        thread = threading.Thread(target=serve)
        thread.start()
        done = run("--api-socket", path, "create", stdin=b" " * (4 << 20))
        thread.join()
    assert done.returncode == 1 and b"refused with status 413" in done.stderr and b"  too large\n" in done.stderr


# --- tables -------------------------------------------------------------------------------------------------------------

INFO = {
    "config": {
        "cpus": {"boot_vcpus": 2, "max_vcpus": 4}, "memory": {"size": 512 << 20, "shared": True},
        "payload": {"kernel": "/k", "cmdline": "console=ttyS0"},
        "disks": [{"id": "_disk0", "path": "/d.img", "readonly": True}], "net": [{"id": "_net1", "tap": "tap0"}],
        "serial": {"mode": "Tty"}, "console": {"mode": "Pty", "file": "/dev/pts/7"},
    },
    "state": "Running", "memory_actual_size": 256 << 20,
    "device_tree": {
        "_disk0": {"id": "_disk0", "resources": [], "parent": "_virtio-pci-_disk0", "children": []},
        "_virtio-pci-_disk0": {"id": "_virtio-pci-_disk0", "resources": [], "children": ["_disk0"],
                               "pci_bdf": "0000:00:03.0"},
        "__serial": {"id": "__serial", "resources": [], "children": []},
    },
}


def test_table_of_info(tmp_path):
    with Server(tmp_path, [answer(INFO)] * 2) as server:
        done = ask(server, "info")
        raw = ask(server, "info", name="ch-remote")
    assert done.returncode == 0 and json.loads(raw.stdout) == INFO
    assert done.stdout.decode() == """\
state    Running
vCPUs    2, at most 4
memory   512 MiB, now 256 MiB, shared
kernel   /k
cmdline  console=ttyS0
serial   Tty
console  Pty /dev/pts/7

DEVICE    PCI ADDRESS   KIND  DETAILS
_disk0    0000:00:03.0  disk  /d.img (read-only)
__serial
"""


def test_table_shows_what_is_on_its_way_out(tmp_path):
    info = json.loads(json.dumps(INFO))
    info["device_tree"]["_disk0"]["being_removed"] = True
    with Server(tmp_path, [answer(info)]) as server:
        done = ask(server, "info")
    assert "_disk0    0000:00:03.0  disk  /d.img (read-only), being removed\n" in done.stdout.decode()


def test_table_of_counters(tmp_path):
    counters = {"_disk0": {"read_bytes": 18446, "write_ops": 0}, "_net1": {"rx_frames": 7}}
    with Server(tmp_path, [answer(counters)]) as server:
        done = ask(server, "counters")
    assert done.stdout.decode() == """\
DEVICE  COUNTER     VALUE
_disk0  read_bytes  18446
_disk0  write_ops   0
_net1   rx_frames   7
"""


def test_counters_that_fill_their_64_bits(tmp_path):
    body = b'{"_disk0":{"a":18446744073709551615,"b" : 9223372036854775808 , "c":5,"d\\"1:18446744073709551615":-7}}'
    with Server(tmp_path, [answer(body)]) as server:
        done = ask(server, "counters")
    assert (done.returncode, done.stderr) == (0, b"")
    assert [line.split()[-1] for line in done.stdout.decode().splitlines()] == [
        "VALUE", "18446744073709551615", "9223372036854775808", "5", "-7"]
    assert b'd"1:18446744073709551615  -7\n' in done.stdout


@pytest.mark.parametrize("raw, shown", [
    ("a\x1b]0;x\x07b", "a?]0;x?b"), ("a\u009b31mb\u0080\u009f", "a?31mb??"), ("\x7f", "?"), ("é\u00a0€😀", "é\u00a0€😀")])
def test_controls_do_not_reach_the_terminal(tmp_path, raw, shown):
    with Server(tmp_path, [answer({raw: {"n": 1}}), answer([raw], 500)]) as server:
        assert ask(server, "counters").stdout.decode().splitlines()[1].split("  ")[0] == shown
        assert ask(server, "boot").stderr.decode().endswith(f"\n  {shown}\n")


def test_what_is_not_utf8_does_not_reach_the_terminal(tmp_path):
    """Paths of errors are as the user gave them, in any bytes."""
    done = run("events", "--event-monitor", os.fsencode(tmp_path) + b"/\x9b1m\xc3/\xe2\x82")
    assert done.returncode == 1 and b"/?1m?/??: No such file" in done.stderr


def test_columns_are_as_wide_as_their_characters(tmp_path):
    with Server(tmp_path, [answer({"éé": {"n": 1}, "ab": {"n": 2}})]) as server:
        lines = ask(server, "counters").stdout.decode().splitlines()
    assert lines[1:] == ["éé      n        1", "ab      n        2"]


def test_table_of_ping(tmp_path):
    with Server(tmp_path, [answer({"build_version": "v53.0-1", "version": "53.0", "pid": 4, "features": ["kvm", "io_uring"]})]
                ) as server:
        done = ask(server, "ping")
    assert done.stdout.decode() == "version   53.0\nbuild     v53.0-1\nprocess   4\nfeatures  kvm, io_uring\n"


def test_added_device(tmp_path):
    with Server(tmp_path, [answer({"id": "_disk1", "bdf": "0000:00:05.0"}), NO_CONTENT]) as server:
        done = ask(server, "add-disk", "path=/d")
        assert done.stdout == b"_disk1 at PCI address 0000:00:05.0\n"
        done = ask(server, "add-disk", "path=/d")
        assert done.stdout.startswith(b"added to the configuration")


@pytest.mark.parametrize("command", ["info", "counters", "ping"])
@pytest.mark.parametrize("body", [b"", b"[]", b"nonsense", b'{"a":', b'"\\u0000"', b"[" * 100000])
def test_tables_of_nonsense(tmp_path, command, body):
    with Server(tmp_path, [answer(body)]) as server:
        done = ask(server, command)
    assert done.returncode == 1 and b"the answer is" in done.stderr and done.stdout == b""


@pytest.mark.parametrize("command", ["info", "counters", "ping"])
def test_tables_of_odd_objects(tmp_path, command):
    odd = [{}, {"config": 1, "device_tree": []}, {"device_tree": {"a": 1, "b": {"parent": {}}}, "config": {"disks": [1, None]}},
           {"a": {"b": {}}, "features": {"x": 1}, "pid": -1, "state": "\x1b[31m"}]
    with Server(tmp_path, [answer(body) for body in odd]) as server:
        for _ in odd:
            done = ask(server, command)
            assert done.returncode == 0 and b"\x1b" not in done.stdout


def test_wait_for_removal(tmp_path):
    gone = dict(INFO, device_tree={}, config={"disks": []})
    with Server(tmp_path, [NO_CONTENT, answer(INFO), answer(INFO), answer(gone)]) as server:
        done = ask(server, "remove-device", "_disk0", "--wait")
    assert (done.returncode, done.stderr) == (0, b"")
    assert server.requests[1:] == [request("GET", "vm.info")] * 3


@pytest.mark.parametrize("body", [b"garbage", b"", b"[]", b"{}", b'{"config":[]}', b'{"config":1,"device_tree":{}}'])
def test_wait_for_removal_with_an_answer_that_says_nothing(tmp_path, body):
    with Server(tmp_path, [NO_CONTENT, answer(body)]) as server:
        done = ask(server, "remove-device", "_disk0", "--wait")
    assert done.returncode == 1 and done.stderr.startswith(b"varan remote: remove-device: the answer "), done.stderr


def test_wait_for_removal_of_what_there_is_one_of(tmp_path):
    there, gone = {"config": {"vsock": {"id": "x"}}}, {"config": {"rate_limit_groups": [{"id": "x"}], "vsock": None}}
    with Server(tmp_path, [NO_CONTENT, answer(there), answer(gone)]) as server:
        done = ask(server, "remove-device", "x", "--wait")
    assert (done.returncode, done.stderr) == (0, b"")
    assert len(server.requests) == 3


def test_wait_for_removal_that_never_comes(tmp_path):
    with Server(tmp_path, [NO_CONTENT] + [answer(INFO)] * 100) as server:
        done = ask(server, "remove-device", "_disk0", "--wait", "--timeout=1")
    assert done.returncode == 1 and b"has not let _disk0 go within 1000 ms" in done.stderr


def test_reconnects_to_a_server_that_closes(tmp_path):
    closing = b"HTTP/1.1 204 \r\nConnection: close\r\n\r\n"
    with Server(tmp_path, [[closing, None], answer({"config": {}})]) as server:
        done = ask(server, "remove-device", "x", "--wait")
    assert done.returncode == 0, done.stderr


# --- events -------------------------------------------------------------------------------------------------------------

def event(source, name, properties=None, secs=1, nanos=500000):
    return json.dumps({"timestamp": {"secs": secs, "nanos": nanos}, "source": source, "event": name,
                       "properties": properties}, indent=2) + "\n\n"


def test_events_of_a_file(tmp_path):
    stream = event("vm", "booting") + event("virtio-device", "activated", {"id": "a}\"{"}) + event("vm", "paused", secs=75)
    (tmp_path / "events").write_text(stream)
    done = run("events", f"--event-monitor=path={tmp_path / 'events'}", "--no-follow")
    assert done.returncode == 0 and done.stdout.decode() == (
        "     1.000500  vm             booting\n"
        "     1.000500  virtio-device  activated  id=a}\"{\n"
        "    75.000500  vm             paused\n")
    done = run("events", "--json", "--event-monitor", str(tmp_path / "events"), "--no-follow")
    assert [json.loads(line)["event"] for line in done.stdout.splitlines()] == ["booting", "activated", "paused"]


def follow(path, *words):
    return subprocess.Popen([VARAN, "remote", "events", "--event-monitor", str(path), *words], stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE)


def test_events_are_followed_in_a_file(tmp_path):
    path = tmp_path / "events"
    path.write_text("")
    process = follow(path)
    with path.open("a") as file:
        text = event("vm", "booted")
        for part in (text[:20], text[20:]):
            file.write(part)
            file.flush()
            time.sleep(0.05)
        assert process.stdout.readline().endswith(b"booted\n")
    path.write_text(event("vm", "again"))  # emptied: from the start
    assert process.stdout.readline().endswith(b"again\n")
    with path.open("a") as file:
        file.write(event("vmm", "shutdown"))
    out, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 0 and out.endswith(b"vmm            shutdown\n") and err == b""


def test_events_are_followed_in_a_file_that_was_written_anew(tmp_path):
    """Emptied, and longer than before when the reader comes to look; once with an event that was not whole."""
    path = tmp_path / "events"
    path.write_text(event("vm", "booted") + event("vm", "paused")[:30])
    process = follow(path)
    assert process.stdout.readline().endswith(b"booted\n")
    for round in range(2):
        time.sleep(0.1)
        process.send_signal(signal.SIGSTOP)
        path.write_text(event("vm", "x" * (800 * (round + 1)), nanos=1000 * round) + event("vm", f"again{round}"))
        process.send_signal(signal.SIGCONT)
        assert process.stdout.readline().endswith(b"xxx\n")
        assert process.stdout.readline().endswith(b"again%d\n" % round)
    with path.open("a") as file:
        file.write(event("vmm", "shutdown"))
    out, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 0 and out.endswith(b"vmm            shutdown\n") and err == b""


def test_events_that_are_broken_in_the_middle_are_not_printed_twice(tmp_path):
    (tmp_path / "events").write_text(event("vm", "booted") + "}" + event("vm", "paused"))
    done = run("events", "--event-monitor", str(tmp_path / "events"))
    assert done.returncode == 1 and b"not an event stream" in done.stderr and done.stdout.count(b"\n") == 1


def test_events_that_would_speak_to_the_terminal(tmp_path):
    evil = "\x1b[2J\u009b\x7f"
    (tmp_path / "events").write_text(event(evil, evil, {evil: evil, "deep": {evil: [evil]}}))
    done = run("events", "--event-monitor", str(tmp_path / "events"), "--no-follow")
    assert done.returncode == 0
    shown = "?[2J??"
    deep = '{"\\u001b[2J??":["\\u001b[2J??"]}'
    assert done.stdout.decode().replace("u001B", "u001b") == f"     1.000500  {shown:14} {shown}  {shown}={shown}  deep={deep}\n"


def test_events_are_followed_in_a_fifo(tmp_path):
    path = tmp_path / "fifo"
    os.mkfifo(path)
    process = follow(path, "--json")
    with path.open("w") as file:  # waits until the reader is there
        file.write(event("vm", "booted") + event("vm", "paused"))
        file.flush()
        assert json.loads(process.stdout.readline())["event"] == "booted"
        assert json.loads(process.stdout.readline())["event"] == "paused"
    process.communicate(timeout=SECONDS)  # the writer has gone
    assert process.returncode == 0


@pytest.mark.parametrize("stream, why", [
    ("nonsense", b"not an event stream"), ("{}", b"without source and event"), ('{"source":"vm"', b"middle of an event"),
    ('{"source":"vm","event":}', b"not an event stream"), ('{"source":"' + "x" * (2 << 20), b"an event of more than"),
    ("}", b"not an event stream")])
def test_events_that_are_none(tmp_path, stream, why):
    (tmp_path / "events").write_text(stream)
    done = run("events", "--event-monitor", str(tmp_path / "events"), "--no-follow")
    assert done.returncode == 1 and why in done.stderr


def test_events_of_what_is_no_file(tmp_path):
    done = run("events", "--event-monitor", str(tmp_path))
    assert done.returncode == 1 and b"neither a file nor a FIFO" in done.stderr
    done = run("events", "--event-monitor", str(tmp_path / "none"))
    assert done.returncode == 1 and b"No such file" in done.stderr


def test_events_of_a_file_that_is_removed(tmp_path):
    path = tmp_path / "events"
    path.write_text("")
    process = follow(path)
    time.sleep(0.2)
    path.unlink()
    _, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 1 and b"was removed" in err


# --- the program's own API ----------------------------------------------------------------------------------------------

@pytest.fixture
def vmm(tmp_path):
    """A VMM without a VM, with its API and its events."""
    path, events = tmp_path / "api.sock", tmp_path / "events"
    process = subprocess.Popen([VARAN, "--api-socket", f"path={path}", "--event-monitor", f"path={events}"],
                               stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    for _ in range(SECONDS * 100):
        if run("--api-socket", str(path), "ping").returncode == 0:
            break
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    yield lambda *words, **more: run("--api-socket", str(path), *words, **more)
    process.kill()
    process.communicate()


def test_real_ping(vmm):
    assert vmm("ping").stdout.startswith(b"version ")
    theirs = json.loads(vmm("ping", name="ch-remote").stdout)
    assert {"version", "build_version", "pid", "features"} <= theirs.keys()


@pytest.mark.parametrize("command, status, name", [
    ("info", 404, "NotFound"), ("boot", 404, "NotFound"), ("reboot", 404, "NotFound"), *(
        (command, 500, "InternalServerError") for command in ("pause", "resume", "shutdown", "power-button", "nmi"))])
def test_real_refusal_without_a_vm(vmm, command, status, name):
    done = vmm(command)
    assert done.returncode == 1
    assert done.stderr.startswith(f"varan remote: {command}: refused with status {status} ({name})\n  Error from API\n".encode())
    done = vmm(command, name="ch-remote")
    assert done.returncode == 1
    assert f"\n  1: Server responded with {name}\n  2: Error from API\n  3: ".encode() in done.stderr


def test_real_configuration(vmm, tmp_path):
    (tmp_path / "disk").write_bytes(bytes(1 << 20))
    config = {"payload": {"kernel": "/no/kernel"}, "serial": {"mode": "Null"}, "console": {"mode": "Off"}}
    done = vmm("create", stdin=json.dumps(config).encode())
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    done = vmm("add-disk", f"path={tmp_path / 'disk'},id=d0,readonly=on")
    assert done.returncode == 0 and done.stdout.startswith(b"added to the configuration"), done.stderr
    info = json.loads(vmm("info", "--json").stdout)
    assert info["state"] == "Created" and info["config"]["disks"][0]["id"] == "d0"
    assert b"state    Created\n" in vmm("info").stdout
    done = vmm("add-disk", f"path={tmp_path / 'disk'},id=d0")
    assert done.returncode == 1 and b"status 409" in done.stderr or b"status 400" in done.stderr
    done = vmm("remove-device", "d0", "--wait")
    assert (done.returncode, done.stderr) == (0, b"")
    assert vmm("remove-device", "d0").returncode == 1
    assert vmm("delete").returncode == 0
    assert vmm("info").returncode == 1


def test_real_events_and_shutdown(vmm, tmp_path):
    process = follow(tmp_path / "events", "--json")
    assert json.loads(process.stdout.readline())["event"] == "starting"
    assert vmm("shutdown-vmm").returncode == 0
    out, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 0 and json.loads(out.splitlines()[-1])["event"] == "shutdown", (out, err)
