#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Tests the emulated host itself, from outside: what every other test takes for granted.

    selftest.py            a few minutes at most; unittest's options work
"""
import os
import subprocess
import sys
import tempfile
import textwrap
import unittest
from pathlib import Path

HOST = Path(__file__).resolve().parent / "host.py"


def inside(*command, options=(), stdin=b"", seconds=180):
    return subprocess.run([sys.executable, HOST, "run", *options, "--", *command], input=stdin, capture_output=True,
                          timeout=seconds)


class Streams(unittest.TestCase):
    def test_exit_status_comes_out(self):
        self.assertEqual(inside("sh", "-c", "exit 7").returncode, 7)

    def test_death_by_signal_is_told_as_a_shell_does(self):
        self.assertEqual(inside("sh", "-c", "kill -9 $$").returncode, 137)

    def test_unknown_command_is_127(self):
        self.assertEqual(inside("no-such-command").returncode, 127)

    def test_output_and_error_stay_apart(self):
        done = inside("sh", "-c", "echo out; echo err >&2")
        self.assertEqual((done.stdout, done.stderr), (b"out\n", b"err\n"))

    def test_a_mebibyte_goes_through_unchanged(self):
        data = os.urandom(1 << 20)
        self.assertEqual(inside("cat", stdin=data).stdout, data)

    def test_results_come_out(self):
        with tempfile.TemporaryDirectory() as folder:
            inside("sh", "-c", "mkdir $VARAN_RESULTS/a; echo x >$VARAN_RESULTS/a/b", options=["--results", folder])
            self.assertEqual((Path(folder) / "a" / "b").read_text(), "x\n")

    def test_payload_goes_in(self):
        done = inside("cat", "dev", options=["--payload", "dev"])
        self.assertEqual(done.stdout, (HOST.parent.parent.parent / "dev").read_bytes())


class Guards(unittest.TestCase):
    def test_time_limit_interrupts_the_command(self):
        done = inside("sleep", "600", options=["--timeout", "2"])
        self.assertEqual(done.returncode, 124)

    def test_a_crash_of_the_host_is_reported_with_its_log(self):
        done = inside("sh", "-c", "echo c >/proc/sysrq-trigger; sleep 60")
        self.assertEqual(done.returncode, 125)
        self.assertIn(b"sysrq triggered crash", done.stderr)

    def test_every_session_has_its_own_random_numbers(self):
        read = ("sh", "-c", "od -N 16 -x /dev/urandom")
        self.assertNotEqual(inside(*read).stdout, inside(*read).stdout)


class Terminal(unittest.TestCase):
    def test_the_command_has_a_controlling_terminal(self):
        import pty
        child, terminal = pty.fork()
        if child == 0:
            os.execv(sys.executable, [sys.executable, str(HOST), "run", "--tty", "--", "sh", "-c",
                                      "read -r line </dev/tty; echo got $line; exit 3"])
        os.write(terminal, b"words\n")
        said = b""
        try:
            while data := os.read(terminal, 4096):
                said += data
        except OSError:
            pass  # the other side is closed
        self.assertIn(b"got words\r\n", said)
        self.assertEqual(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), 3)


GUEST = """
    exec timeout 100 qemu-system-x86_64 -M microvm,rtc=on -accel kvm -cpu host -m 256 -nodefaults -no-user-config \\
        -nographic -no-reboot -serial stdio -kernel /guest/$1/$2 -initrd /guest/$1/initramfs \\
        -append "console=ttyS0 quiet panic=-1 varan.status=/dev/ttyS0 varan.run=$(echo 'uname -r; exit 5' | base64 -w 0)" \\
        </dev/null
"""


class Kvm(unittest.TestCase):
    def test_kvm_is_there(self):
        check = """
            import fcntl, os
            kvm = os.open("/dev/kvm", os.O_RDWR)
            assert fcntl.ioctl(kvm, 0xAE00, 0) == 12, "KVM_GET_API_VERSION"
            os.close(fcntl.ioctl(kvm, 0xAE01, 0))  # KVM_CREATE_VM
        """
        done = inside("python3", "-c", textwrap.dedent(check))
        self.assertEqual((done.returncode, done.stderr), (0, b""))

    def test_linux_guests_reach_user_space(self):
        for flavour in ("cloud", "generic"):
            for kernel in ("vmlinuz", "vmlinux"):
                with self.subTest(kernel=f"{flavour}/{kernel}"):
                    done = inside("sh", "-c", GUEST, "sh", flavour, kernel)
                    self.assertIn(b"varan.status=5\n", done.stdout)

    def test_instruction_counting_gives_the_same_count_twice(self):
        # Only work is counted alike: while the machine is idle its clock jumps from timer to timer.
        work = "import time; begin = time.monotonic_ns(); sum(range(10**6)); print(time.monotonic_ns() - begin)"
        counts = [int(inside("python3", "-c", work, options=["--icount"]).stdout) for _ in range(2)]
        self.assertLess(abs(counts[0] - counts[1]), counts[0] * 0.02)


if __name__ == "__main__":
    unittest.main()
