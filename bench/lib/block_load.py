# SPDX-License-Identifier: Apache-2.0
"""The phases of a disk's load, seen from the host: their cost in instructions, or their exits and system calls.

As with boots (run.py) the two are not mixed. The guest tells where a phase begins and ends (bench/guest/block_load.c).
"""
import re
import sys
from contextlib import ExitStack
from pathlib import Path

from run import RunFailed, _idle, _named
from tracing import Instance, names_of

sys.path.append(str(Path(__file__).resolve().parents[2] / "tests" / "host"))
from spinning import spins  # noqa: E402

BEGIN_LEAF, END_LEAF = 0x6e617262, 0x6e617263
# Guards, of the host's clock: for one phase, and for the guest's boot before the first. A guest that waits for ever makes the
# clock crawl: a second of it takes minutes then.
SECONDS, BOOT_SECONDS = 1.5, 20

COUNTED = {
    "kvm/kvm_exit": ("exit_reason",),
    "kvm/kvm_userspace_exit": ("reason",),
    "raw_syscalls/sys_enter": ("common_pid", "id.syscall"),
}


def _is(leaf):
    return f"function == {leaf}"


class GuestLost(RunFailed):
    """By the emulator, as far as that can be told: it did not even begin, or its kernel waits for ever (tests/host/spinning.py)."""


def _wait_for(vmm, wait, load, is_first):
    """How many requests there were between the marks."""
    line = wait(SECONDS + is_first * BOOT_SECONDS)
    if not line:
        how = spins(vmm.pid) if _has_begun(vmm) else "it did not begin"
        kind = GuestLost if how and vmm.process.poll() is None else RunFailed
        raise kind(f"{vmm.name}: the guest did not end its load `{load.name}`: {how or 'no reason is known'}{vmm.text()}")
    return int(re.search(r"\bidx (?:0x)?([0-9a-f]+)", line).group(1), 16)


def _has_begun(vmm):
    return b"block_load: begins" in (vmm.serial.read_bytes() if vmm.serial.exists() else b"")


def _marks(stack):
    ends = stack.enter_context(Instance("ends"))
    ends.record("kvm/kvm_cpuid", _is(END_LEAF))
    return stack.enter_context(ends.waiting())


def costs(vmm, loads):
    """[{"instructions", "waited"}] per request, of each load."""
    found = []
    with ExitStack() as stack:
        wait = _marks(stack)
        times = stack.enter_context(Instance("times"))
        times.record("kvm/kvm_cpuid", f"{_is(BEGIN_LEAF)} || {_is(END_LEAF)}")
        times.record("power/cpu_idle")
        vmm.go()
        for load in loads:
            count = _wait_for(vmm, wait, load, load is loads[0])
            events = list(times.events())
            marks = [now for _, now, event, _ in events if event == "kvm_cpuid"]
            if len(marks) != 2:
                raise RunFailed(f"{vmm.name}: `{load.name}` has {len(marks)} marks instead of two: events were lost")
            waited = _idle([event for event in events if event[2] == "cpu_idle"], *marks)
            found.append({"instructions": (marks[1] - marks[0] - waited) / count, "waited": waited / count})
            times.clear()
    return found


def events(vmm, loads):
    """[{"exits": {reason: n}, "user_exits", "system_calls": {name: n}}] per request, of each load."""
    found = []
    with ExitStack() as stack:
        wait = _marks(stack)
        counter = stack.enter_context(Instance("count"))
        for event, keys in COUNTED.items():
            counter.count_between(event, keys, ("kvm/kvm_cpuid", _is(BEGIN_LEAF)), ("kvm/kvm_hypercall", f"nr == {END_LEAF}"))
        vmm.go()
        for load in loads:
            count = _wait_for(vmm, wait, load, load is loads[0])
            counts = {event: counter.counts(event) for event in COUNTED}
            calls = {}
            for (task, call), n in counts["raw_syscalls/sys_enter"].items():
                if int(task) >= vmm.pid:  # all else is older than the program
                    name = call.split("[")[0].strip().removeprefix("sys_")
                    calls[name] = calls.get(name, 0) + n / count
            one = {"system_calls": calls}
            for key, event, field in (("exits", "kvm/kvm_exit", "exit_reason"), ("user_exits", "kvm/kvm_userspace_exit", "reason")):
                one[key] = {name: n / count for name, n in _named(counts[event], names_of(event, field)).items()}
            found.append(one)
            for event, keys in COUNTED.items():
                counter.clear_counts(event, keys)
    return found
