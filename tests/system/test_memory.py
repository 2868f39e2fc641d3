# SPDX-License-Identifier: Apache-2.0
"""The guest has all the memory that was asked for, uses it, and the host gives only what it touches."""
import re

import pytest

from vmm import sections

MIB = 1 << 20
LOOK = {
    "meminfo": "cat /proc/meminfo",
    "dmesg": "dmesg",
    # What is written must be there later: 16 files of a MiB, each one different. The kernel fills its memory from the top.
    "fill": "seq 150000 >/tmp/block; all() { for i in $(seq 16); do echo $i; cat /tmp/block; done; }; all >/tmp/all; "
            "all | md5sum; md5sum </tmp/all",
}
# 3 GiB is where RAM ends below the devices' addresses; a MiB more is the first above 4 GiB.
SIZES = {"128M": 128, "3G": 3072, "3073M": 3073, "5G": 5120}


@pytest.mark.parametrize("size", SIZES)
def test_size(start, size):
    asked = SIZES[size] * MIB
    vm = start(script=sections(LOOK) + "read line </dev/ttyS0\n", serial="socket", options=["--memory", f"size={size}"])
    vm.console.expect("<<end>>\n")
    resident_kib = int(re.search(r"VmRSS:\s+(\d+)", open(f"/proc/{vm.pid}/status").read()).group(1))
    vm.connect("serial").send("go\n")
    vm.wait_ok()
    found = vm.results()

    ranges = re.findall(r"BIOS-e820: \[mem 0x(\w+)-0x(\w+)\] usable", found["dmesg"])
    usable = sum(int(last, 16) + 1 - int(first, 16) for first, last in ranges)
    # The first MiB has room for tables and for what old machines had there.
    assert asked - MIB <= usable <= asked

    # The kernel's own account: what it has, what of that it keeps for itself; MemTotal grows later by what it frees.
    match = re.search(r"Memory: (\d+)K/(\d+)K available .*?(\d+)K reserved", found["dmesg"])
    free_kib, all_kib, reserved_kib = map(int, match.groups())
    total_kib = int(re.search(r"MemTotal:\s+(\d+)", found["meminfo"]).group(1))
    assert abs(all_kib * 1024 - usable) < MIB
    assert all_kib - reserved_kib <= total_kib <= all_kib

    written, read = found["fill"].splitlines()
    assert written == read
    if asked >= 1 << 30:
        assert resident_kib * 1024 < asked / 4, "memory that the guest did not touch is allocated"
    assert free_kib > 0
