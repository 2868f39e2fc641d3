# SPDX-License-Identifier: Apache-2.0
"""What cannot work ends at once, with a status and one clear text, and leaves nothing behind."""
import os
import re
import shutil
import signal
import subprocess

import pytest

from vmm import GUEST, PROGRAM

USAGE = "\n\nUsage: varan [OPTIONS]\n\nFor more information, try '--help'.\n"


def refused(vm, status, text):
    """The program has ended with exactly that, and its folder holds what the test itself put there."""
    got = vm.wait(30), vm.stderr()
    assert got == (status, text.replace("FOLDER", str(vm.folder)))
    assert vm.stdout() == ""
    left = {path.name for path in vm.folder.iterdir()} - {"argv", "stdout", "stderr", "log", "console", "file"}
    assert not left, f"left behind: {left}"


def bare(start, *arguments):
    """Nothing but these arguments."""
    return start(kernel=None, serial=None, console=None, log_level=None, options=arguments)


@pytest.mark.parametrize("arguments, text", [
    (["--nope"], "error: unexpected argument '--nope' found"),
    (["--kernel=k", "--dis", "path=x"], "error: unexpected argument '--dis' found"),
    (["stray"], "error: unexpected argument 'stray' found"),
    (["--kernel=k", "--", "--initramfs"], "error: unexpected argument '--initramfs' found"),
    (["--kernel"], "error: a value is required for '--kernel <kernel>' but none was supplied"),
    (["--disk", "--kernel", "k"], "error: a value is required for '--disk <disk>...' but none was supplied"),
    (["--cmdline", "-foo"], "error: unexpected argument '-f' found"),
    (["--kernel", "a", "--kernel", "b"], "error: the argument '--kernel <kernel>' cannot be used multiple times"),
    (["--version=1"], "error: unexpected value '1' for '--version' found; no more were expected"),
])
def test_usage(start, arguments, text):
    refused(bare(start, *arguments), 2, text + USAGE)


def test_no_argument_prints_the_help(start):
    vm = bare(start)
    assert vm.wait(30) == 2
    assert vm.stdout() == "" and "Usage: varan [OPTIONS]\n" in vm.stderr()
    asked = bare(start, "--help")
    assert asked.wait(30) == 0
    assert (asked.stdout(), asked.stderr()) == (vm.stderr(), "")


@pytest.mark.parametrize("option, value, text", [
    ("--cpus", "boot=x", "Error parsing --cpus: unable to convert x for boot"),
    ("--cpus", "boot=0", "Error validating configuration: Number of boot vCPUs is zero"),
    ("--cpus", "boot=2,max=1", "Error validating configuration: Max CPUs lower than boot CPUs"),
    ("--cpus", "boot=4,topology=1:2:1:1",
     "Error validating configuration: Product of CPU topology parts does not match maximum vCPUs"),
    ("--cpus", "cores=2", "Error parsing --cpus: unknown option: cores"),
    ("--memory", "size=1X", "Error parsing --memory: unable to convert 1X for size"),
    ("--memory", "size=[1G", "Error parsing --memory: invalid syntax:size=[1G"),
    ("--disk", "disk.img", "Error parsing --disk: unknown option: disk.img"),
    ("--disk", "path=a,readonly=maybe", "Error parsing --disk: unable to convert maybe for readonly"),
    ("--disk", "path=a,num_queues=2", "Error validating configuration: Number of vCPUs is insufficient for number of queues"),
    ("--serial", "file=", "Error validating configuration: Path missing when using file console mode"),
    ("--serial", "nothing", "Error parsing --console: unknown option: nothing"),
    ("--machine", "transport=isa", "Error parsing --machine: unable to convert isa for transport"),
])
def test_option_values(start, option, value, text):
    refused(bare(start, "--kernel", "k", option, value), 1, f"Error parsing config: {text}\n")


def write_kernel(folder, name, source, n_bytes, patch=None):
    with open(GUEST / "cloud" / source, "rb") as file:
        data = bytearray(file.read(n_bytes))
    if patch:
        at, value = patch
        data[at:at + len(value)] = value
    (folder / name).write_bytes(data)


BAD_KERNELS = {
    "no such file": (None, "cannot open: No such file or directory"),
    "a folder": ("folder", "not a regular file"),
    "empty": (b"", "the file is empty"),
    "a text": (b"#!/bin/sh\nexit 0\n" * 100, "neither an ELF file nor a bzImage"),
    "three bytes": (b"\x7fEL", "neither an ELF file nor a bzImage"),
    "truncated ELF": (("vmlinux", 1000000, None),
                      r"segment 0: bytes 0x\w+\+0x\w+ end behind the end of the file \(0xf4240\)"),
    "truncated bzImage": (("vmlinuz", 1000000, None),
                          r"setup header: syssize says 0x\w+ bytes, the file has 0x\w+"),
    "of another architecture": (("vmlinux", 4096, (18, b"\xb7\0")),
                                r"ELF header: for machine 183, must be 62 \(x86-64\)"),
}


@pytest.mark.parametrize("name", BAD_KERNELS)
def test_bad_kernel(start, folder, name):
    content, text = BAD_KERNELS[name]
    path = folder / "kernel"
    if content == "folder":
        path.mkdir()
    elif isinstance(content, bytes):
        path.write_bytes(content)
    elif content:
        source, n_bytes, patch = content
        write_kernel(folder, "kernel", source, n_bytes, patch)
    vm = start(kernel=None, serial="socket", console="file", options=["--kernel", path])
    if content == "folder" or not content or isinstance(content, bytes):
        text = re.escape(text)
    assert vm.wait(30) == 1
    assert re.fullmatch(rf"Error booting VM: kernel '{path}': {text}\n", vm.stderr()), vm.stderr()
    assert not (vm.folder / "serial").exists(), "the socket is left behind"


@pytest.mark.parametrize("options, text", [
    (["--initramfs", "/no/initramfs"],
     "Error booting VM: initramfs '/no/initramfs': cannot open: No such file or directory\n"),
    (["--disk", "path=/no/disk"], "Error booting VM: --disk: cannot open '/no/disk': No such file or directory\n"),
    (["--disk", "path=/tmp"],
     "Error booting VM: --disk: cannot use '/tmp': it is neither a regular file nor a block device\n"),
    (["--rng", "src=/no/rng"],
     "Error booting VM: --rng: __rng: cannot open the entropy source '/no/rng': No such file or directory\n"),
    (["--serial", "socket=/no/folder/socket"],
     "Error creating VM: --serial: cannot bind a socket to '/no/folder/socket': No such file or directory\n"),
    (["--serial", "file=/no/folder/file"],
     "Error creating VM: --serial: cannot open '/no/folder/file' for output: No such file or directory\n"),
    (["--log-file", "/no/folder/log"], "Error creating log file: '/no/folder/log': No such file or directory\n"),
    (["--net", "tap=tap0"], "Error booting VM: not supported yet: --net\n"),
])
def test_what_does_not_exist(start, options, text):
    vm = bare(start, "--kernel", GUEST / "cloud" / "vmlinux", "--console", "off", *options)
    refused(vm, 1, text)


def test_terminal_mode_after_a_failure(start):
    vm = start(kernel=None, serial=None, console="tty", log_level=None, options=["--kernel", "/no/kernel"])
    assert vm.wait(30) == 1
    assert vm.terminal.mode() == vm.terminal.first_mode


def test_kernel_larger_than_memory(start):
    vm = bare(start, "--kernel", GUEST / "cloud" / "vmlinux", "--console", "off", "--memory", "size=16M")
    assert vm.wait(30) == 1
    assert vm.stderr().startswith(f"Error booting VM: kernel '{GUEST}/cloud/vmlinux': segment 0: ")
    assert vm.stderr().endswith(" is not all in the guest's memory\n")


def test_disk_in_use(start, raw):
    """By another VM, in all combinations; and by the same VM twice. Read-only users share."""
    disk = raw("disk", 1 << 20)
    message = f"cannot open '{disk}': the image is in use by another process, or by another disk\n"
    holder = start(script="echo ready; sleep 1000", options=["--disk", f"path={disk}"])
    holder.console.expect("ready\n")
    for more in ("", ",readonly=on"):
        vm = start(options=["--disk", f"path={disk}{more}"])
        assert vm.wait(30) == 1
        assert vm.stderr() == f"Error booting VM: --disk: {message}"
    holder.signal(signal.SIGTERM)
    holder.wait_ok()

    vm = start(options=["--disk", f"path={disk}", f"path={disk}"])
    assert (vm.wait(30), vm.stderr()) == (1, f"Error booting VM: --disk: {message}")

    readers = [start(script="echo ready; sleep 1000", options=["--disk", f"path={disk},readonly=on"]) for _ in range(2)]
    for reader in readers:
        reader.console.expect("ready\n")
    vm = start(options=["--disk", f"path={disk}"])
    assert (vm.wait(30), vm.stderr()) == (1, f"Error booting VM: --disk: {message}")
    for reader in readers:
        reader.signal(signal.SIGTERM)
        reader.wait_ok()


def test_existing_socket_is_not_taken_away(start, folder):
    """Another's socket, or a file of that name, stays what it is."""
    (folder / "run0").mkdir()
    (folder / "run0" / "serial").write_text("mine")
    vm = start(serial="socket")
    assert vm.wait(30) == 1
    assert vm.stderr() == f"Error creating VM: --serial: cannot bind a socket to '{vm.folder}/serial': Address already in use\n"
    assert (vm.folder / "serial").read_text() == "mine"


def test_version(start):
    plain, verbose = bare(start, "--version"), bare(start, "-vV")
    assert (plain.wait(30), plain.stderr()) == (0, "")
    assert plain.stdout().startswith("varan v") and plain.stdout().count("\n") == 1
    assert verbose.wait(30) == 0
    assert verbose.stdout().startswith(plain.stdout() + "Enabled features: [")


def test_no_hypervisor(start):
    """Without /dev/kvm the program says what is missing."""
    unshare = shutil.which("unshare")
    if os.geteuid() or not unshare:
        pytest.skip("hiding /dev/kvm needs root and unshare(1)")
    done = subprocess.run([unshare, "-m", "sh", "-c", 'mount --bind /dev/null /dev/kvm && exec "$@"', "sh", PROGRAM,
                           "--kernel", str(GUEST / "cloud" / "vmlinux"), "--console", "off"],
                          capture_output=True, text=True, timeout=30, check=False, stdin=subprocess.DEVNULL)
    assert done.returncode == 1
    assert "/dev/kvm" in done.stderr and done.stderr.count("\n") == 1, done.stderr
