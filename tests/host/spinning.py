# SPDX-License-Identifier: Apache-2.0
"""Whether a guest waits for ever for a lock, with its interrupts off: what it looks like from the host."""
import re
import time
from contextlib import suppress
from pathlib import Path

INSTANCES = Path("/sys/kernel/tracing/instances")
LOOK_SECONDS = 0.2
MIN_EXITS = 20    # of the 50 ticks of the host, which are all that such a CPU leaves for
LOOP_BYTES = 32   # the lock's loop is shorter
IOCTL, KVM_RUN = 16, 0xae80
VCPUS = ("vcpu", "CPU ")  # ours, and QEMU's with debug-threads=on


def _is_in_guest(task):
    """Runs, or is in KVM_RUN: the program does not keep this vCPU from going on."""
    words = (task / "syscall").read_text().split()
    return words[0] == "running" or (int(words[0]) == IOCTL and int(words[2], 16) == KVM_RUN)


def _exits(instance, tasks):
    """{task's id: [(reason, instruction pointer)]} of some time."""
    (instance / "set_event_pid").write_text(" ".join(task.name for task in tasks))
    (instance / "events/kvm/kvm_exit/enable").write_text("1")
    time.sleep(LOOK_SECONDS)
    (instance / "events/kvm/kvm_exit/enable").write_text("0")
    found = {}
    for line in (instance / "trace").read_text().splitlines():
        match = re.search(r"-(\d+) .*kvm_exit: .*reason (\S+) rip (0x[0-9a-f]+)", line)
        if match:
            found.setdefault(match.group(1), []).append((match.group(2), int(match.group(3), 16)))
    return found


def spins(pid):
    """Says which vCPU of the program runs in one short loop that only the host's ticks interrupt, and where; or None. A driver
    that asks its device has other exits, one that waits for an interrupt halts, and one that looks at a ring in memory has a
    longer loop. None, too, while a vCPU is with the program: the others may wait for what that one holds."""
    instance = INSTANCES / f"spins-{pid}"
    with suppress(OSError):
        tasks = [task for task in Path(f"/proc/{pid}/task").iterdir() if (task / "comm").read_text().startswith(VCPUS)]
        instance.mkdir()
        try:
            exits = _exits(instance, tasks)
            if not all(_is_in_guest(task) for task in tasks):
                return None
        finally:
            instance.rmdir()
        for task in tasks:
            those = exits.get(task.name, [])
            where = [rip for _, rip in those]
            if (len(those) >= MIN_EXITS and {reason for reason, _ in those} == {"interrupt"}
                    and max(where) - min(where) < LOOP_BYTES):
                return f"{(task / 'comm').read_text().strip()} waits for ever at {where[-1]:#x}"
    return None
