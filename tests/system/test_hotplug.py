# SPDX-License-Identifier: Apache-2.0
"""Disks that come and go on a running guest, by the API and by the guest itself; asserted is what the guest sees."""
import hashlib
import http.client
import json
import os
import random
import re
import socket
import time
from pathlib import Path

import pytest

from stream import SECONDS, Timeout
from vmm import bad_kernel_lines, status_of

MIB = 1 << 20

# The guest does what it is told, line by line, on its virtio console. Disks are known by their serial numbers.
SCRIPT = r"""
exec </dev/hvc0
find_disk() { for d in /sys/block/vd*; do s=; read -r s 2>/dev/null <$d/serial; [ "$s" != "$1" ] || { d=${d##*/}; return; }; done; d=; }
disk() { find_disk "$1"; echo $d; }
opens() { [ -b /dev/$1 ] && { true </dev/$1; } 2>/dev/null; } # the kernel makes the node a little before that
appears() { for i in $(seq 600); do find_disk "$1"; [ -n "$d" ] && opens $d && return; usleep 20000; done; echo "no $1"; }
leaves() { for i in $(seq 600); do find_disk "$1"; [ -z "$d" ] && return; usleep 20000; done; echo "$1 is still there"; }
slot() { path=$(readlink -f "/sys/block/$(disk "$1")/device"); path=${path%/virtio*}; path=${path##*:}; echo $((0x${path%.*})); }
echo '<<ready>>'
while read -r line; do
	eval "$line"
	echo '<<end>>'
done
"""


class Connection(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("localhost", timeout=SECONDS)
        self.path = str(path)

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


class Guest:
    """A running VM, its API, its events, and the shell in it."""

    def __init__(self, start, folder, options=(), script=SCRIPT, **how):
        self.socket = folder / "api"
        self.vm = start(script=script, console="socket", options=[
            "--api-socket", f"path={self.socket}", "--event-monitor", f"path={folder / 'events'}", *options], **how)
        self.event_file = folder / "events"
        self.shell = self.vm.connect("console")
        self.shell.expect("<<ready>>\n")

    def call(self, method, name, body=None):
        """(status, decoded body or None)"""
        connection = Connection(self.socket)
        try:
            connection.request(method, f"/api/v1/{name}", None if body is None else json.dumps(body))
            answer = connection.getresponse()
            data = answer.read()
            return answer.status, json.loads(data) if data else None
        finally:
            connection.close()

    def put(self, name, body=None, status=204):
        got = self.call("PUT", name, body)
        assert got[0] == status, got
        return got[1]

    def refused(self, name, body):
        """(status, the whole chain of causes)"""
        status, causes = self.call("PUT", name, body)
        assert status >= 400 and causes, (status, causes)
        return status, "\n".join(causes)

    def tree(self):
        status, info = self.call("GET", "vm.info")
        assert status == 200
        return info["device_tree"]

    def disks(self):
        """Of the configuration: by id."""
        return {disk["id"]: disk for disk in self.call("GET", "vm.info")[1]["config"].get("disks", [])}

    def run(self, command, seconds=SECONDS):
        self.shell.send(command.strip().replace("\n", "; ") + "\n")
        start = self.shell.position
        end = self.shell.expect("<<end>>\n", seconds)
        return self.shell.data()[start:end.start()].decode().strip()

    def removed(self):
        """[(id, bdf)] of the events so far. The last one may be half written: an empty line ends it."""
        events = [json.loads(text) for text in self.event_file.read_text().split("\n\n")[:-1]]
        return [(event["properties"]["id"], event["properties"]["bdf"]) for event in events
                if (event["source"], event["event"]) == ("vm", "device-removed")]

    def wait_removed(self, n):
        end = time.monotonic() + SECONDS
        # Counted before they are understood: that takes long where there are many.
        while self.event_file.read_text().count('"device-removed"') < n or len(self.removed()) < n:
            if time.monotonic() > end:
                raise Timeout(f"{n} devices were to be removed, but these were: {self.removed()}")
            time.sleep(0.02)
        assert len(self.removed()) == n
        return self.removed()[-1]

    def check_kernel(self):
        """The guest's kernel has nothing to complain of, but that a disk went away under what was written."""
        lines = bad_kernel_lines(self.run("dmesg"))
        assert [line for line in lines if not re.search(r"I/O error|Buffer I/O", line)] == []

    def end(self):
        self.put("vmm.shutdown", status=200)
        assert self.vm.wait() == 0, self.vm.report()
        assert self.vm.complaints() == ""


@pytest.fixture
def boot(start, folder):
    return lambda **how: Guest(start, folder, **how)


def pattern(seed, n_bytes):
    return random.Random(seed).randbytes(n_bytes)


def wait_until_settled(pid):
    """Until guest memory is no longer mapped from the kernel's file: that frees a descriptor, and makes mappings."""
    end = time.monotonic() + 60
    while "/vmlinux" in Path(f"/proc/{pid}/maps").read_text():
        assert time.monotonic() < end
        time.sleep(0.2)


def test_a_hundred_times(boot, raw):
    """Two images in turn, with an id and without. What the guest reads was there, what it wrote arrives."""
    guest = boot(options=["--cpus", "boot=2", "--memory", "size=512M"])
    contents = [pattern(1, 96 << 10), pattern(2, 160 << 10)]
    images = [raw("a", contents[0]), raw("b", contents[1])]
    before = None
    for n in range(1, 101):
        which = n % 2
        disk = {"path": str(images[which]), "serial": f"serial{n}"}
        if which:
            disk["id"] = "data"
        info = guest.put("vm.add-disk", disk, 200)
        assert info["bdf"] == "0000:00:03.0", "the slot behind console and entropy is free again each time"
        assert info["id"] == "data" if which else re.fullmatch(r"_disk\d+", info["id"])
        tree = guest.tree()
        function = tree[tree[info["id"]]["parent"]]
        assert function["pci_bdf"] == info["bdf"] and "being_removed" not in function
        # With as few processes as it can be: to start one takes a guest longer than all the rest.
        said = guest.run(f"""
            appears serial{n}
            read -r size </sys/block/$d/size
            echo $size /sys/class/block/* /sys/bus/pci/devices/*/virtio*/block/*
            md5sum </dev/$d
            echo number {n} | dd of=/dev/$d bs=512 seek={n} conv=sync,fsync 2>/dev/null || echo failed""").split()
        place = said.pop(2)
        assert re.fullmatch(r"/sys/bus/pci/devices/0000:00:03\.0/virtio\d+/block/vda", place)
        assert said == [f"{len(contents[which]) // 512}", "/sys/class/block/vda", hashlib.md5(contents[which]).hexdigest(), "-"]
        contents[which] = bytearray(contents[which])
        contents[which][512 * n:512 * (n + 1)] = f"number {n}\n".encode().ljust(512, b"\0")
        guest.put("vm.remove-device", {"id": info["id"]})
        assert guest.wait_removed(n) == (info["id"], info["bdf"])
        assert guest.run(f"leaves serial{n}; cd /sys/class/block; echo *; cd /sys/bus/pci/devices; echo *; cd /").split() == \
            ["*", "0000:00:00.0", "0000:00:01.0", "0000:00:02.0"]
        assert info["id"] not in guest.tree() and info["id"] not in guest.disks()
        if n == 2:
            wait_until_settled(guest.vm.pid)
            before = status_of(guest.vm.pid)
    assert [image.read_bytes() for image in images] == contents
    after = status_of(guest.vm.pid)
    assert (after["fds"], after["threads"]) == (before["fds"], before["threads"])
    assert after["mappings"] <= before["mappings"] + 4
    guest.check_kernel()
    guest.end()


@pytest.mark.parametrize("machine", ["irqchip=split", "irqchip=kernel"])
@pytest.mark.parametrize("kernel", ["cloud/vmlinuz", "generic/vmlinuz"])
def test_every_kernel_and_controller(boot, raw, kernel, machine):
    """Several at once, in slots that were asked for and others, by MSI-X."""
    guest = boot(kernel=kernel, options=["--machine", machine])
    contents = [pattern(seed, 2 * MIB) for seed in range(3)]
    for n, content in enumerate(contents):
        disk = {"path": str(raw(f"disk{n}", content)), "serial": f"serial{n}", "id": f"disk{n}"}
        if n == 1:
            disk["pci_device_id"] = 17
        info = guest.put("vm.add-disk", disk, 200)
        assert info == {"id": f"disk{n}", "bdf": f"0000:00:{(3, 17, 4)[n]:02x}.0"}
    for n, content in enumerate(contents):
        said = guest.run(f"appears serial{n}; md5sum </dev/$(disk serial{n}) | cut -d ' ' -f 1; slot serial{n}")
        assert said.split() == [hashlib.md5(content).hexdigest(), str((3, 17, 4)[n])]
    status, text = guest.refused("vm.add-disk", {"path": str(raw("other", MIB)), "pci_device_id": 17})
    assert status == 400 and "17" in text
    for n in range(3):
        guest.put("vm.remove-device", {"id": f"disk{n}"})
    guest.wait_removed(3)
    assert guest.run("leaves serial0; leaves serial1; leaves serial2; ls -d /sys/block/vd* 2>/dev/null") == ""
    # The entropy device and the console stay: there is nothing in the guest to eject them with.
    assert guest.run("cd /sys/bus/pci/slots; ls */power | wc -l; ls 1/power 2/power 2>/dev/null; cd /") == "29"
    guest.check_kernel()
    guest.end()


def test_removed_under_io(boot, raw):
    """The guest reads and writes while its disk is taken away: it has errors, nobody crashes, and the slot is free."""
    guest = boot(options=["--cpus", "boot=2"])
    for n in range(1, 6):
        guest.put("vm.add-disk", {"path": str(raw(f"disk{n}", 16 * MIB)), "serial": f"serial{n}", "id": "data",
                                  "num_queues": 2}, 200)
        # By a node of its own: in /dev a late dd might make a file of the name that the next disk's node will want.
        assert guest.run(f"""
            appears serial{n}; cp -a /dev/$d /run/disk{n}; d=/run/disk{n}
            for i in 1 2 3; do (while dd if=/dev/zero of=$d bs=64k count=200 oflag=direct 2>/dev/null; do :; done) & done
            {{ while dd if=$d of=/dev/null bs=4k count=4000 iflag=direct 2>/dev/null; do :; done & }}
            usleep 200000""") == ""
        guest.put("vm.remove-device", {"id": "data"})
        assert guest.wait_removed(n) == ("data", "0000:00:03.0")
        assert guest.run(f"wait; leaves serial{n}; echo well") == "well"
    guest.check_kernel()
    guest.end()


def test_while_paused(boot, raw):
    guest = boot(options=["--disk", f"path={raw('first', MIB)},serial=first,id=first"])
    assert guest.run("appears first; echo 1 >/run/x") == ""
    guest.put("vm.pause")
    info = guest.put("vm.add-disk", {"path": str(raw("second", pattern(3, MIB))), "serial": "second"}, 200)
    guest.put("vm.remove-device", {"id": "first"})
    time.sleep(0.5)
    assert guest.removed() == []
    assert guest.tree()["first"]["being_removed"] is True
    assert "being_removed" not in guest.tree()[info["id"]]
    guest.put("vm.resume")
    assert guest.wait_removed(1)[0] == "first"
    assert guest.run("leaves first; appears second; md5sum </dev/$(disk second) | cut -d ' ' -f 1") == \
        hashlib.md5(pattern(3, MIB)).hexdigest()
    guest.end()


def test_twice_and_again(boot, raw):
    """While it goes, it can neither be removed again nor be added; then at once."""
    guest = boot(options=["--disk", f"path={raw('first', MIB)},serial=first,id=data"])
    other = {"path": str(raw("second", MIB)), "serial": "second", "id": "data"}
    guest.run("appears first")
    guest.put("vm.pause")  # so that it is still going
    guest.put("vm.remove-device", {"id": "data"})
    status, text = guest.refused("vm.remove-device", {"id": "data"})
    assert "'data' is being removed already" in text
    status, text = guest.refused("vm.add-disk", other)
    assert status == 409 and "device 'data' is being removed: its id is free once the guest" in text
    status, text = guest.refused("vm.add-disk", {"path": guest.disks()["data"]["path"], "id": "new"})
    assert status == 409 and "device 'data' is being removed: its file is free" in text
    assert guest.refused("vm.remove-device", {"id": "nobody"})[0] == 404
    assert "cannot be removed" in guest.refused("vm.remove-device", {"id": "__rng"})[1]
    guest.put("vm.resume")
    guest.wait_removed(1)
    assert guest.put("vm.add-disk", other, 200)["id"] == "data"
    assert guest.run("appears second; leaves first") == ""
    guest.end()


def test_reboot_ends_a_removal(boot, raw):
    """A guest without the driver never answers. Who insists is told so, and has it asked again; a reboot ends it."""
    guest = boot(options=["--disk", f"path={raw('first', MIB)},serial=first,id=first",
                          f"path={raw('second', MIB)},serial=second,id=second"], cmdline="acpiphp.disable=1")
    guest.put("vm.add-disk", {"path": str(raw("third", MIB)), "serial": "third", "id": "third"}, 200)
    assert guest.run("appears first; appears second") == ""
    guest.put("vm.remove-device", {"id": "first"})
    assert "already" in guest.refused("vm.remove-device", {"id": "first"})[1]
    time.sleep(6)
    assert "it has been asked again" in guest.refused("vm.remove-device", {"id": "first"})[1]
    assert guest.tree()["first"]["being_removed"] is True and guest.removed() == []
    guest.put("vm.reboot")
    guest.shell.expect("<<ready>>\n")
    assert guest.removed() == [("first", "0000:00:01.0")]
    assert "first" not in guest.tree() and set(guest.disks()) == {"second", "third"}
    # What was plugged in is there after the reboot, though the guest had not noticed it before.
    assert guest.run("appears second; appears third; disk first") == ""
    guest.end()


def test_guest_ejects(boot, raw, copy):
    """Without being asked, by the slot's power switch. What it puts away so is gone until the next boot, or until the
    user has removed it for good and added it again."""
    images = [raw("a", MIB), copy("small.ext4")]
    guest = boot(options=["--disk", f"path={images[0]},serial=a,id=a", f"path={images[1]},serial=b,id=b"])
    assert guest.run("appears a; appears b; s=$(slot a); echo 0 >/sys/bus/pci/slots/$s/power; leaves a; "
                     "echo 1 >/sys/bus/pci/rescan; disk a") == ""
    assert guest.wait_removed(1) == ("a", "0000:00:01.0")
    assert "a" not in guest.tree() and "a" in guest.disks()
    # One that is in use: its file system is cut off.
    assert guest.run("mkdir -p /mnt; mount -t ext4 /dev/$(disk b) /mnt; s=$(slot b); echo x >/mnt/x; "
                     "echo 0 >/sys/bus/pci/slots/$s/power; leaves b; umount -l /mnt") == ""
    assert guest.wait_removed(2) == ("b", "0000:00:02.0")
    again = {"path": str(images[0]), "serial": "again", "id": "a"}
    status, text = guest.refused("vm.add-disk", again)
    assert status == 409 and "'a' was ejected by the guest and is back at the next boot" in text
    guest.put("vm.remove-device", {"id": "a"})
    assert "a" not in guest.disks()
    guest.put("vm.add-disk", again, 200)
    assert guest.run("appears again; slot again") == "1"
    guest.check_kernel()
    guest.put("vm.reboot")
    guest.shell.expect("<<ready>>\n")
    assert guest.run("appears again; appears b") == ""
    guest.end()


def test_added_while_the_guest_boots(start, folder, raw):
    """Before its drivers are there: the guest is told until it has heard."""
    guest = Guest.__new__(Guest)
    guest.socket, guest.event_file = folder / "api", folder / "events"
    guest.vm = start(script=SCRIPT, console="socket", options=[
        "--api-socket", f"path={guest.socket}", "--event-monitor", f"path={guest.event_file}"])
    guest.shell = guest.vm.connect("console")
    end = time.monotonic() + SECONDS
    for n in range(8):
        while not os.path.exists(guest.socket) and time.monotonic() < end:
            time.sleep(0.01)
        guest.put("vm.add-disk", {"path": str(raw(f"disk{n}", MIB)), "serial": f"serial{n}"}, 200)
        time.sleep(0.3)
    guest.shell.expect("<<ready>>\n")
    assert guest.run("for n in $(seq 0 7); do appears serial$n; done") == ""
    guest.check_kernel()
    guest.end()


@pytest.mark.parametrize("machine", ["transport=mmio", "acpi=off"])
def test_without_pci_or_acpi(boot, raw, machine):
    guest = boot(options=["--machine", machine, "--disk", f"path={raw('first', MIB)},serial=first,id=first"])
    assert "hotplug needs PCI and ACPI" in guest.refused("vm.add-disk", {"path": str(raw("second", MIB))})[1]
    assert "hotplug needs PCI and ACPI" in guest.refused("vm.remove-device", {"id": "first"})[1]
    assert set(guest.disks()) == {"first"}
    assert guest.run("appears first") == ""
    guest.end()
