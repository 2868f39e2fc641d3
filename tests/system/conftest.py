# SPDX-License-Identifier: Apache-2.0
"""Fixtures: a folder for each test, starting the program in it, and keeping the logs of what failed."""
import os
import re
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

import pytest
from _pytest.runner import runtestprotocol

from vmm import GUEST, IS_EMULATED, PROGRAM, Vm, sections

RESULTS = os.environ.get("VARAN_RESULTS")
MAX_RUNS = 3       # of one test
MAX_LOST = 3       # guests in one session: more are not the emulator's fault
n_lost = 0
KEEP_BYTES = 256 << 10  # of each file of a failed test


def pytest_report_header():
    version = subprocess.run([PROGRAM, "--version"], capture_output=True, text=True, check=False).stdout.strip()
    return f"program: {PROGRAM} ({version}), on {os.environ.get('VARAN_HOST_KIND', 'unknown')} KVM"


def pytest_sessionstart():
    for what in (Path(PROGRAM), GUEST / "cloud" / "vmlinux"):
        if not what.exists():
            pytest.exit(f"{what} is missing: run `./dev test system`", 3)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    report = outcome.get_result()
    if report.failed:
        item.has_failed = True
        item.lost = getattr(item, "lost", []) + [how for vm in getattr(item, "vms", []) if (how := vm.how_guest_was_lost())]
        # Before the fixtures end it: what a program that still runs can tell.
        for vm in getattr(item, "vms", []):
            vm.examine()
            report.sections.append((f"program {vm.folder.name}", vm.report()))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item, nextitem):
    """QEMU's emulation of nested guests loses one now and then (tests/host/README.md). A test that failed so is run again, and
    says so. Any other failure is one, and on a machine that is not emulated this one is, too."""
    global n_lost
    if not IS_EMULATED:
        return None
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    for n in range(1, MAX_RUNS + 1):
        item.has_failed = False
        item.lost = []
        reports = runtestprotocol(item, nextitem=nextitem, log=False)
        n_lost += bool(item.lost)
        if n == MAX_RUNS or not item.lost or n_lost > MAX_LOST:
            break
        print(f"\n{item.nodeid}: the emulator lost the guest ({', '.join(item.lost)}): run {n + 1}")
        item._initrequest()
    if n > 1:  # into the report
        reports[-1].user_properties.append(("runs", str(n)))
    for report in reports:
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


@pytest.fixture
def folder(request):
    """A folder of the test's own. When the test fails, the ends of its files are kept among the results."""
    path = Path(tempfile.mkdtemp(prefix="system-"))
    yield path
    if getattr(request.node, "has_failed", False) and RESULTS:
        name = re.sub(r"[^\w.=-]+", "_", request.node.name)
        _keep(path, Path(RESULTS) / "failed" / f"{request.node.path.stem}.{name}")
    shutil.rmtree(path)


def _keep(source, target):
    for path in source.rglob("*"):
        if path.is_file() and path.suffix not in (".raw", ".ext4") and path.name != "initramfs":
            copy = target / path.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes()[-KEEP_BYTES:])


@pytest.fixture
def start(request, folder):
    """start(...): the program, running. Several in one test get folders of their own. Ended with the test."""
    request.node.vms = []

    def start_one(**how):
        n = len(request.node.vms)
        vm = Vm(folder / f"run{n}", **how)
        request.node.vms.append(vm)
        return vm

    yield start_one
    for vm in request.node.vms:
        vm.end()


@pytest.fixture
def ask(start):
    """ask({name: shell command}, ...): boots, runs the commands in the guest, powers off; {name: output}."""

    def ask_guest(commands, **how):
        vm = start(script=sections(commands), **how)
        if any("acpi=off" in str(option) for option in how.get("options", ())):
            # Without ACPI a guest has no way to power off: its kernel halts.
            vm.console.expect("<<end>>\n")
            vm.serial.expect("System halted")
            vm.signal(signal.SIGTERM)
        vm.wait_ok()
        return vm.results()

    return ask_guest


@pytest.fixture
def raw(folder):
    """raw(name, bytes or size): a raw disk image."""

    def make(name, content):
        path = folder / f"{name}.raw"
        if isinstance(content, int):
            with open(path, "wb") as file:
                file.truncate(content)
        else:
            path.write_bytes(content)
        return path

    return make


@pytest.fixture
def copy(folder):
    """copy(name): a fresh copy of a disk image of the guests."""

    def make(name):
        path = folder / name
        subprocess.run(["cp", "--sparse=always", GUEST / name, path], check=True)
        return path

    return make
