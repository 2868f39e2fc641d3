# SPDX-License-Identifier: Apache-2.0
"""The machines that are compared, as command lines. All have one vCPU, the same memory, kernel, initramfs and command
line, a serial port that goes to a file, and nothing that they can be asked to leave out.

QEMU gets its best: each option below was tried both ways, and the one that costs fewer instructions is in.
"""
import os

VARAN = os.environ.get("VARAN", "varan")
QEMU = "qemu-system-x86_64"
PROGRAM, SMALL, PEER = "varan", "varan microVM", "QEMU microvm"


def _varan(*options):
    def argv(guest, serial):
        return [VARAN, "--kernel", str(guest.kernel), "--initramfs", str(guest.initramfs), "--cmdline", guest.cmdline,
                "--cpus", "boot=1", "--memory", f"size={guest.memory_mib}M", "--serial", f"file={serial}",
                "--console", "off", *options]
    return argv


def _qemu(machine, *options):
    def argv(guest, serial):
        return [QEMU, "-M", machine, "-accel", "kvm", "-cpu", "host", "-smp", "1", "-m", f"{guest.memory_mib}M",
                "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-name", "peer,debug-threads=on",
                "-kernel", str(guest.kernel), "-initrd", str(guest.initramfs), "-append", guest.cmdline,
                "-serial", f"file:{serial}", *options]
    return argv


# Without ACPI tables nothing tells the guest of the IOAPIC; without the clock (rtc) it looks for one for a second.
MICROVM = ("microvm,acpi=on,rtc=on,isa-serial=on,x-option-roms=off,ioapic2=off,pit=off,pic=off,usb=off,pcie=off,"
           "auto-kernel-cmdline=off")

# Name -> function of (guest, path of the serial port's file) that gives the arguments. PROGRAM is as users get it; SMALL
# is what corresponds to QEMU's microvm: no PCI bus.
MACHINES = {
    PROGRAM: _varan(),
    SMALL: _varan("--machine", "transport=mmio"),
    PEER: _qemu(MICROVM),
    "QEMU q35": _qemu("q35,hpet=off,pit=off,pic=off,smm=off,usb=off,smbus=off,sata=off,vmport=off"),
}
