# SPDX-License-Identifier: Apache-2.0
"""The hostile guest of tests/guest: every violation ends in an answer or in a device that asks for a reset; the program
neither crashes nor hangs nor ends by itself."""
import re
import subprocess
from pathlib import Path

import pytest

from vmm import PROGRAM

PAYLOAD = Path(PROGRAM).resolve().parent / "tests" / "guest" / "attack.elf"
SECONDS = 300  # a hang guard: it takes some seconds


def attack(raw, machine, seed, rounds, disk=""):
    # A console with nobody at the other end, a disk of its own; what is written there is of no interest.
    image = raw(f"attack{seed}", 8 << 20)
    run = subprocess.run([PROGRAM, "--kernel", PAYLOAD, "--cmdline", f"seed={seed} rounds={rounds}", "--serial", "tty",
                          "--console", "null", "--memory", "size=128M", "--machine", machine,
                          "--disk", f"path={image}{disk}"],
                         stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=SECONDS, check=False)
    cases = re.findall(r"^CASE (\w+ \w+ \w+): (.*?)\r?$", run.stdout, re.M)
    bad = [case for case in cases if case[1] != "PASS"]
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-2000:]
    assert not bad, bad
    assert re.search(rf"DONE {len(cases)} cases, 0 failed", run.stdout), run.stdout[-500:]
    return cases


@pytest.mark.parametrize("machine", ["transport=pci", "transport=pci,irqchip=kernel", "transport=mmio,acpi=off"])
def test_named_violations(raw, machine):
    cases = attack(raw, machine, seed=1, rounds=1)
    # block, console and entropy, each with every case.
    assert {name.split()[0] for name, _ in cases} == {"block", "console", "entropy"}
    assert len(cases) >= 3 * 45


@pytest.mark.parametrize("seed", [2, 3])
@pytest.mark.parametrize("machine", ["transport=pci", "transport=mmio,acpi=off"])
def test_garbage(raw, machine, seed):
    attack(raw, machine, seed, rounds=60)


def test_garbage_without_io_uring(raw):
    attack(raw, "transport=pci", seed=4, rounds=60, disk=",_disable_io_uring=on")
