# SPDX-License-Identifier: Apache-2.0
"""What the other tests take for granted of conftest.py."""
import re

import pytest

from stream import SECONDS, Timeout
from test_attack import PAYLOAD
from vmm import IS_EMULATED

runs = []


@pytest.mark.skipif(not IS_EMULATED, reason="only the emulated host loses guests")
def test_a_lost_guest_is_run_again(start):
    """By a triple fault that nobody asked for: waiting ends at once, and the test gets another go."""
    runs.append(1)
    if len(runs) == 2:
        return
    vm = start(script="echo ready; reboot -f; sleep 1000", cmdline="reboot=t")
    vm.console.expect("ready\n")
    with pytest.raises(Timeout, match="nothing more can come"):
        vm.console.expect("never", 10 * SECONDS)
    assert vm.is_running()
    pytest.fail("as a test does whose guest was lost")


@pytest.mark.skipif(not IS_EMULATED, reason="only the emulated host loses guests")
def test_a_guest_that_waits_for_ever_is_told_from_others(start):
    """In a loop with interrupts off, against busy and quiet ones."""
    busy = start(script="echo ready; while :; do :; done")
    quiet = start(script="echo ready; sleep 1000")
    for vm in (busy, quiet):
        vm.console.expect("ready\n")
    spinning = start(kernel=None, options=["--kernel", PAYLOAD, "--cmdline", "spin=1", "--memory", "size=128M"])
    spinning.serial.expect("SPINS")
    assert re.fullmatch(r"vcpu0 waits for ever at 0x[0-9a-f]+", spinning.how_guest_was_lost())
    assert busy.how_guest_was_lost() is None
    assert quiet.how_guest_was_lost() is None


def test_a_triple_fault_that_was_meant_is_none_of_that(start):
    vm = start(script="echo ready; reboot -f; sleep 1000", cmdline="reboot=t", is_triple_fault_meant=True)
    vm.console.expect("(?s)ready\n.*ready\n")
    assert not vm.has_lost_guest()
