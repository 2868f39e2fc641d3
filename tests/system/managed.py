# SPDX-License-Identifier: Apache-2.0
"""The program as a VMM that others drive: by HTTP, our client, ch-remote or curl; its events; its guest's consoles."""
import json
import re
import socket
import subprocess
import time

from api import ROOT, Client
from stream import SECONDS, FileStream, Timeout
from vmm import GUEST, PROGRAM

MIB = 1 << 20
KERNEL = "cloud/vmlinux"

JSON_HEADERS = ["-H", "Accept: application/json", "-H", "Content-Type: application/json"]

# Clients. do(command, body): what was answered, decoded; None for nothing. refused(command, body): what was complained of.


class Http:
    """Requests over one connection, kept for all of them."""

    names = {"ping": "vmm.ping", "shutdown-vmm": "vmm.shutdown"}
    program = "varan"

    def __init__(self, path, folder):
        self.folder = folder
        self.path = path
        self.client = None

    def request(self, command, body):
        """(status, text)"""
        self.client = self.client or Client(self.path)
        answer = self.client.request(*self.words(command), body)
        return answer.status, answer.body.decode()

    def words(self, command):
        return "GET" if command in ("ping", "info", "counters") else "PUT", self.names.get(command, f"vm.{command}")

    def do(self, command, body=None):
        status, text = self.request(command, body)
        assert status == (200 if text or command == "shutdown-vmm" else 204), (command, status, text)
        return json.loads(text) if text else None

    def refused(self, command, body=None):
        status, text = self.request(command, body)
        assert status >= 400, (command, status, text)
        return "\n".join(json.loads(text))

    def close(self):
        if self.client:
            self.client.close()


class Curl(Http):
    """The program under Cloud Hypervisor's name, and a process for each request."""

    program = "cloud-hypervisor"

    def request(self, command, body):
        method, name = self.words(command)
        if body is not None:
            what = ["-X", method, *JSON_HEADERS, "-d", json.dumps(body)]
        elif method == "PUT" and command in ("boot", "pause"):
            what = upload_nothing(self.folder)
        else:
            what = ["-X", method]
        status, text, _ = curl(self.path, [[*what, name]])[0]
        return status, text


class Remote:
    """`varan remote`, its answers as JSON where there are any."""

    program = "varan"

    def __init__(self, path, folder):
        self.path = path
        self.folder = folder

    def argv(self, command):
        return [PROGRAM, "remote", "--api-socket", self.path, "--json", command]

    def words_of_create(self, text):
        """(words, standard input)"""
        path = self.folder / "config.json"
        path.write_text(text)
        return [path], None

    def run(self, command, body):
        words, text = [], None
        if command == "create":
            words, text = self.words_of_create(json.dumps(body))
        elif body is not None:
            words = [",".join(f"{key}={value}" for key, value in body.items())]
        return subprocess.run([*map(str, self.argv(command) + words)], input=text, capture_output=True, text=True,
                              timeout=SECONDS, check=False)

    def do(self, command, body=None):
        done = self.run(command, body)
        assert (done.returncode, done.stderr) == (0, ""), (command, done)
        return json.loads(done.stdout) if done.stdout.strip() else None

    def refused(self, command, body=None):
        done = self.run(command, body)
        assert (done.returncode, done.stdout) == (1, ""), (command, done)
        return done.stderr

    def close(self):
        pass


class ChRemote(Remote):
    program = "cloud-hypervisor"

    def argv(self, command):
        return [link(self.folder, "ch-remote"), "--api-socket", self.path, command]

    def words_of_create(self, text):
        return ["-"], text


def link(folder, name):
    """The program under another name."""
    path = folder / name
    if name == "varan":
        return PROGRAM
    if not path.exists():
        path.symlink_to(PROGRAM)
    return path


def upload_nothing(folder):
    """As libcurl's users do it who know of no other PUT: "Content-Length: 0"."""
    path = folder / "nothing"
    path.touch()
    return ["-T", path]


def curl(path, transfers):
    """[words of curl with the route at the end, ...], over one connection: [(status, body, number of new connections)]."""
    argv = ["curl", "--silent", "--show-error", "--max-time", str(SECONDS)]
    for n, (*words, name) in enumerate(transfers):
        argv += ["--next", "--silent", "--show-error"] if n else []
        argv += ["--unix-socket", path, *words, "-w", "\n<%{http_code} %{num_connects}>\n", f"http://localhost{ROOT}{name}"]
    done = subprocess.run([*map(str, argv)], capture_output=True, text=True, timeout=SECONDS + 10, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done
    answers = re.findall(r"(?s)(.*?)\n<(\d+) (\d+)>\n", done.stdout)
    assert len(answers) == len(transfers), done
    return [(int(status), text, int(n_connects)) for text, status, n_connects in answers]


# Events.


def events_in(text):
    """By counting braces, as libvirt does it. Nothing but line ends is between them, and none is cut off."""
    events, depth, start = [], 0, 0
    for at, c in enumerate(text):
        if c == "{":
            start = start if depth else at
            depth += 1
        elif c == "}":
            depth -= 1
            if depth == 0:
                events.append(json.loads(text[start:at + 1]))
        else:
            assert depth or c == "\n", text[at - 100:at + 100]
    assert depth == 0, text[start:]
    for event in events:
        assert set(event) == {"timestamp", "source", "event", "properties"} and set(event["timestamp"]) == {"secs", "nanos"}
    times = [(event["timestamp"]["secs"], event["timestamp"]["nanos"]) for event in events]
    assert times == sorted(times)
    return events


def in_words(events, devices=()):
    """["vm booting", "_disk0 activated", ...]: all but those of other devices."""
    words = []
    for event in events:
        if event["source"] != "virtio-device":
            words.append(f"{event['source']} {event['event']}")
        elif event["properties"]["id"] in devices:
            words.append(f"{event['properties']['id']} {event['event']}")
    return words


# The program with its API.


class Managed:
    """The program, which serves its API; a client of it; and the guest's consoles, in files."""

    def __init__(self, start, client=Http, options=(), **how):
        folder = how.pop("folder")
        folder.mkdir(exist_ok=True)
        self.socket = folder / "api"
        self.event_file = folder / "events"
        how = {"kernel": None, "serial": None, "console": None, "program": link(folder, client.program), **how}
        self.vm = start(options=["--api-socket", f"path={self.socket}", "--event-monitor", f"path={self.event_file}", *options],
                        **how)
        self.folder = self.vm.folder
        self.client = client(self.socket, folder)
        self.do, self.refused = self.client.do, self.client.refused
        wait_until(lambda: is_listening(self.socket) or not self.vm.is_running(), "the API's socket")

    def config(self, script, **more):
        """What vm.create gets. The consoles' files are the streams of the run from then on."""
        paths = {}
        for name in ("serial", "console"):
            paths[name] = self.folder / name
            self.vm.streams[name] = FileStream(self.vm.can_say_more, paths[name])
        return {
            "cpus": {"boot_vcpus": 1, "max_vcpus": 1},
            "memory": {"size": 256 * MIB},
            "payload": payload(self.vm, script),
            "serial": {"mode": "File", "file": str(paths["serial"])},
            "console": {"mode": "File", "file": str(paths["console"])},
            **more,
        }

    def state(self):
        return self.do("info")["state"]

    def wait_state(self, wanted):
        wait_until(lambda: self.state() == wanted, f"state {wanted}")

    def booted(self, n):
        """The guest's own word: (boot id, serial numbers of its disks)"""
        match = self.vm.console.expect(rf"boot {n} is (\S+) with ?(.*)\.\n")
        return match.group(1), match.group(2).decode().split()

    def ticks(self):
        """It runs: the serial port says so once more, and its time goes forward."""
        self.vm.serial.position = len(self.vm.serial.data())
        self.vm.serial.expect(r"\ntick \S+\r?\n")
        ups = [float(up) for up in re.findall(r"(?m)^tick (\S+)$", self.vm.serial.text())]
        last = max(n for n in range(len(ups)) if n == 0 or ups[n] < ups[n - 1])  # the last boot's first
        assert ups[last:] == sorted(ups[last:])

    def is_silent(self):
        """Ten times as long as a guest that runs needs to say something."""
        time.sleep(0.3)  # what it had said before may still be on its way
        before = len(self.vm.serial.data())
        time.sleep(1)
        return len(self.vm.serial.data()) == before

    def events(self):
        return events_in(self.event_file.read_text())

    def end(self):
        self.do("shutdown-vmm")
        self.vm.wait_ok()
        assert not self.socket.exists()


def payload(vm, script):
    return {"kernel": str(GUEST / KERNEL), "initramfs": str(vm.make_initramfs(KERNEL, script)),
            "cmdline": "console=ttyS0 quiet panic=-1 varan.out=/dev/hvc0 varan.status=/dev/hvc0"}


def is_listening(path):
    """A socket has its name a moment before it takes connections."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError):
            return False
    return True


def wait_until(condition, what, seconds=SECONDS):
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise Timeout(f"{what} did not come within {seconds} s")
        time.sleep(0.05)
