# SPDX-License-Identifier: Apache-2.0
"""One boot of one machine, measured in one of two ways: its cost in instructions, or its exits and system calls.

They are not mixed, because counting events costs instructions. What the first way traces is a dozen events per boot.
While the machine boots, this process sleeps. It runs ahead of all others, so it is asleep before the program starts,
and it wakes only when the guest is in user space.
"""
import os
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

import memory
from guest import MARK_LEAF, MESSAGE
from tracing import Instance, names_of, time_of

SECONDS = 30  # a guard: of the host's clock, which counts instructions, and goes on while a cold program is read from disk
MARK = f"function == {MARK_LEAF}"
CPU_LEAVES_IDLE = 0xffffffff  # PWR_EVENT_EXIT in <trace/events/power.h>, as printed

# What is counted: tracepoint -> its fields.
COUNTED = {
    "kvm/kvm_exit": ("exit_reason",),
    "kvm/kvm_userspace_exit": ("reason",),
    "kvm/kvm_pio": ("port", "rw"),
    "kvm/kvm_mmio": ("gpa", "type"),
    "kvm/kvm_msr": ("ecx", "write"),
    "kvm/kvm_cpuid": ("function",),
    "raw_syscalls/sys_enter": ("common_pid", "id.syscall"),
}


class RunFailed(RuntimeError):
    pass


def run_ahead_of_all_others():
    os.sched_setscheduler(0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(1))


class Vmm:
    """The program, behind a small shell that waits for a word and then becomes it."""

    def __init__(self, name, argv, folder):
        self.name, self.folder = name, folder
        self.serial, self.output = folder / "serial", folder / "output"
        self.serial.unlink(missing_ok=True)
        with open(self.output, "wb") as output:
            self.process = subprocess.Popen(["/bin/sh", "-c", 'read go; exec "$@"', "sh", *argv], cwd=folder,
                                            stdin=subprocess.PIPE, stdout=output, stderr=output)
        time.sleep(0.5)  # until it waits

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

    def text(self):
        return "".join(f"\n  | {line}" for path in (self.output, self.serial) if path.exists()
                       for line in path.read_text(errors="replace").splitlines()[-20:])

    def wait_for_message(self):
        """The guest is alive after what was measured, and its serial port works."""
        limit = time.monotonic() + SECONDS
        while MESSAGE.strip() not in (self.serial.read_bytes() if self.serial.exists() else b""):
            if time.monotonic() > limit:
                raise RunFailed(f"{self.name}: the guest did not write to its serial port{self.text()}")
            time.sleep(0.05)


@contextmanager
def _booted(vmm, stack):
    """Lets it boot, and goes on at the guest's mark: gives the time of that."""
    mark = stack.enter_context(Instance("mark"))
    mark.record("kvm/kvm_cpuid", MARK)
    with mark.waiting() as wait:
        vmm.go()
        line = wait(SECONDS)
    if not line:
        raise RunFailed(f"{vmm.name}: the guest did not get to user space{vmm.text()}")
    yield time_of(line)
    vmm.wait_for_message()


def _idle(events, since, until):
    """Time in which the CPU had nothing to do: the clock moves then, but there are no instructions."""
    total, began = 0, None
    for _, now, _, text in events:
        state = int(text.split("state=")[1].split()[0])
        if state != CPU_LEAVES_IDLE:
            began = now
        elif began is not None:
            total += max(0, min(now, until) - max(began, since))
            began = None
    return total


def cost(vmm, guest_mib):
    """Instructions from exec to the first entry into the guest, and to user space; and memory then."""
    with ExitStack() as stack:
        start, idle = (stack.enter_context(Instance(name)) for name in ("start", "idle"))
        start.record("syscalls/sys_enter_execve", f"common_pid == {vmm.pid}")
        start.stop_at("kvm/kvm_entry", "vcpu_id == 0")
        idle.record("power/cpu_idle")
        with _booted(vmm, stack) as user:
            result = memory.own_memory(vmm.pid, guest_mib)
        times = {event: now for _, now, event, _ in start.events()}
        began, first = times["sys_execve"], times["kvm_entry"]
        waits = list(idle.events())
    for name, until in (("first", first), ("user", user)):
        waited = _idle(waits, began, until)
        result[f"{name}_waited"] = waited
        result[f"{name}_instructions"] = until - began - waited
    return result


def _named(counts, names):
    return {names.get(int(key, 0), key): n for (key,), n in counts.items()}


def events(vmm):
    """How often what happened from exec to user space. One run is enough: it is the same each time."""
    with ExitStack() as stack:
        counter = stack.enter_context(Instance("count"))
        for event, keys in COUNTED.items():
            counter.count(event, *keys)
        with _booted(vmm, stack):
            for event, keys in COUNTED.items():
                counter.stop_counting(event, *keys)
            faults = memory.page_faults(vmm.pid)
            found = {event.split("/")[1]: counter.counts(event) for event in COUNTED}
    calls = {}
    for (task, call), n in found["sys_enter"].items():
        if int(task) >= vmm.pid:  # all else is older than the program
            name = call.split("[")[0].strip().removeprefix("sys_")
            calls[name] = calls.get(name, 0) + n
    return {
        "exits": _named(found["kvm_exit"], names_of("kvm/kvm_exit", "exit_reason")),
        "user_exits": _named(found["kvm_userspace_exit"], names_of("kvm/kvm_userspace_exit", "reason")),
        "ports": {f"{'out' if write == '1' else 'in'} {int(port, 0):#x}": n
                  for (port, write), n in found["kvm_pio"].items()},
        "mmio": {f"{('unsatisfied', 'read', 'write')[int(kind, 0)]} {int(gpa, 0):#x}": n
                 for (gpa, kind), n in found["kvm_mmio"].items()},
        "msrs": {f"{'wrmsr' if write == '1' else 'rdmsr'} {int(msr, 0):#x}": n
                 for (msr, write), n in found["kvm_msr"].items()},
        "cpuid": {f"{int(leaf, 0):#x}": n for (leaf,), n in found["kvm_cpuid"].items()},
        "system_calls": calls,
        "page_faults": faults,
    }
