# SPDX-License-Identifier: Apache-2.0
"""Disks that are made larger under a running guest: it sees the new size, uses it, and has it after a reboot."""
import pytest

from test_hotplug import MIB, Guest
from test_images import qemu_img

# For the guest's shell: waits until the kernel has the size, in sectors; then $d is the disk.
GROWS = 'grows() { for i in $(seq 600); do find_disk $1; [ "$(cat /sys/block/$d/size)" = $2 ] && return; usleep 20000; done; ' \
        'echo "$1 has $(cat /sys/block/$d/size) sectors"; }'


@pytest.mark.parametrize("machine", ["transport=pci", "transport=mmio"])
def test_grown_under_a_guest_that_writes(start, folder, raw, machine):
    images = {"raw": raw("raw", 16 * MIB), "qcow2": folder / "qcow2.img"}
    qemu_img("create", "-q", "-f", "qcow2", images["qcow2"], 16 * MIB)
    guest = Guest(start, folder, ["--machine", machine, "--cpus", "boot=2", "--disk", *(
        f"path={path},image_type={kind},serial={kind},id={kind}" for kind, path in images.items())])
    guest.run(GROWS)
    for kind in images:
        assert guest.run(f"""
            appears {kind}; touch /run/writing.{kind}; disk=/dev/$d
            while [ -e /run/writing.{kind} ]; do
            dd if=/dev/urandom of=$disk bs=64k count=64 conv=notrunc,fsync 2>/dev/null || echo {kind} >>/run/errors
            done &""".replace("do\n", "do ")) == ""
    sizes = (48 * MIB, 80 * MIB + 512)
    for n, size in enumerate(sizes):
        for kind in images:
            guest.put("vm.resize-disk", {"id": kind, "desired_size": size})
            assert guest.run(f"grows {kind} {size // 512}") == ""
            assert guest.run(f"echo end {n} | dd of=/dev/$(disk {kind}) bs=512 seek={size // 512 - 1} conv=sync,notrunc,fsync "
                             "2>/dev/null || echo failed") == ""
    assert guest.run("rm /run/writing.*; wait; cat /run/errors 2>/dev/null") == ""
    for kind in images:
        status, text = guest.refused("vm.resize-disk", {"id": kind, "desired_size": sizes[0]})
        assert status == 500 and "disks can only grow" in text
    guest.check_kernel()

    guest.put("vm.reboot")
    guest.shell.expect("<<ready>>\n")
    last = sizes[-1] // 512 - 1
    for kind in images:
        assert guest.run(f"appears {kind}; cat /sys/block/$d/size; dd if=/dev/$d bs=512 skip={last} 2>/dev/null | head -n 1") == \
            f"{last + 1}\nend 1"
        assert guest.run(f"dd if=/dev/$(disk {kind}) bs=512 skip={sizes[0] // 512 - 1} count=1 2>/dev/null | head -n 1") == "end 0"
    guest.end()
    assert images["raw"].stat().st_size == sizes[-1]
    qemu_img("check", "-f", "qcow2", images["qcow2"])
    assert f"({sizes[-1]} bytes)" in qemu_img("info", "-f", "qcow2", images["qcow2"])
