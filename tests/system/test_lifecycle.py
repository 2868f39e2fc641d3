# SPDX-License-Identifier: Apache-2.0
"""How a VM ends, and how it boots again: by its own wish, by a panic, by the power button, by signals."""
import os
import signal

import pytest

# A counter on a raw disk: what survives a reboot. Leaves the number in $n.
COUNT = "n=$(head -c 512 /dev/vda | tr -d '\\0'); n=$((n + 1)); echo $n | dd of=/dev/vda bs=512 conv=sync,fsync 2>/dev/null\n"


@pytest.mark.parametrize("kernel, machine", [("cloud/vmlinux", "transport=pci,irqchip=split"),
                                             ("cloud/vmlinuz", "transport=mmio,irqchip=kernel"),
                                             ("generic/vmlinux", "transport=pci,irqchip=split,acpi=off")])
def test_reboots_three_times(start, raw, kernel, machine):
    """In the same process, and each boot finds everything again."""
    vm = start(script=COUNT + "echo boot $n of $(cat /proc/sys/kernel/random/boot_id); nproc; "
                              "[ $n -le 3 ] && { sync; reboot -f; sleep 100; }; echo enough",
               kernel=kernel, options=["--disk", f"path={raw('counter', 512)}", "--cpus", "boot=2", "--machine", machine])
    pid = vm.pid
    ids = [vm.console.expect(rf"boot {n} of (\S+)\n2\n").group(1) for n in (1, 2, 3, 4)]
    vm.console.expect("enough\n")
    assert vm.pid == pid and len(set(ids)) == 4
    if "acpi=off" in machine:
        vm.serial.expect("System halted")
        vm.signal(signal.SIGTERM)
    vm.wait_ok()


def test_panic_boots_again(start, raw):
    vm = start(script=COUNT + "echo boot $n; [ $n = 1 ] && { echo c >/proc/sysrq-trigger; sleep 100; }; echo enough",
               options=["--disk", f"path={raw('counter', 512)}"])
    vm.console.expect("boot 1\n")
    vm.serial.expect("Kernel panic - not syncing: sysrq triggered crash")
    vm.console.expect("boot 2\nenough\n")
    vm.wait_ok()


def test_triple_fault_boots_again(start, raw):
    """A CPU that cannot even report a fault resets the machine: `reboot=t` makes the kernel do that."""
    vm = start(script=COUNT + "echo boot $n; [ $n = 1 ] && { reboot -f; sleep 100; }; echo enough", cmdline="reboot=t",
               options=["--disk", f"path={raw('counter', 512)}"], is_triple_fault_meant=True)
    vm.console.expect("boot 2\nenough\n")
    assert "triple fault" in vm.log()
    vm.wait_ok()


@pytest.mark.parametrize("how", ["k", "p", "a"])
def test_every_way_to_reset(start, raw, how):
    """The keyboard controller, the PCI reset register, the ACPI one: the kernel takes the one that it is told to."""
    vm = start(script=COUNT + "echo boot $n; [ $n = 1 ] && { reboot -f; sleep 100; }; echo enough", cmdline=f"reboot={how}",
               options=["--disk", f"path={raw('counter', 512)}"])
    vm.console.expect("boot 2\nenough\n")
    vm.wait_ok()


@pytest.mark.parametrize("machine", ["transport=pci,irqchip=split", "transport=mmio,irqchip=kernel"])
def test_power_button(start, machine):
    """SIGUSR2 presses it, twice; the guest sees a key pressed and let go each time. (That systemd then powers off is shown
    by test_debian.py.)"""
    vm = start(script="exec </dev/input/event0; echo ready; for i in 1 2; do dd bs=24 count=4 2>/dev/null | hexdump -v "
                      "-e '8/2 \"%04x,\" 4/2 \"|%d\" \"\\n\"'; echo pressed $i; done", options=["--machine", machine])
    for n in (1, 2):
        vm.console.expect("ready\n" if n == 1 else "pressed 1\n")
        vm.signal(signal.SIGUSR2)
    vm.wait_ok()
    # struct input_event: after the time, type 1 (a key), code 116 (power), 1 or 0; then a synchronization.
    events = [line.split("|")[1:] for line in vm.console.text().splitlines() if "|" in line]
    assert events == [["1", "116", "1", "0"], ["0", "0", "0", "0"], ["1", "116", "0", "0"], ["0", "0", "0", "0"]] * 2


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signal_ends_in_order(start, number):
    vm = start(script="echo ready; sleep 1000", console="tty", serial="socket")
    vm.console.expect("ready\r?\n")
    assert vm.terminal.is_raw()
    vm.signal(number)
    vm.wait_ok(20)
    assert vm.terminal.mode() == vm.terminal.first_mode
    assert not os.path.exists(vm.folder / "serial")


def test_signal_while_it_starts(start):
    """At no moment of its start does a signal leave something behind, or a raw terminal."""
    for i in range(8):
        vm = start(console="tty", serial="socket")
        try:
            vm.process.wait(0.03 * i)
        except Exception:
            pass
        vm.signal(signal.SIGTERM)
        status = vm.wait(20)
        assert status in (0, -signal.SIGTERM), vm.report()
        assert vm.terminal.mode() == vm.terminal.first_mode
        assert not os.path.exists(vm.folder / "serial")


def test_terminal_goes_away(start):
    """The window is closed: the kernel sends SIGHUP, and the program ends."""
    vm = start(script="echo ready; sleep 1000", console="tty", serial="socket")
    vm.console.expect("ready\r?\n")
    vm.console.close()
    vm.streams.clear()
    os.close(vm.terminal.master)
    vm.terminal.master = None
    assert vm.wait(20) == 0
    assert not os.path.exists(vm.folder / "serial")


@pytest.mark.parametrize("number", [signal.SIGABRT, signal.SIGSEGV])
def test_terminal_is_restored_when_the_program_dies(start, number):
    vm = start(script="echo ready; sleep 1000", console="tty", serial="null")
    vm.console.expect("ready\r?\n")
    assert vm.terminal.is_raw()
    vm.signal(number)
    assert vm.wait(20) == -number
    assert vm.terminal.mode() == vm.terminal.first_mode


def test_killed_program_leaves_the_image_free(start, raw):
    """SIGKILL: nothing can be tidied up, and yet the next one can use disk and socket path."""
    disk = raw("disk", 1 << 20)
    how = {"script": "echo ready; sleep 1000", "options": ["--disk", f"path={disk}"]}
    vm = start(**how)
    vm.console.expect("ready\n")
    vm.process.kill()
    vm.wait()
    vm = start(**how)
    vm.console.expect("ready\n")
    vm.signal(signal.SIGTERM)
    vm.wait_ok()


def test_thirty_boots_in_a_row(start, raw):
    """Ten processes, three boots each, of alternating machines."""
    machines = ["transport=pci,irqchip=split", "transport=mmio,irqchip=split", "transport=pci,irqchip=kernel",
                "transport=mmio,irqchip=kernel"]
    for i in range(10):
        vm = start(script=COUNT + "echo boot $n; [ $n -lt 3 ] && { reboot -f; sleep 100; }",
                   kernel="cloud/vmlinuz" if i % 2 else "cloud/vmlinux",
                   options=["--disk", f"path={raw(f'counter{i}', 512)}", "--cpus", f"boot={1 + i % 2}",
                            "--machine", machines[i % len(machines)]])
        for n in (1, 2, 3):
            vm.console.expect(f"boot {n}\n")
        vm.wait_ok()
