# SPDX-License-Identifier: Apache-2.0
"""Takes the uncompressed kernel (an ELF file) out of a bzImage.

A bzImage is a boot sector, real-mode set-up code, and a protected-mode part that carries the compressed kernel. The header
says where that payload is (Documentation/arch/x86/boot.rst): setup_sects at 0x1f1, payload_offset and payload_length at
0x248 and 0x24c, the offset counted from the beginning of the protected-mode part. The last four bytes of the payload are
the size of the uncompressed kernel, which the build appends; the decompressors stop before it or ignore it.
"""
import gzip
import lzma
import struct
import subprocess
import sys
from pathlib import Path

MAGIC_LZ4_LEGACY = b"\x02\x21\x4c\x18"
MAGIC_XZ = b"\xfd7zXZ\x00"
MAGIC_ZSTD = b"\x28\xb5\x2f\xfd"
MAGIC_GZIP = b"\x1f\x8b"


def payload(image):
    if image[0x202:0x206] != b"HdrS":
        raise ValueError("not a bzImage: no HdrS signature")
    setup_sects = image[0x1F1] or 4
    offset, length = struct.unpack_from("<II", image, 0x248)
    begin = (setup_sects + 1) * 512 + offset
    if begin + length > len(image):
        raise ValueError("bzImage is truncated")
    return image[begin:begin + length]


def _by_tool(tool, data):
    """The tools complain about the four bytes after the end, so only what came out is judged, by the caller."""
    return subprocess.run([tool, "-dc"], input=data, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout


def decompress(data):
    (size,) = struct.unpack("<I", data[-4:])
    if data.startswith(MAGIC_LZ4_LEGACY):
        out = _by_tool("lz4", data[:-4])
    elif data.startswith(MAGIC_XZ):
        out = lzma.LZMADecompressor().decompress(data)
    elif data.startswith(MAGIC_ZSTD):
        out = _by_tool("zstd", data[:-4])
    elif data.startswith(MAGIC_GZIP):
        out = gzip.decompress(data)  # gzip's own trailer is that same size: nothing was appended
    else:
        raise ValueError(f"unknown kernel compression (magic {data[:6].hex()})")
    if len(out) != size or not out.startswith(b"\x7fELF"):
        raise ValueError(f"decompressed to {len(out)} bytes, expected an ELF file of {size}")
    return out


def extract(bzimage, vmlinux):
    Path(vmlinux).write_bytes(decompress(payload(Path(bzimage).read_bytes())))


if __name__ == "__main__":
    extract(sys.argv[1], sys.argv[2])
