# SPDX-License-Identifier: Apache-2.0
"""What is booted: a kernel, the initramfs of the system tests, and in it a first program that tells when it starts.

The mark of "user space" must be the same for every machine, cheap, and visible from outside. It is a CPUID instruction
with a leaf of our own: it needs no device and no right, KVM itself answers it, and its tracepoint kvm_cpuid sees it. So
the first program is not a shell but a few instructions.
"""
import struct
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2] / "tests" / "host"))
import cpio  # noqa: E402

MARK_LEAF = 0x6e617261  # no leaf that exists is near
INIT = "bench-init"
# `quiet` because a line on the serial port costs an exit per byte everywhere, and says nothing about the machine.
CMDLINE = f"console=ttyS0 quiet panic=-1 rdinit=/{INIT}"
# Comes a second after the mark: what is counted ends before it. It shows that the serial port works.
MESSAGE = b"bench: user space\n"

LOAD, HEADERS = 0x400000, 64 + 56


def _init_code():
    """x86-64 Linux: the mark, a second's sleep, the message; then it waits for ever."""

    def code(data_at):
        here = LOAD + HEADERS
        text = b""
        text += b"\xb8" + struct.pack("<I", MARK_LEAF)              # mov eax, leaf
        text += b"\x31\xc9\x0f\xa2"                                 # xor ecx, ecx; cpuid
        text += b"\xb8" + struct.pack("<I", 35)                     # mov eax, SYS_nanosleep
        text += b"\xbf" + struct.pack("<I", data_at)                # mov edi, a second
        text += b"\x31\xf6\x0f\x05"                                 # xor esi, esi; syscall
        text += b"\xb8" + struct.pack("<I", 1)                      # mov eax, SYS_write
        text += b"\xbf" + struct.pack("<I", 1)                      # mov edi, standard output
        text += b"\xbe" + struct.pack("<I", data_at + 16)           # mov esi, the message
        text += b"\xba" + struct.pack("<I", len(MESSAGE))           # mov edx, its length
        text += b"\x0f\x05"                                         # syscall
        text += b"\xb8" + struct.pack("<I", 34) + b"\x0f\x05"       # again: mov eax, SYS_pause; syscall
        text += b"\xeb\xf7"                                         # jmp again
        return text, here + len(text)

    _, data_at = code(0)
    text, _ = code(data_at)
    return text + struct.pack("<QQ", 1, 0) + MESSAGE


def init_program():
    """A static ELF file with one segment, headers included."""
    body = _init_code()
    size = HEADERS + len(body)
    header = struct.pack("<16sHHIQQQIHHHHHH", b"\x7fELF\x02\x01\x01", 2, 62, 1, LOAD + HEADERS, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, LOAD, LOAD, size, size, 0x1000)
    return header + segment + body


class Guest:
    """Paths and words, the same for every machine."""

    memory_mib = 256
    cmdline = CMDLINE

    def __init__(self, folder, flavour, work, programs=None):
        """programs: {name: bytes}, further ones in the guest's root."""
        self.kernel = folder / flavour / "vmlinux"
        self.version = (folder / flavour / "version").read_text().strip()
        archive = cpio.Archive()
        for name, data in {INIT: init_program(), **(programs or {})}.items():
            archive.file(name, data, 0o755)
        self.initramfs = work / "initramfs"
        # The kernel unpacks archives that follow one another.
        self.initramfs.write_bytes((folder / flavour / "initramfs").read_bytes() + archive.bytes())
