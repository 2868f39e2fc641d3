# SPDX-License-Identifier: Apache-2.0
"""Writes cpio archives (format "newc"), the form of an initial RAM file system.

Written here and not by cpio(1) because device nodes then need no root, and the same input gives the same bytes.
The format: Documentation/driver-api/early-userspace/buffer-format.rst in the kernel.
"""
import stat


class Archive:
    def __init__(self):
        self._parts, self._inode = [], 0

    def _entry(self, name, mode, data=b"", device=(0, 0)):
        self._inode += 1
        path = name.encode() + b"\0"
        # inode, mode, uid, gid, nlink, mtime, size, dev major and minor, rdev major and minor, name size, check
        fields = (self._inode, mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(path), 0)
        header = b"070701" + b"".join(b"%08x" % f for f in fields) + path
        self._parts += [header, bytes(-len(header) % 4), data, bytes(-len(data) % 4)]

    def folder(self, name):
        self._entry(name, stat.S_IFDIR | 0o755)

    def file(self, name, data, mode=0o644):
        self._entry(name, stat.S_IFREG | mode, data)

    def link(self, name, target):
        self._entry(name, stat.S_IFLNK | 0o777, target.encode())

    def device(self, name, major, minor):
        self._entry(name, stat.S_IFCHR | 0o600, device=(major, minor))

    def bytes(self):
        self._entry("TRAILER!!!", 0)
        data = b"".join(self._parts)
        self._parts = []
        return data + bytes(-len(data) % 512)
