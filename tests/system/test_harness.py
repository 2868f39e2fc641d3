# SPDX-License-Identifier: Apache-2.0
"""What the other tests take for granted of conftest.py."""
import pytest

from stream import SECONDS, Timeout
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


def test_a_triple_fault_that_was_meant_is_none_of_that(start):
    vm = start(script="echo ready; reboot -f; sleep 1000", cmdline="reboot=t", is_triple_fault_meant=True)
    vm.console.expect("(?s)ready\n.*ready\n")
    assert not vm.has_lost_guest()
