# SPDX-License-Identifier: Apache-2.0
"""Whether a guest waits for ever for a lock, with its interrupts off: what it looks like from the host."""
import re
import time
from contextlib import suppress
from pathlib import Path

INSTANCES = Path("/sys/kernel/tracing/instances")
LOOK_SECONDS = 1.0
MIN_EXITS = 20    # of the host's 250 ticks a second, which are all that such a CPU leaves for
LOOP_BYTES = 32   # the lock's loop is shorter


def spins(pid):
    """Whether a vCPU of the program runs in one short loop that only the host's ticks interrupt. A driver that waits for a
    device by asking it has other exits, and one that waits for an interrupt halts or does something else meanwhile."""
    instance = INSTANCES / f"spins-{pid}"
    try:
        instance.mkdir()
    except OSError:
        return False
    try:
        tasks = [task.name for task in Path(f"/proc/{pid}/task").iterdir()]
        (instance / "set_event_pid").write_text(" ".join(tasks))
        (instance / "events/kvm/kvm_exit/enable").write_text("1")
        time.sleep(LOOK_SECONDS)
        (instance / "events/kvm/kvm_exit/enable").write_text("0")
        exits = {}
        for line in (instance / "trace").read_text().splitlines():
            match = re.search(r"-(\d+) .*kvm_exit: .*reason (\S+) rip (0x[0-9a-f]+)", line)
            if match:
                exits.setdefault(match.group(1), []).append((match.group(2), int(match.group(3), 16)))
    except OSError:  # the program has ended
        return False
    finally:
        with suppress(OSError):
            instance.rmdir()
    return any(len(those) >= MIN_EXITS and {reason for reason, _ in those} == {"interrupt"}
               and max(rip for _, rip in those) - min(rip for _, rip in those) < LOOP_BYTES for those in exits.values())
