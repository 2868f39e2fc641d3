# SPDX-License-Identifier: Apache-2.0
"""Debian's stock kernels reach user space on every kind of machine, and find what they should find there."""
import signal

import pytest

from vmm import bad_kernel_lines, kernel_version, sections

LOOK = {
    "version": "uname -r",
    "acpi": "ls /sys/firmware/acpi/tables 2>/dev/null | grep -v -e data -e dynamic | tr '\\n' ' '",
    "virtio": "for d in /sys/bus/virtio/devices/*; do echo $(cat $d/device) $(readlink -f $d); done",
    "drivers": "for d in /sys/bus/virtio/devices/*; do basename $(readlink -f $d/driver); done | sort | tr '\\n' ' '",
    "clock": "cat /sys/devices/system/clocksource/clocksource0/current_clocksource",
    "random": "cat /sys/class/misc/hw_random/rng_current; head -c 16 /dev/hwrng | wc -c",
    "date": "date +%s",
    "interrupts": "cat /proc/interrupts",
    "dmesg": "dmesg",
}


def check(found, kernel, transport, acpi):
    assert found["version"] == kernel_version(kernel.split("/")[0])
    assert found["drivers"].split() == ["virtio_blk", "virtio_console", "virtio_rng"]
    assert all(("/pci" in line) == (transport == "pci") for line in found["virtio"].splitlines()), found["virtio"]
    if acpi == "on":
        assert {"APIC", "DSDT", "FACP"} <= set(found["acpi"].split())
    else:
        assert found["acpi"] == ""
    assert found["clock"] in ("kvm-clock", "tsc")
    assert found["random"].split() == ["virtio_rng.0", "16"]
    bad = bad_kernel_lines(found["dmesg"])
    if acpi == "off":  # the kernel says so of every machine without
        bad = [line for line in bad if "A valid RSDP was not found" not in line]
    assert not bad, "\n".join(bad)


# Without ACPI, only a kernel that reads the MP table finds its interrupts: the generic one does, the cloud one does not.
# Neither reads virtio_mmio.device= from its command line, so their virtio devices are found by ACPI or on a PCI bus.
@pytest.mark.parametrize("kernel, transport, irqchip, acpi", [
    ("cloud/vmlinux", "pci", "split", "on"),
    ("cloud/vmlinux", "pci", "kernel", "on"),
    ("cloud/vmlinux", "mmio", "split", "on"),
    ("cloud/vmlinux", "mmio", "kernel", "on"),
    ("cloud/vmlinuz", "pci", "split", "on"),
    ("cloud/vmlinuz", "mmio", "kernel", "on"),
    ("generic/vmlinux", "mmio", "split", "on"),
    ("generic/vmlinux", "pci", "kernel", "off"),
    ("generic/vmlinuz", "pci", "kernel", "on"),
    ("generic/vmlinuz", "pci", "split", "off"),
])
def test_machine(ask, raw, kernel, transport, irqchip, acpi):
    machine = f"transport={transport},irqchip={irqchip},acpi={acpi}"
    found = ask(LOOK, kernel=kernel, options=["--machine", machine, "--disk", f"path={raw('disk', 1 << 20)}"])
    check(found, kernel, transport, acpi)


@pytest.mark.parametrize("irqchip", ["split", "kernel"])
def test_neither_acpi_nor_pci(start, irqchip):
    """What is left is a serial port, and a timer."""
    vm = start(script="sleep 0.2; echo $((6 * 7)) from $(uname -r)", out="/dev/ttyS0", kernel="generic/vmlinux",
               options=["--machine", f"transport=mmio,irqchip={irqchip},acpi=off"])
    vm.serial.expect(f"42 from {kernel_version('generic')}\r?\n")
    vm.serial.expect("System halted")
    vm.signal(signal.SIGTERM)
    vm.wait_ok()


def test_date_is_the_hosts(ask):
    import time
    before = int(time.time())
    found = ask({"date": "date +%s"})
    assert before - 2 <= int(found["date"]) <= time.time() + 2


def test_command_line_arrives_whole(start):
    """2,047 bytes is what a kernel of this age takes."""
    words = "x." + "a" * 1500 + "=" + "b" * 300
    vm = start(script=sections({"cmdline": "cat /proc/cmdline"}), cmdline=words)
    vm.wait_ok()
    assert vm.results()["cmdline"].split()[-1] == words
