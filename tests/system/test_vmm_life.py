# SPDX-License-Identifier: Apache-2.0
"""VMs that are driven from outside: by HTTP, by our client, by ch-remote, by curl as other programs' drivers do it.

Asserted is what the guest itself sees of it, what the API says, and the order of the events.
"""
import json
import os
import re
import signal
import socket
import subprocess

import pytest

from api import ROOT
from managed import (JSON_HEADERS, KERNEL, MIB, ChRemote, Curl, Http, Managed, Remote, curl, events_in, in_words, link, payload,
                     upload_nothing, wait_until)
from stream import SECONDS, FileStream, open_pty
from vmm import PROGRAM

# Counts its boots on the first disk; says on the console which one this is, and on the serial port, again and again, that
# it runs; ends when its power button is pressed.
SCRIPT = r"""
n=$(head -c 512 /dev/vda | tr -d '\0'); n=$((n + 1)); echo $n | dd of=/dev/vda bs=512 conv=sync,fsync 2>/dev/null
while read -r up idle </proc/uptime; do echo "tick $up"; usleep 100000; done >/dev/ttyS0 &
exec </dev/input/event0
echo "boot $n is $(cat /proc/sys/kernel/random/boot_id) with$(for d in /sys/block/vd*; do echo -n " $(cat $d/serial)"; done)."
dd bs=24 count=1 2>/dev/null >/dev/null
echo pressed
"""


@pytest.fixture
def manage(start, folder):
    """manage(...): the program with an API. Ended with the test."""
    runs = []

    def one(client=Http, name=None, **how):
        runs.append(Managed(start, client, folder=folder / (name or f"managed{len(runs)}"), **how))
        return runs[-1]

    yield one
    for run in runs:
        run.client.close()


BOOT = ["vm booting", "vm booted", "_disk0 activated"]


@pytest.mark.parametrize("client", [Http, Remote, Curl, ChRemote], ids=["http", "varan-remote", "curl", "ch-remote"])
def test_a_whole_life(manage, raw, client):
    """From create to delete, and the guest agrees."""
    run = manage(client, options=["--no-shutdown"])
    pid = run.do("ping")["pid"]
    assert pid == run.vm.pid
    assert "VmNotCreated" in run.refused("info")
    assert "VmMissingConfig" in run.refused("boot")
    run.do("create", run.config(SCRIPT, disks=[{"path": str(raw("counter", MIB)), "serial": "counter"}]))
    assert run.state() == "Created"
    assert run.do("add-disk", {"path": str(raw("second", MIB)), "serial": "second", "id": "second"}) is None
    assert "VmNotRunning" in run.refused("pause")

    run.do("boot")
    info = run.do("info")
    assert info["state"] == "Running" and [disk["id"] for disk in info["config"]["disks"]] == ["_disk0", "second"]
    boots = [run.booted(1)]
    run.ticks()
    run.do("pause")
    assert run.state() == "Paused"
    assert run.is_silent()
    assert "InvalidStateTransition(Paused, Paused)" in run.refused("pause")
    run.do("resume")
    assert run.state() == "Running"
    run.ticks()

    run.do("reboot")
    boots.append(run.booted(2))
    run.ticks()
    run.do("shutdown")
    assert run.state() == "Created"
    assert run.is_silent()
    assert "VmNotRunning" in run.refused("power-button")
    run.do("boot")
    boots.append(run.booted(3))
    assert len({boot_id for boot_id, _ in boots}) == 3
    assert all(disks == ["counter", "second"] for _, disks in boots)
    run.do("power-button")
    run.vm.console.expect("pressed\n")
    run.wait_state("Shutdown")
    assert run.do("ping")["pid"] == pid
    run.do("delete")
    assert "VmNotCreated" in run.refused("info")
    run.end()

    words = in_words(run.events(), ["_disk0"])
    # Who drives it may try what cannot be: that a boot was tried is said, too.
    assert [word for word in words if not word.endswith(" reset")] == [
        "vmm starting", "vm booting", *BOOT, "vm pausing", "vm paused", "vm resuming", "vm resumed", "vm rebooting",
        "vm rebooted", "_disk0 activated", "vm shutdown", *BOOT, "vm shutdown", "vm deleted", "vmm shutdown"]


def test_the_guest_decides(manage, raw):
    """A VM from the command line, with an API beside it: the guest reboots by itself, then powers off, and that ends all."""
    script = SCRIPT.replace("exec <", "[ $n = 2 ] || reboot -f; exec <")
    run = manage(kernel=KERNEL, script=script, serial="file", console="file", options=["--disk", f"path={raw('counter', MIB)}"])
    run.booted(2)
    assert run.state() == "Running"
    run.do("power-button")
    run.vm.wait_ok()
    assert run.client.client.ended()
    assert not run.socket.exists()
    words = in_words(run.events(), ["_disk0"])
    assert [word for word in words if not word.endswith(" reset")] == [
        "vmm starting", *BOOT, "vm rebooting", "vm rebooted", "_disk0 activated", "vm shutdown", "vm deleted", "vmm shutdown"]


def test_a_guest_that_is_gone_boots_again(manage, raw):
    """With --no-shutdown, what the guest leaves behind is a VM that can be booted; its consoles stay the same."""
    run = manage(options=["--no-shutdown"])
    run.do("create", run.config(SCRIPT, disks=[{"path": str(raw("counter", MIB))}]))
    for n in (1, 2):
        run.do("boot")
        run.booted(n)
        run.do("power-button")
        run.wait_state("Shutdown")
        for command in ("pause", "resume", "shutdown", "power-button", "nmi", "counters"):
            assert "VmNotRunning" in run.refused(command)
    # Nor is it a power button's fault when the process ends.
    run.vm.signal(signal.SIGTERM)
    run.vm.wait_ok()
    assert in_words(run.events()) == ["vmm starting"] + ["vm booting", "vm booted", "vm shutdown"] * 2 + ["vm deleted",
                                                                                                         "vmm shutdown"]


def test_human_words(manage, raw):
    """What `varan remote` says without --json: tables, for eyes; and the events, as they come."""
    run = manage(Remote)
    words = lambda *argv: subprocess.run([PROGRAM, "remote", *map(str, argv)], capture_output=True, text=True,  # noqa: E731
                                         timeout=SECONDS, check=True).stdout
    with subprocess.Popen([PROGRAM, "remote", "events", "--event-monitor", str(run.event_file)], stdout=subprocess.PIPE,
                          text=True) as follower:
        try:
            run.do("create", run.config(SCRIPT, disks=[{"path": str(raw("counter", MIB)), "id": "data"}]))
            run.do("boot")
            run.booted(1)
            table = words("--api-socket", run.socket, "info")
            assert re.search(r"(?m)^state +Running$", table) and re.search(r"(?m)^memory +256 MiB$", table), table
            assert re.search(r"(?m)^data +0000:00:\S+ +disk +/\S+counter.raw$", table), table
            assert re.search(r"(?m)^data +write_ops +[1-9]", words("--api-socket", run.socket, "counters"))
            run.end()
            lines, _ = follower.communicate(timeout=SECONDS)  # it ends with the stream
        finally:
            follower.kill()
    assert follower.returncode == 0
    order = [re.sub(r" +", " ", line[15:].strip()) for line in lines.splitlines()]
    wanted = ["vmm starting", "vm booting", "vm booted", "virtio-device activated id=data", "vm shutdown", "vm deleted",
              "vmm shutdown"]
    assert [line for line in order if line in wanted] == wanted, lines


def test_side_by_side(manage, raw):
    """What happens to one is nothing to the other."""
    a, b = manage(), manage()
    paths = [str(raw(f"disk{n}", MIB)) for n in range(2)]
    for n, run in enumerate((a, b)):
        run.do("create", run.config(SCRIPT, disks=[{"path": paths[n], "serial": f"disk{n}"}]))
        run.do("boot")
    (id_a, disks_a), (id_b, disks_b) = a.booted(1), b.booted(1)
    assert id_a != id_b and (disks_a, disks_b) == (["disk0"], ["disk1"])
    assert a.do("ping")["pid"] == a.vm.pid != b.vm.pid == b.do("ping")["pid"]
    # Nor may both have one disk.
    assert "disk1" in a.refused("add-disk", {"path": paths[1]})
    a.do("pause")
    b.ticks()
    assert a.is_silent()
    b.ticks()
    b.do("reboot")
    b.booted(2)
    a.do("resume")
    a.ticks()
    a.do("delete")
    b.ticks()
    a.end()
    b.ticks()
    b.end()
    assert "vm rebooting" not in in_words(a.events()) and "vm pausing" not in in_words(b.events())


@pytest.mark.parametrize("client", [Http, Curl], ids=["varan", "cloud-hypervisor"])
def test_the_socket_of_one_that_runs_and_of_one_that_was_killed(manage, raw, client):
    how = {"client": client, "name": "same", "kernel": KERNEL, "script": SCRIPT, "serial": "file", "console": "file"}
    disk = raw("counter", MIB)
    first = manage(options=["--disk", f"path={disk}"], **how)
    first.booted(1)
    second = manage(options=["--disk", f"path={raw('other', MIB)}"], **how)
    assert second.vm.wait() == 1
    said = second.vm.stderr()
    assert f"'{first.socket}' is already in use by another process" in said, said
    assert said.startswith("Error: Cloud Hypervisor exited with the following chain of errors:\n  0: ") == (client is Curl), said
    assert second.vm.stdout() == "" and not (second.folder / "serial").exists()
    assert first.do("ping")["pid"] == first.vm.pid
    first.ticks()

    first.vm.process.kill()
    first.vm.wait()
    assert first.socket.exists()
    third = manage(options=["--disk", f"path={disk}"], **how)
    third.booted(2)
    wait_until(lambda: third.do("ping")["pid"] == third.vm.pid, "the new one's answer")
    third.do("shutdown-vmm")
    third.vm.wait_ok()
    assert sorted(os.listdir(first.socket.parent)) == sorted({"events"} | ({"cloud-hypervisor"} if client is Curl else set()))


# As others' drivers do it, with curl.


def test_as_libvirt_drives_it(start, folder, raw):
    """Version; a socket that is inherited; events by a FIFO; consoles as pseudo-terminals; threads by their names."""
    program = link(folder, "cloud-hypervisor")
    version = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=SECONDS, check=True).stdout
    assert int(re.match(r"cloud-hypervisor v(\d+)\.\d+\.\d+\n", version).group(1)) >= 40
    api, fifo = folder / "api", folder / "events"
    os.mkfifo(fifo, 0o600)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(api))
        listener.listen(8)
        vm = start(kernel=None, serial=None, console=None, log_level=None, program=program, pass_fds=[listener.fileno()],
                   options=["--api-socket", f"fd={listener.fileno()}", "--event-monitor", f"path={fifo}"])
    events = os.open(fifo, os.O_RDONLY)
    received = b""

    def put(name):
        status, text, _ = curl(api, [[*upload_nothing(folder), "-H", "Accept: application/json", name]])[0]
        assert status in (200, 204), (name, status, text)

    def info():
        status, text, _ = curl(api, [[*JSON_HEADERS, "vm.info"]])[0]
        assert status == 200, text
        return json.loads(text)

    assert curl(api, [["vmm.ping"]])[0][0] == 200
    config = {"console": {"mode": "Pty"}, "serial": {"mode": "Pty"}, "cpus": {"boot_vcpus": 2, "max_vcpus": 2},
              "memory": {"size": 256 * MIB}, "payload": payload(vm, SCRIPT),
              "disks": [{"path": str(raw("counter", MIB))}, {"path": str(raw("other", MIB)), "readonly": True}]}
    status, text, _ = curl(api, [["-X", "PUT", *JSON_HEADERS, "-d", json.dumps(config), "vm.create"]])[0]
    assert status == 204, text
    for name in ("serial", "console"):
        console = info()["config"][name]
        assert console["mode"] == "Pty" and re.fullmatch(r"/dev/pts/\d+", console["file"]), console
        vm.streams[name] = open_pty(vm.can_say_more, console["file"])
    put("vm.boot")
    assert info()["state"] == "Running"
    first = vm.console.expect(r"boot 1 is (\S+) ").group(1)
    vm.serial.expect("tick")
    names = {open(f"/proc/{vm.pid}/task/{task}/comm").read().strip() for task in os.listdir(f"/proc/{vm.pid}/task")}
    assert {"vcpu0", "vcpu1"} <= names and {name.split("_q")[0] for name in names if name.startswith("_")} >= {"_disk0", "_disk1"}
    put("vm.pause")
    assert info()["state"] == "Paused"
    put("vm.resume")
    vm.serial.expect("tick")
    put("vm.reboot")
    assert vm.console.expect(r"boot 2 is (\S+) ").group(1) != first
    # One handle, one connection; and a shutdown that is not the end.
    nothing = upload_nothing(folder)
    answers = curl(api, [["vm.info"], [*nothing, "vm.shutdown"], ["vm.info"], [*nothing, "vmm.shutdown"]])
    assert [(status, n_connects) for status, _, n_connects in answers] == [(200, 1), (204, 0), (200, 0), (200, 0)]
    assert [json.loads(answers[n][1])["state"] for n in (0, 2)] == ["Running", "Created"]
    vm.wait_ok()
    while piece := os.read(events, 4096):
        received += piece
    os.close(events)
    words = in_words(events_in(received.decode()), ["_disk0"])
    assert [word for word in words if not word.endswith(" reset")] == [
        "vmm starting", *BOOT, "vm pausing", "vm paused", "vm resuming", "vm resumed", "vm rebooting", "vm rebooted",
        "_disk0 activated", "vm shutdown", "vm deleted", "vmm shutdown"]
    assert api.exists()  # it is not the program's


def test_as_kata_drives_it(start, folder, raw):
    """Polls until it is there; a configuration with all that a generated client writes; a disk for a container and back."""
    api = folder / "clh-api.sock"
    vm = start(kernel=None, serial=None, console=None, log_level=None, program=link(folder, "cloud-hypervisor"),
               options=["--api-socket", api, "-v", "--seccomp", "false"])
    poll = ["curl", "-s", "-o", folder / "ping", "--unix-socket", api, f"http://localhost{ROOT}vmm.ping"]
    wait_until(lambda: subprocess.run(poll, timeout=SECONDS, check=False).returncode == 0, "an answer to vmm.ping")
    ping = json.loads((folder / "ping").read_text())
    assert ping["pid"] == vm.pid and re.match(r"v?\d+\.\d+", ping["version"])

    def put(name, body=None, status=204):
        words = [] if body is None else [*JSON_HEADERS, "-H", "Expect: 100-continue", "-d", json.dumps(body)]
        got, text, _ = curl(api, [["-X", "PUT", *words, name]])[0]
        assert got == status, (name, got, text)
        return json.loads(text) if text else None

    def info():
        status, text, _ = curl(api, [["vm.info"]])[0]
        assert status == 200, text
        return json.loads(text)

    # The container's disk is the second: the first is the guest's root image.
    script = r"""
        echo "up with $(ls -d /sys/block/vd* | wc -l)" >/dev/ttyS0
        until [ -b /dev/vdb ]; do usleep 50000; done
        echo "disk $(cat /sys/block/vdb/size) $(head -c 9 /dev/vdb)" >/dev/ttyS0
        while [ -b /dev/vdb ]; do usleep 50000; done
        echo gone >/dev/ttyS0
        sleep 1000"""
    words = payload(vm, script)
    words["cmdline"] = words["cmdline"].replace("hvc0", "ttyS0")
    put("vm.create", {
        "cpus": {"boot_vcpus": 1, "max_vcpus": 1, "max_phys_bits": 46, "kvm_hyperv": False, "features": {"amx": False},
                 "topology": {"threads_per_core": 1, "cores_per_die": 1, "dies_per_package": 1, "packages": 1}},
        "memory": {"size": 512 * MIB, "shared": True, "mergeable": False, "hugepages": False, "prefault": False, "thp": True,
                   "hotplug_method": "Acpi"},
        "payload": words,
        "disks": [{"path": str(raw("root", 4 * MIB)), "readonly": True, "direct": False, "iommu": False, "num_queues": 1,
                   "queue_size": 1024, "vhost_user": False, "pci_segment": 0, "image_type": "Raw"}],
        "rng": {"src": "/dev/urandom", "iommu": False},
        "serial": {"mode": "Tty", "iommu": False},
        "console": {"mode": "Off", "iommu": False},
        "iommu": False, "watchdog": False, "pvpanic": False,
    })
    assert info()["state"] == "Created" and info()["memory_actual_size"] == 512 * MIB
    put("vm.boot")
    wait_until(lambda: info()["state"] == "Running", "Running")
    out = FileStream(vm.is_running, vm.folder / "stdout")
    vm.streams["serial"] = out
    out.expect(r"up with 1\r?\n")
    disk = {"path": str(raw("container", b"container".ljust(2 * MIB, b"\0"))), "readonly": False, "direct": False, "iommu": False,
            "num_queues": 1, "queue_size": 1024, "vhost_user": False, "image_type": "Raw"}
    device = put("vm.add-disk", disk, 200)
    assert re.fullmatch(r"0000:00:[01][0-9a-f]\.0", device["bdf"]) and device["id"], device
    out.expect(rf"disk {2 * MIB // 512} container\r?\n")
    put("vm.remove-device", {"id": device["id"]})
    out.expect(r"gone\r?\n")
    wait_until(lambda: device["id"] not in info()["device_tree"], "the device's end")
    put("vm.pause")
    assert info()["state"] == "Paused"
    put("vm.resume")
    put("vmm.shutdown", status=200)
    assert vm.wait() == 0
    assert not api.exists()
