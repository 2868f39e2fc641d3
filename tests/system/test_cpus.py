# SPDX-License-Identifier: Apache-2.0
"""vCPUs: all online, each one runs programs, and the guest sees the topology that was asked for."""
import os

import pytest

LOOK = {
    "nproc": "nproc",
    "online": "cat /sys/devices/system/cpu/online",
    "possible": "cat /sys/devices/system/cpu/possible",
    "cpuinfo": "grep -c ^processor /proc/cpuinfo",
    "apicids": "sed -n 's/^apicid.*: //p' /proc/cpuinfo | sort -n | uniq | wc -l",
    # Field 39 of stat is the CPU that a process last ran on.
    "ran": "for c in $(seq 0 $(($(nproc) - 1))); do taskset -c $c sh -c 'cut -d \" \" -f 39 /proc/self/stat'; done",
}


def check(found, n):
    assert found["nproc"] == found["cpuinfo"] == found["apicids"] == str(n)
    assert found["online"] == (f"0-{n - 1}" if n > 1 else "0")
    assert found["ran"].split() == [str(i) for i in range(n)]


@pytest.mark.parametrize("n, kernel, machine", [
    (1, "cloud/vmlinux", "transport=pci,irqchip=split"),
    (2, "cloud/vmlinuz", "transport=pci,irqchip=split"),
    (2, "cloud/vmlinux", "transport=mmio,irqchip=kernel"),
    (4, "cloud/vmlinux", "transport=pci,irqchip=split"),
    (4, "generic/vmlinux", "transport=pci,irqchip=kernel,acpi=off"),
])
def test_all_online(ask, n, kernel, machine):
    check(ask(LOOK, kernel=kernel, options=["--cpus", f"boot={n}", "--machine", machine]), n)


def test_sixteen(ask):
    check(ask(LOOK, cmdline="nowatchdog", options=["--cpus", "boot=16"]), 16)


# Brings each of the others up, runs something on it, and sends it away again.
ONE_BY_ONE = """
for c in $(seq 1 63); do
	cpu=/sys/devices/system/cpu/cpu$c
	echo 1 >$cpu/online
	taskset -c $c sh -c 'cut -d " " -f 39 /proc/self/stat'
	echo 0 >$cpu/online
done
"""


def test_sixty_four(ask):
    """All of them are there, and each one runs. Not all at once where two emulated CPUs would have to run them: what
    waits there for 63 others waits too long now and then."""
    if os.environ.get("VARAN_HOST_KIND") == "emulated":
        found = ask({"present": "cat /sys/devices/system/cpu/present", "ran": ONE_BY_ONE}, cmdline="maxcpus=1",
                    options=["--cpus", "boot=64"])
        assert found["present"] == "0-63"
        assert found["ran"].split() == [str(i) for i in range(1, 64)]
    else:
        check(ask(LOOK, options=["--cpus", "boot=64"]), 64)


def test_topology(ask):
    """Packages, cores, threads. A kernel on an AMD CPU looks for threads only where the CPU tells of topology extensions;
    the emulated host's CPU does not."""
    files = " ".join(f"/sys/devices/system/cpu/cpu$c/topology/{name}"
                     for name in ("physical_package_id", "core_id", "thread_siblings_list", "core_siblings_list"))
    found = ask({"all": f"for c in 0 1 2 3 4 5 6 7; do echo $(cat {files}); done",
                 "cpu": "grep -m 2 -E '^(vendor_id|flags)' /proc/cpuinfo"}, options=["--cpus", "boot=8,topology=2:2:1:2"])
    rows = [line.split() for line in found["all"].splitlines()]
    assert [row[0] for row in rows] == ["0"] * 4 + ["1"] * 4, "two packages"
    assert [row[3] for row in rows] == ["0-3"] * 4 + ["4-7"] * 4
    if "AuthenticAMD" in found["cpu"] and "topoext" not in found["cpu"]:
        return
    assert [row[2] for row in rows] == ["0-1", "0-1", "2-3", "2-3", "4-5", "4-5", "6-7", "6-7"], "two threads a core"
    assert len({(row[0], row[1]) for row in rows}) == 4, "two cores a package"
