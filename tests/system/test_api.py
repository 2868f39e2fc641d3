# SPDX-License-Identifier: Apache-2.0
"""The REST API, from outside: every route, each state, each field of each body, and clients of all kinds of malice.

Needs no Linux guest: the VMs here halt. What has to be sent comes from the OpenAPI document that the program prints.
"""
import http.client
import json
import os
import selectors
import signal
import socket
import threading
import time
from pathlib import Path

import pytest

from api import ROOT, Client, Vmm, idle_guest, request_bytes
from openapi import Document, is_valid, seeded

HEAD_200 = (b"HTTP/1.1 200 \r\nServer: Cloud Hypervisor API\r\nConnection: keep-alive\r\n"
            b"Content-Type: application/json\r\nContent-Length: %d")
HEAD_204 = b"HTTP/1.1 204 \r\nServer: Cloud Hypervisor API\r\nConnection: keep-alive"
LIMIT = 4 << 20
RANDOM_REQUESTS = 600


@pytest.fixture(scope="module")
def document():
    return Document()


@pytest.fixture
def launch(folder):
    """launch(...): the program with its API, ready unless is_ready=False. Ended with the test."""
    started = []

    def start(*options, is_ready=True, **how):
        vmm = Vmm(folder, *options, **how)
        started.append(vmm)
        return vmm.wait_ready() if is_ready else vmm

    yield start
    for vmm in started:
        vmm.end()


@pytest.fixture
def vmm(launch):
    """One that must live through the test, and end well after it: nothing that a client sends may change that."""
    vmm = launch()
    yield vmm
    assert vmm.process.poll() is None, f"ended with {vmm.process.returncode}: {vmm.errors.read_text()}"
    with vmm.client() as client:
        assert client.put("vm.delete").status == 204
        assert client.put("vmm.shutdown").status == 200
    assert vmm.process.wait(20) == 0
    assert vmm.errors.read_text() == ""


@pytest.fixture
def client(vmm):
    with vmm.client() as client:
        yield client


@pytest.fixture
def config(folder):
    """What vm.create gets: a VM that halts, with nothing that needs a terminal."""
    return {"payload": {"kernel": str(idle_guest(folder / "idle.elf"))}, "memory": {"size": 128 << 20},
            "console": {"mode": "Off"}, "serial": {"mode": "Null"}}


def is_chain(answer):
    return isinstance(answer.json, list) and answer.json and all(isinstance(line, str) and line for line in answer.json)


def refused(answer, status, *words):
    assert answer.status == status and is_chain(answer), answer
    for word in words:
        assert any(word in line for line in answer.json), (word, answer.json)


# Bytes and routes.


def test_bytes_on_the_wire(client):
    pong = client.get("vmm.ping")
    assert pong.head == HEAD_200 % len(pong.body)
    assert {"version", "build_version", "pid", "features"} == set(pong.json)
    assert client.put("vm.delete").head == HEAD_204
    missing = client.get("vm.nothing")
    assert missing.head == b"HTTP/1.1 404 " + (HEAD_200 % len(missing.body))[13:]
    assert missing.json == ["Not Found"]
    other = client.request("HEAD", "vmm.ping")
    assert other.head == b"HTTP/1.1 400 " + (HEAD_200 % 0)[13:]


def test_a_library_of_others_understands_it(vmm, config):
    class Connection(http.client.HTTPConnection):
        def connect(self):
            self.sock = socket.socket(socket.AF_UNIX)
            self.sock.connect(str(vmm.path))

    connection = Connection("localhost", timeout=20)
    for method, name, body, status in (("GET", "vmm.ping", None, 200), ("PUT", "vm.create", json.dumps(config), 204),
                                       ("GET", "vm.info", None, 200), ("PUT", "vm.boot", "no body", 400)):
        connection.request(method, ROOT + name, body, {"Content-Type": "application/json"} if body else {})
        answer = connection.getresponse()
        assert answer.status == status and answer.reason == ""
        text = answer.read()
        assert (json.loads(text) if text else None) is not None or status == 204
    connection.close()


def test_every_route_is_there(client, document):
    assert len(document.routes) >= 31
    for route in document.routes:
        wrong = {"GET": "PUT", "PUT": "GET"}[route.method]
        refused(client.request(wrong, route.name), 400, route.method)
        for method in ("POST", "DELETE", "PATCH"):
            assert client.request(method, route.name, {}).head == b"HTTP/1.1 400 " + (HEAD_200 % 0)[13:]
        if route.body:
            refused(client.request("PUT", route.name), 400, "wants a body")
            refused(client.request("PUT", route.name, b""), 400, "wants a body")
        elif route.method == "PUT":
            refused(client.request("PUT", route.name, {}), 400, "takes no body")
        for path in (route.name + "x", route.name[:-1], "/" + route.name, "/api/v2/" + route.name, ROOT + route.name + "/"):
            assert client.request(route.method, path).status == 404


def test_malformed_json_is_refused_by_every_route(client, document):
    bad = [b"{", b"}", b"[]", b"7", b"null", b'"x"', b"{} {}", b"{'a':1}", b'{"a":}', b'{"a":1,}', b"\xff\xfe", b'{"a":"\xff"}',
           b'{"a":1,"a":2}', b"{" * 100000, b"[" * 100000, b'{"a":' * 1000, b"\0", b"{}\0", b'{"a":"\\u0000"}', b'{"a":1e999}']
    for n, route in enumerate(route for route in document.routes if route.body):
        for body in bad if n == 0 else bad[n % 4::4]:
            answer = client.request("PUT", route.name, body)
            if body in (b'{"a":"\\u0000"}', b'{"a":1e999}') and not route.body.get("required"):
                assert answer.status in (400, *route.statuses)
            else:
                refused(answer, 400, "Failed to deserialize JSON")


# Each field of each body.


def bodies(document, config):
    """(route, schema, body that is valid, what it is answered with when there is no VM)."""
    for route in (route for route in document.routes if route.body):
        base = config if route.name == "vm.create" else document.least(route.body)
        status = 204 if route.name == "vm.create" else 500 if not route.is_supported else 404
        yield route, base, status


def test_each_field_is_checked(client, document, config):
    n = 0
    seen, seen_missing = set(), set()
    for route, base, status in bodies(document, config):
        answer = client.put(route.name, base)
        assert answer.status == status, (route.name, answer)
        assert client.put("vm.delete").status == 204
        for what, path, value in document.broken(route.body, seen):
            answer = client.put(route.name, document.body_with(route.body, path, value, base))
            case = f"{route.name}: {what} at {path}: {answer}"
            assert answer.status == 400 and is_chain(answer), case
            # A number that JSON allows and no machine holds has no place yet when it is refused.
            if what != "too large" or value < 1 << 63:
                assert ("[0]" if path[-1] == 0 else path[-1]) in answer.json[1], case
            n += 1
        required = route.body.get("required", [])
        for name in required:
            answer = client.put(route.name, {key: value for key, value in base.items() if key != name})
            refused(answer, 400, f"missing member '{name}'")
            n += 1
        for path, schema in document.fields(route.body, seen_missing):
            for name in schema.get("required", []) if schema["type"] == "object" else []:
                inner = {key: value for key, value in document.least(schema).items() if key != name}
                refused(client.put(route.name, document.body_with(route.body, path, inner, base)), 400, "missing member", name)
                n += 1
        # What we do not know is not looked at.
        assert client.put(route.name, {**base, "unknown-to-all": {"a": [1]}}).status == status
        assert client.put("vm.delete").status == 204
    assert n > 400, n


def test_each_valid_field_is_taken(client, document, config):
    """A bound itself is no reason for the JSON to be refused; a rule of the configuration may still do it."""
    seen = set()
    for route, base, _ in bodies(document, config):
        for path, schema in document.fields(route.body, seen):
            values = {"integer": [schema.get("minimum", 0), schema.get("maximum", (1 << 63) - 1)], "boolean": [not schema.get("default", False)],
                      "object": [], "array": [[]], "string": schema.get("enum", [])}[schema["type"]]
            for value in values:
                answer = client.put(route.name, document.body_with(route.body, path, value, base))
                assert answer.status in route.statuses | {204}, (route.name, path, value, answer)
                assert answer.status == 204 or answer.json[0] != "Failed to deserialize JSON", (route.name, path, value, answer)
                if answer.status == 204:
                    assert client.put("vm.delete").status == 204


# States.

# Route: what it is answered with when there is no VM, one that was created, one that runs, one that is paused.
STATES = ("None", "Created", "Running", "Paused")
EXPECTED = {
    "vm.info": (404, 200, 200, 200),
    "vm.counters": (500, 500, 200, 200),
    "vm.create": (204, 500, 500, 500),
    "vm.delete": (204, 204, 204, 204),
    "vm.boot": (404, 204, 500, 204),
    "vm.pause": (500, 500, 204, 500),
    "vm.resume": (500, 500, 500, 204),
    "vm.shutdown": (500, 500, 204, 204),
    "vm.reboot": (404, 404, 204, 204),
    "vm.power-button": (500, 500, 204, 204),
    "vm.nmi": (500, 500, 204, 204),
    "vm.add-disk": (404, 204, 200, 200),
    "vm.remove-device": (404, 404, 404, 404),
    "vm.resize-disk": (404, 500, 404, 404),
    "vm.add-pmem": (404, 204, 200, 200),
    # Part of the configuration before boot; none of them can be plugged in yet.
    **dict.fromkeys(("vm.add-net", "vm.add-fs", "vm.add-generic-vhost-user", "vm.add-vsock", "vm.add-vdpa",
                     "vm.add-device", "vm.add-user-device"), (404, 204, 500, 500)),
}
VSOCK = {"cid": 3, "socket": "/no/such/socket"}
AFTER = {"vm.create": "Created", "vm.delete": "None", "vm.boot": "Running", "vm.pause": "Paused", "vm.resume": "Running",
         "vm.shutdown": "Created", "vm.reboot": "Running"}


def state(client):
    info = client.get("vm.info")
    return info.json["state"] if info.status == 200 else "None"


def bring_to(client, wanted, config):
    assert client.put("vm.delete").status == 204
    for name in {"None": [], "Created": ["create"], "Running": ["create", "boot"], "Paused": ["create", "boot", "pause"]}[wanted]:
        answer = client.put(f"vm.{name}", config if name == "create" else None)
        assert answer.status == 204, (name, answer)
    assert state(client) == wanted


@pytest.mark.parametrize("before", STATES)
def test_every_operation_in_every_state(client, document, config, raw, before):
    config = {**config, "memory": {**config["memory"], "shared": True}}  # which vhost-user asks for
    bodies = {**{route.name: document.least(route.body) for route in document.routes if route.body},
              "vm.create": config, "vm.add-disk": {"path": str(raw("disk", 1 << 20)), "id": "new"},
              "vm.add-pmem": {"file": str(raw("memory", 2 << 20)), "id": "memory"}, "vm.add-vsock": VSOCK,
              "vm.add-device": {"path": "/no/such/device"}, "vm.remove-device": {"id": "no-such-device"},
              "vm.resize-disk": {"id": "no-such-disk", "desired_size": 1 << 20}}
    done = {route.name for route in document.routes if route.is_supported and route.name.startswith("vm.")}
    assert done == set(EXPECTED)
    for route in document.routes:
        if route.name not in EXPECTED:
            continue
        bring_to(client, before, config)
        answer = client.request(route.method, route.name, bodies.get(route.name))
        expected = EXPECTED[route.name][STATES.index(before)]
        assert answer.status == expected, (route.name, answer)
        assert answer.status in route.statuses, f"{route.name}: {answer.status} is not documented"
        if expected >= 400:
            refused(answer, expected, "Error from API")
            assert state(client) == before
        elif route.name in AFTER:
            assert state(client) == AFTER[route.name]
        if answer.status == 200:
            assert is_valid(document, route.answers[200], answer.json), answer


def test_devices_before_boot(vmm, client, document, config):
    """Each kind joins the configuration, descriptors and all; what has no device yet is said at boot, and can be taken out."""
    assert client.put("vm.create", {**config, "cpus": {"boot_vcpus": 2, "max_vcpus": 2}}).status == 204
    before = vmm.settled_fds()
    tap = os.open("/dev/null", os.O_RDWR)
    refused(client.request("PUT", "vm.add-net", {"id": "net", "num_queues": 2}, [tap, tap]), 400,
            "Number of queues to virtio_net does not match the number of input FDs")
    assert vmm.n_fds() == before
    assert client.request("PUT", "vm.add-net", {"id": "net", "num_queues": 4, "fds": [5]}, [tap, tap]).head == HEAD_204
    os.close(tap)
    assert vmm.n_fds() == before + 2
    assert client.put("vm.add-vsock", {**VSOCK, "id": "vsock"}).head == HEAD_204
    refused(client.put("vm.add-vsock", VSOCK), 409, "There is a vsock device already")
    assert client.put("vm.add-pmem", {"file": "/no/such/file", "id": "pmem"}).head == HEAD_204
    told = client.get("vm.info").json["config"]
    assert [net["fds"] for net in told["net"]] == [[-1, -1]] and told["vsock"]["cid"] == 3 and told["pmem"][0]["id"] == "pmem"
    for device, why in (("net", "not supported yet: --net"), ("vsock", "not supported yet: --vsock"),
                        ("pmem", "--pmem: cannot open '/no/such/file': No such file or directory")):
        refused(client.put("vm.boot"), 500, why)
        assert client.put("vm.remove-device", {"id": device}).head == HEAD_204
    assert vmm.n_fds() == before
    assert client.put("vm.boot").status == 204
    refused(client.put("vm.add-pmem", {"file": "/no/such/file"}), 500, "The pmem device could not be added to the VM",
            "No such file or directory")
    refused(client.put("vm.add-vsock", VSOCK), 500, "The vsock device could not be added to the VM",
            "not supported yet: --vsock")


def test_the_life_of_a_vm(client, document, config, raw):
    """One after the other, as a manager does it, with what vm.info says of it."""
    schema = next(route for route in document.routes if route.name == "vm.info").answers[200]

    def info():
        answer = client.get("vm.info")
        assert answer.status == 200 and is_valid(document, schema, answer.json), answer
        return answer.json

    def bdf(name):
        tree = info()["device_tree"]
        return tree[tree[name]["parent"]]["pci_bdf"]

    assert client.put("vm.create", config).status == 204
    assert info()["state"] == "Created" and info()["memory_actual_size"] == 128 << 20
    assert info()["config"]["payload"] == config["payload"]
    cold = {"path": str(raw("cold", 1 << 20)), "id": "cold"}
    assert client.put("vm.add-disk", cold).head == HEAD_204
    refused(client.put("vm.add-disk", cold), 409, "Identifier cold is not unique")
    assert [disk["id"] for disk in info()["config"]["disks"]] == ["cold"]
    assert client.put("vm.boot").status == 204
    assert bdf("cold").startswith("0000:00:")
    assert "cold" in client.get("vm.counters").json

    hot = {"path": str(raw("hot", 1 << 20))}
    device = client.put("vm.add-disk", hot)
    assert device.status == 200 and set(device.json) == {"id", "bdf"}
    assert bdf(device.json["id"]) == device.json["bdf"]
    # This guest never lets go of it: it is on its way out, and its id is taken.
    name = {"id": device.json["id"]}
    assert client.put("vm.remove-device", name).head == HEAD_204
    refused(client.put("vm.remove-device", name), 500, "is being removed already")
    refused(client.put("vm.add-disk", {**hot, **name}), 409)
    assert name["id"] in info()["device_tree"]
    refused(client.put("vm.add-disk", {"path": "/no/such/file"}), 500, "No such file or directory")

    assert client.put("vm.pause").status == 204 and info()["state"] == "Paused"
    refused(client.put("vm.pause"), 500, "InvalidStateTransition(Paused, Paused)")
    assert client.put("vm.resume").status == 204 and info()["state"] == "Running"
    # The machine that is built anew has no device that was on its way out.
    assert client.put("vm.reboot").status == 204 and info()["state"] == "Running"
    assert name["id"] not in info()["device_tree"] and "cold" in info()["device_tree"]
    assert client.put("vm.shutdown").status == 204 and info()["state"] == "Created"
    assert client.put("vm.boot").status == 204 and info()["state"] == "Running"
    assert client.put("vm.delete").status == 204
    refused(client.get("vm.info"), 404, "VmNotCreated")


def test_configurations_that_break_a_rule(client, config):
    for change, words in (
        ({"cpus": {"boot_vcpus": 0, "max_vcpus": 1}}, "Number of boot vCPUs is zero"),
        ({"cpus": {"boot_vcpus": 2, "max_vcpus": 1}}, "Max CPUs lower than boot CPUs"),
        ({"disks": [{"path": "a", "vhost_socket": "b"}]}, "Disk path and vhost socket both provided"),
        ({"console": {"mode": "File"}}, "Path missing when using file console mode"),
    ):
        refused(client.put("vm.create", {**config, **change}), 400, "The VM could not be created", words)
        assert client.get("vm.info").status == 404
    refused(client.put("vm.create", {**config, "disks": [{"path": "a", "id": "x"}, {"path": "b", "id": "x"}]}), 409,
            "Identifier x is not unique")
    assert client.put("vm.create", {**config, "payload": {"kernel": "/no/such/kernel"}}).status == 204
    refused(client.put("vm.boot"), 500, "No such file or directory")
    assert state(client) == "Created"


def test_what_is_not_there_yet_says_so(client, document):
    for route in (route for route in document.routes if not route.is_supported):
        answer = client.put(route.name, document.least(route.body))
        assert answer.status == 500
        assert answer.json == ["Error from API", f"not supported yet: {route.name}"]


# Clients.


def test_large_bodies(vmm, client, config):
    padding = LIMIT - len(json.dumps({**config, "padding": ""}))
    body = json.dumps({**config, "padding": "x" * padding}).encode()
    assert len(body) == LIMIT
    assert client.put("vm.create", body).status == 204
    assert client.put("vm.delete").status == 204
    with vmm.client() as other:
        answer = other.request("PUT", "vm.create", body + b" ")
        refused(answer, 400, "larger than the limit of 4194304")
        assert "Connection: close" in answer.head.decode() and other.ended()
    with vmm.client() as other:
        other.send(f"PUT {ROOT}vm.create HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".encode())
        refused(other.answer(), 411, "Content-Length")
    # As curl sends what is longer than a kilobyte.
    client.send(f"PUT {ROOT}vm.create HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: {LIMIT}\r\n\r\n".encode())
    assert client.answer().status == 100
    client.send(body)
    assert client.answer().status == 204


def memory(vmm, name):
    for line in (Path("/proc") / str(vmm.process.pid) / "status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) << 10
    raise AssertionError(name)


def test_bodies_of_many_values(vmm, client):
    """What is built of a body is many times as large as the body: it is bounded, and given back."""
    before = memory(vmm, "VmRSS")
    for piece in b"{}", b"[]", b"0", b'{"":0}':
        body = b"[" + b",".join([piece] * ((LIMIT - 2) // (len(piece) + 1))) + b"]"
        refused(client.put("vm.create", body), 400, "JSON: more than 131072 values")
        body = b"[" + b",".join([piece] * (60 << 10)) + b"]"
        refused(client.put("vm.create", body), 400, "JSON: expected an object, found an array")
    assert memory(vmm, "VmHWM") < before + (48 << 20)
    assert memory(vmm, "VmRSS") < before + (8 << 20)


def test_stuck_clients_do_not_lock_others_out(vmm):
    """As many half requests as there are places: one more client need not wait until their time is over."""
    stuck = [vmm.client() for _ in range(64)]
    for client in stuck:
        client.send(b"PUT /api/v1/vm.cre")
    start = time.monotonic()
    with vmm.client() as client:
        assert client.get("vmm.ping").status == 200
    assert time.monotonic() - start < 15
    for client in stuck:
        client.close()


def test_slow_and_half_closed_clients(vmm, client, config):
    data = request_bytes("PUT", "vm.create", config)
    slow = [vmm.client() for _ in range(20)]
    for at in range(0, len(data), 7):
        for one in slow:
            one.send(data[at:at + 7])
        assert client.get("vmm.ping").status == 200
    statuses = [one.answer().status for one in slow]
    assert sorted(statuses) == [204] + [500] * 19
    # They have said all that they will say, and still get their answers.
    for one in slow:
        one.send(request_bytes("GET", "vm.info") + request_bytes("GET", "vmm.ping"))
        one.socket.shutdown(socket.SHUT_WR)
        assert (one.answer().status, one.answer().status) == (200, 200)
        assert one.ended()
        one.close()
    with vmm.client() as half:
        half.send(data[:-1])
        half.socket.shutdown(socket.SHUT_WR)
        refused(half.answer(), 400, "ends before its end")


def test_pipelined_requests(vmm, config):
    with vmm.client() as client:
        client.send(request_bytes("PUT", "vm.create", config) + request_bytes("GET", "vm.info") +
                    request_bytes("PUT", "vm.boot") + request_bytes("GET", "vm.info") + request_bytes("PUT", "vm.delete") +
                    request_bytes("GET", "vm.info") + request_bytes("GET", "vmm.ping") * 200)
        answers = [client.answer() for _ in range(206)]
        assert [answer.status for answer in answers[:6]] == [204, 200, 204, 200, 204, 404]
        assert [answers[1].json["state"], answers[3].json["state"]] == ["Created", "Running"]
        assert {answer.status for answer in answers[6:]} == {200}


def test_fifty_clients_at_once(vmm, config):
    """Each has its own conversation; one of them makes VMs and deletes them."""
    failures = []

    def talk(number):
        try:
            with vmm.client() as client:
                for turn in range(20):
                    if number == 0:
                        assert client.put("vm.create", config).status == 204
                        assert client.put("vm.delete").status == 204
                    elif number % 2:
                        assert client.get("vmm.ping").json["pid"] == vmm.process.pid
                    else:
                        info = client.get("vm.info")
                        assert info.status in (200, 404) and info.json
                    if turn % 5 == 4:
                        refused(client.get(f"vm.client-{number}"), 404)
        except Exception as failure:  # pylint: disable=broad-except
            failures.append((number, failure))

    before = vmm.settled_fds()
    threads = [threading.Thread(target=talk, args=(number,)) for number in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures
    vmm.wait_n_fds(before)


def test_more_clients_than_places(vmm):
    """Those above the limit wait, and idle ones make room for them."""
    clients = [vmm.client() for _ in range(100)]
    waiting = selectors.DefaultSelector()
    for client in clients:
        client.send(request_bytes("GET", "vmm.ping"))
        waiting.register(client.socket, selectors.EVENT_READ, client)
    end = time.monotonic() + 40
    n_answered = 0
    while n_answered < len(clients) and time.monotonic() < end:
        for key, _ in waiting.select(1):
            assert key.data.answer().status == 200
            waiting.unregister(key.fileobj)
            n_answered += 1
    assert n_answered == 100
    for client in clients:
        client.close()


def test_clients_that_vanish(vmm, config):
    before = vmm.settled_fds()
    pieces = [b"", b"G", b"PUT / HTTP/1.1\r\nContent-Length: 4000000\r\n\r\n{", request_bytes("PUT", "vm.create", config)[:-3],
              request_bytes("GET", "vmm.ping") * 50, b"nonsense\r\n" * 10, b"\0" * 20000]
    for _ in range(30):
        for piece in pieces:
            client = vmm.client()
            client.send(piece)
            client.close()
    vmm.wait_n_fds(before)


def test_descriptors_for_every_route(vmm, document, config):
    """They are taken where they have a meaning, refused elsewhere, and closed in any case."""
    with vmm.client() as client:
        client.get("vmm.ping")
        before = vmm.settled_fds()
        fds = [os.open("/dev/null", os.O_RDONLY) for _ in range(3)]
        for route in document.routes:
            body = config if route.name == "vm.create" else document.least(route.body) if route.body else None
            answer = client.request(route.method, route.name, body, fds)
            if route.name in ("vm.add-net", "vm.add-device", "vm.restore", "vm.receive-migration"):
                assert not any("takes no descriptors" in line for line in answer.json or []), answer
            else:
                refused(answer, 400, "takes no descriptors, and 3 came with it")
            assert vmm.n_fds() == before, route.name
        # In the middle of a body, of a request that never ends, with nonsense, and more than a request may have.
        many = fds * 84
        for data in (request_bytes("PUT", "vm.create", config)[:-5], b"PUT", b"nonsense\r\n"):
            with vmm.client() as other:
                other.send(data, many)
                other.get("vmm.ping") if data == b"" else None
        with vmm.client() as other:
            other.send(b"PUT /x HT", many)
            assert client.get("vmm.ping").status == 200
            other.send(b"TP/1.1\r\n", fds)
            refused(other.answer(), 400, "too many descriptors")
        vmm.wait_n_fds(before)
        for fd in fds:
            os.close(fd)


def test_random_requests(vmm, client, document):
    """Bodies made from the schemas, mostly valid: the answers are those of the document, whatever they are."""
    r = seeded(20240229)
    before, resident = vmm.settled_fds(), vmm.resident_kib()
    routes = [route for route in document.routes if route.body]
    seen = {}
    for n in range(RANDOM_REQUESTS):
        # vm.create is the richest by far.
        route = next(route for route in routes if route.name == "vm.create") if n % 2 else r.choice(routes)
        body = document.random_value(route.body, r)
        answer = client.put(route.name, body)
        case = (n, route.name, body, answer)
        assert answer.status in route.statuses, case
        assert answer.status < 400 or is_chain(answer), case
        seen[answer.status] = seen.get(answer.status, 0) + 1
        if route.name == "vm.create" and answer.status == 204:
            info = client.get("vm.info")
            assert info.status == 200 and info.json["state"] == "Created", case
            # What comes out can go in again, and says the same.
            assert client.put("vm.delete").status == 204
            again = client.put("vm.create", info.json["config"])
            assert again.status in (204, 500), (case, again)
            if again.status == 204:
                assert client.get("vm.info").json["config"] == info.json["config"], case
            assert client.put("vm.delete").status == 204
    assert {204, 400, 404, 500} <= set(seen), seen
    assert vmm.n_fds() == before
    assert vmm.resident_kib() < resident + (32 << 10)


def test_random_bytes(vmm):
    """No HTTP at all, nearly HTTP, and HTTP that was damaged."""
    r = seeded(7)
    sample = request_bytes("PUT", "vm.create", {"payload": {"kernel": "x"}})
    for n in range(300):
        data = bytearray(sample * r.randint(1, 3) if n % 3 else r.randbytes(r.randint(1, 3000)))
        for _ in range(r.randint(0, 5)):
            data[r.randrange(len(data))] = r.randrange(256)
        with vmm.client() as client:
            client.send(bytes(data))
            client.socket.shutdown(socket.SHUT_WR)
            text = b""
            while piece := client.socket.recv(65536):
                text += piece
            assert not text or text.startswith(b"HTTP/1.1 "), (bytes(data), text)
    with vmm.client() as client:
        assert client.put("vm.delete").status == 204


# The socket and the process.


def test_the_end(launch):
    vmm = launch()
    assert vmm.path.stat().st_mode & 0o7777 == 0o600
    with vmm.client() as client, vmm.client() as other:
        assert other.get("vmm.ping").status == 200
        answer = client.put("vmm.shutdown")
        assert (answer.head, answer.body) == (HEAD_200 % 0, b"")
        assert client.ended() and other.ended()
    assert vmm.process.wait(20) == 0
    assert not vmm.path.exists() and not (vmm.folder / "vmm.sock.lock").exists()


def test_the_end_with_a_vm_that_runs(launch, config):
    vmm = launch()
    with vmm.client() as client:
        assert client.put("vm.create", config).status == 204
        assert client.put("vm.boot").status == 204
        assert client.put("vmm.shutdown").status == 200
    assert vmm.process.wait(20) == 0
    assert vmm.errors.read_text() == ""


def test_a_socket_in_use_and_one_that_was_left(launch):
    first = launch()
    second = launch(is_ready=False, name="vmm")
    assert second.process.wait(20) == 1
    assert f"'{first.path}' is already in use by another process" in second.errors.read_text()
    with first.client() as client:
        assert client.get("vmm.ping").json["pid"] == first.process.pid
    first.process.send_signal(signal.SIGKILL)
    first.process.wait()
    assert first.path.exists()
    third = launch()
    with third.client() as client:
        assert client.get("vmm.ping").json["pid"] == third.process.pid


def test_a_file_in_the_way_stays(launch, folder):
    (folder / "vmm.sock").write_text("mine")
    vmm = launch(is_ready=False)
    assert vmm.process.wait(20) == 1
    assert (folder / "vmm.sock").read_text() == "mine"
    assert not (folder / "vmm.sock.lock").exists()


def test_an_inherited_socket(launch, folder):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "inherited.sock"))
        listener.listen(8)
        # A client may come before the program does.
        early = Client(folder / "inherited.sock")
        early.send(request_bytes("GET", "vmm.ping"))
        vmm = launch(is_ready=False, socket_option=f"fd={listener.fileno()}", pass_fds=[listener.fileno()])
    assert early.answer().json["pid"] == vmm.process.pid
    assert early.put("vmm.shutdown").status == 200
    assert vmm.process.wait(20) == 0
    early.close()
