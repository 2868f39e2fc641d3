# SPDX-License-Identifier: Apache-2.0
"""The emulated machine: QEMU with TCG and nested SVM, its disks, and its two connections to us.

The flags are the measured recipe; README.md says what was tried. Both connections are socket pairs whose far ends QEMU
inherits: nothing to name, nothing to wait for, nothing left behind.
"""
import os
import socket
import subprocess

from qmp import Qmp

QEMU = "qemu-system-x86_64"
MEMORY_MIB = 2048
# A snapshot remembers how large the disks are, so these two do not depend on what is in them.
PAYLOAD_BYTES = 1 << 30
SCRATCH_BYTES = 16 << 30
CMDLINE = ("console=ttyS0 quiet panic=-1 mitigations=off nokaslr tsc=reliable no_timer_check random.trust_cpu=on")


class Setup:
    """What one machine is made of. `ram` is a file for its memory, or None; `incoming` starts it from a saved state."""

    def __init__(self, boot, root, guest, payload, scratch, log, memory_mib=MEMORY_MIB, icount=False, ram=None,
                 incoming=False):
        self.boot, self.root, self.guest = boot, root, guest
        self.payload, self.scratch, self.log = payload, scratch, log
        self.memory_mib, self.icount, self.ram, self.incoming = memory_mib, icount, ram, incoming

    def _disk(self, name, path, is_read_only):
        flags = "readonly=on" if is_read_only else "discard=unmap,cache=unsafe"
        return ["-drive", f"if=none,id={name},format=raw,file={path},{flags}",
                "-device", f"virtio-blk-pci,drive={name},serial={name}"]

    def argv(self, control_fd, qmp_fd):
        machine = "q35,memory-backend=ram" if self.ram else "q35"
        argv = [QEMU, "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-name", "varan-host",
                "-M", machine, "-cpu", "EPYC-Rome,+svm,+npt", "-m", str(self.memory_mib)]
        if self.icount:
            # Time is a count of instructions: the same run gives the same numbers. One CPU, in one thread.
            argv += ["-accel", "tcg,thread=single", "-smp", "1", "-icount", "shift=0,sleep=off"]
        else:
            # One CPU, or two in one thread, hangs guests with two vCPUs.
            argv += ["-accel", "tcg,thread=multi", "-smp", "2"]
        if self.ram:
            share = "off" if self.incoming else "on"
            argv += ["-object", f"memory-backend-file,id=ram,size={self.memory_mib}M,mem-path={self.ram},share={share}"]
        if self.incoming:
            argv += ["-incoming", "defer"]
        argv += ["-kernel", str(self.boot / "vmlinux"), "-initrd", str(self.boot / "initrd"), "-append",
                 CMDLINE + (" varan.warm" if self.ram else "")]
        argv += self._disk("root", self.root / "root.ext4", True) + self._disk("guest", self.guest / "guest.ext4", True)
        argv += self._disk("payload", self.payload, True) + self._disk("scratch", self.scratch, False)
        argv += ["-device", "virtio-serial-pci", "-chardev", f"socket,id=control,fd={control_fd}",
                 "-device", "virtserialport,chardev=control,name=varan.control"]
        argv += ["-chardev", f"socket,id=qmp,fd={qmp_fd}", "-mon", "chardev=qmp,mode=control"]
        argv += ["-serial", f"file:{self.log}"]
        if os.environ.get("VARAN_HOST_MONITOR"):  # a socket for QEMU's own monitor, to look into a host that hangs
            argv += ["-monitor", f"unix:{os.environ['VARAN_HOST_MONITOR']},server=on,wait=off"]
        return argv


class Machine:
    """A running machine. Use as a context: it is killed when the context ends."""

    def __init__(self, setup):
        self.setup = setup
        self.control, control_far = socket.socketpair()
        monitor, monitor_far = socket.socketpair()
        self._messages = open(f"{setup.log}.qemu", "w+")
        argv = setup.argv(control_far.fileno(), monitor_far.fileno())
        # setpriv has the kernel kill the emulator if we are killed ourselves.
        self.process = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", "--", *argv], stdin=subprocess.DEVNULL,
                                        stdout=self._messages, stderr=subprocess.STDOUT, start_new_session=True,
                                        pass_fds=[control_far.fileno(), monitor_far.fileno()])
        control_far.close()
        monitor_far.close()
        try:
            self.qmp = Qmp(monitor)
        except (EOFError, OSError) as error:
            self.kill()
            raise RuntimeError(f"the emulator did not start: {error}\n{self.log_tail()}") from error

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.kill()

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.control.close()

    def log_tail(self, lines=80):
        """The end of what the machine wrote to its serial line, and what QEMU itself had to say."""
        text = ""
        for path in (self.setup.log, f"{self.setup.log}.qemu"):
            try:
                with open(path, errors="replace") as file:
                    # TCG says on each start what of the named CPU it does not have.
                    kept = [line.rstrip() for line in file if "TCG doesn't support requested feature" not in line]
                text += "".join(f"  | {line}\n" for line in kept[-lines:])
            except FileNotFoundError:
                pass
        try:
            status = self.process.wait(1)  # it may be on its way out
            text += f"  | the emulator ended with status {status} (0: its machine reset, as by a triple fault)\n"
        except subprocess.TimeoutExpired:
            pass
        return text or "  | (nothing in its log)\n"
