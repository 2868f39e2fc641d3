# SPDX-License-Identifier: Apache-2.0
"""A long-lived process stays small: nothing grows with the guest's reboots, or with its work.

A mapped kernel is guest memory that looks like a file's, with one more open file, and after ten seconds it is replaced by
pieces too small to be told from our own memory by their size. So memory is measured where the kernel was copied."""
import pytest

from vmm import own_memory_kib, status_of
from test_lifecycle import COUNT

MIB = 1 << 20
N_BOOTS = 8
COPIED = ["--machine", "map_kernel=off"]
# A queue of a disk opens its ring when it is first used, and a guest's second CPU may not have used its queue yet.
LAZY_FDS = 2


@pytest.mark.parametrize("kernel", ["mapped", "copied"])
def test_nothing_grows_over_reboots(start, raw, kernel):
    vm = start(script="exec 3<>/dev/ttyS0; stty -F /dev/ttyS0 raw -echo\n" + COUNT +
                      f"echo boot $n >&3; read -r line <&3; [ $n -lt {N_BOOTS} ] && {{ reboot -f; sleep 100; }}",
               serial="socket", options=["--disk", f"path={raw('counter', 512)},num_queues=2", "--cpus", "boot=2",
                                         "--memory", "size=256M", *(COPIED if kernel == "copied" else [])])
    vm.connect("serial")
    seen = []
    for n in range(1, N_BOOTS + 1):
        vm.serial.expect(f"boot {n}\n")
        seen.append({**status_of(vm.pid), "own_kib": own_memory_kib(vm.pid, 256 * MIB)})
        vm.serial.send("go on\n")
    vm.wait_ok()
    first, last = seen[1], seen[-1]
    assert last["fds"] <= first["fds"] + LAZY_FDS, [one["fds"] for one in seen]
    assert last["threads"] <= first["threads"], [one["threads"] for one in seen]
    # The allocator may keep some; what grows by each boot would be 6 times one.
    assert last["mappings"] <= first["mappings"] + 4, [one["mappings"] for one in seen]
    if kernel == "copied":
        assert last["own_kib"] <= first["own_kib"] + 256, [one["own_kib"] for one in seen]


def test_nothing_grows_with_io(start, raw):
    vm = start(script="exec 3<>/dev/ttyS0; stty -F /dev/ttyS0 raw -echo; seq 2000 >/tmp/lines\n"
                      "for n in 1 2 3 4 5 6; do dd if=/dev/vda of=/dev/vdb bs=1M iflag=direct oflag=direct 2>/dev/null; "
                      "cat /tmp/lines; head -c 65536 /dev/hwrng >/dev/null; echo round $n >&3; read -r line <&3; done",
               serial="socket", options=["--disk", f"path={raw('a', 8 * MIB)}", f"path={raw('b', 8 * MIB)},direct=on",
                                         "--memory", "size=256M", *COPIED])
    vm.connect("serial")
    seen = []
    for n in range(1, 7):
        vm.serial.expect(f"round {n}\n")
        seen.append({**status_of(vm.pid), "own_kib": own_memory_kib(vm.pid, 256 * MIB)})
        vm.serial.send("go on\n")
    vm.wait_ok()
    first, last = seen[1], seen[-1]
    assert last["fds"] <= first["fds"] + LAZY_FDS, [one["fds"] for one in seen]
    assert last["threads"] <= first["threads"], [one["threads"] for one in seen]
    assert last["own_kib"] <= first["own_kib"] + 256, [one["own_kib"] for one in seen]


def test_own_memory_is_small(start):
    """The promise of the boot bench, in passing: one vCPU, no disk, at user space."""
    vm = start(script="echo ready; sleep 1000", options=["--memory", "size=256M", *COPIED], log_level=None)
    vm.console.expect("ready\n")
    assert own_memory_kib(vm.pid, 256 * MIB) <= 3 * 1024
    assert vm.stdout() == ""
