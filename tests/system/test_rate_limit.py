# SPDX-License-Identifier: Apache-2.0
"""Rate limits of disks: what a guest gets in some seconds, by its own clock, is what it was allowed."""
import hashlib
import time

from test_hotplug import Guest, pattern

MIB = 1 << 20

# timed NAME COMMAND...: how long it took, in hundredths of a second. The pause before lets every bucket fill.
TIMED = r"""
now() { read -r up rest </proc/uptime; echo ${up%.*}${up#*.}; }
timed() { name=$1; shift; start=$(now); "$@" 2>/dev/null || echo failed; echo $name $(($(now) - start)); }
sleep 1
"""


def seconds(said):
    """{name: seconds} of what `timed` said."""
    return {name: int(hundredths) / 100 for name, hundredths in (line.split() for line in said.splitlines())}


def check_rate(found, n_tokens, size, per_second):
    """A full bucket at the start, then a steady flow: not faster; slower only by what a busy machine's guest is late itself.
    How exact the flow is, unit tests say by a clock of their own."""
    expected = (n_tokens - size) / per_second
    print(f"{found} s, of {expected} s")
    assert expected * 0.99 - 0.05 <= found <= expected * 1.5 + 2, (found, expected)


def test_rates_by_the_guests_clock(ask, raw):
    """10 s at 4 MiB/s; 5 s of 100 operations a second; then two disks of a group that read and write at the same time."""
    images = [raw("bytes", pattern(1, 40 * MIB)), raw("ops", 2 * MIB), raw("first", 10 * MIB), raw("second", 10 * MIB)]
    limits = ["bw_size=1048576,bw_refill_time=250,num_queues=2", "ops_size=20,ops_refill_time=200",
              "rate_limit_group=both", "rate_limit_group=both"]
    found = ask({
        "bytes": TIMED + "timed bytes dd if=/dev/vda of=/dev/null bs=1M count=40 iflag=direct",
        "ops": TIMED + "echo 0 >/sys/block/vdb/queue/read_ahead_kb; timed ops dd if=/dev/vdb of=/dev/null bs=4k count=500",
        "group": TIMED + "timed read dd if=/dev/vdc of=/dev/null bs=64k count=160 iflag=direct & "
                         "timed write dd if=/dev/zero of=/dev/vdd bs=64k count=160 oflag=direct conv=fsync & wait",
        "sum": "dd if=/dev/vda bs=1M count=4 2>/dev/null | md5sum | cut -d ' ' -f 1",
    }, options=["--cpus", "boot=2", "--rate-limit-group", "id=both,bw_size=524288,bw_refill_time=125",
                "--disk", *(f"path={image},{limit}" for image, limit in zip(images, limits))])
    check_rate(seconds(found["bytes"])["bytes"], 40, 1, 4)
    check_rate(seconds(found["ops"])["ops"], 500, 20, 100)
    took = seconds(found["group"])
    check_rate(max(took.values()), 20, 0.5, 4)
    assert min(took.values()) >= 0.8 * max(took.values()), f"turns: neither is long done before the other: {took}"
    assert found["sum"] == hashlib.md5(images[0].read_bytes()[:4 * MIB]).hexdigest()
    assert images[3].read_bytes() == bytes(10 * MIB)


def test_a_group_and_disks_that_come_and_go(start, folder, raw):
    """A disk joins a group while the guest runs, waits for its turn through a pause, and leaves; the group stays."""
    guest = Guest(start, folder, options=[
        "--cpus", "boot=2", "--rate-limit-group", "id=slow,bw_size=524288,bw_refill_time=250",
        "--disk", f"path={raw('first', 8 * MIB)},serial=first,id=first,rate_limit_group=slow"])
    content = pattern(7, 8 * MIB)
    image = raw("second", content)
    assert "Invalid rate-limiter group" in guest.refused("vm.add-disk", {"path": str(image), "rate_limit_group": "fast"})[1]
    for n in range(2):
        guest.put("vm.add-disk", {"path": str(image), "serial": f"second{n}", "id": "second", "rate_limit_group": "slow"}, 200)
        guest.run(f"appears first; first=/dev/$d; appears second{n}; second=/dev/$d")
        begin = time.monotonic()
        guest.run("md5sum $second >/run/sum & "
                  "while dd if=$first of=/dev/null bs=64k count=16 iflag=direct 2>/dev/null; do :; done &")
        time.sleep(1)
        guest.put("vm.pause")
        time.sleep(1)
        guest.put("vm.resume")
        if n == 0:
            guest.put("vm.remove-device", {"id": "first"})  # in use, and probably waiting
            guest.wait_removed(1)
        said = guest.run("while [ ! -s /run/sum ]; do usleep 50000; done; cut -d ' ' -f 1 /run/sum; rm /run/sum", 120)
        assert said == hashlib.md5(content).hexdigest()
        assert time.monotonic() - begin >= (8 - 0.5) / 2
        if n == 0:
            guest.put("vm.remove-device", {"id": "second"})
            guest.wait_removed(2)
            guest.put("vm.add-disk", {"path": str(raw("third", 8 * MIB)), "serial": "first", "id": "first",
                                      "rate_limit_group": "slow"}, 200)
    guest.put("vm.remove-device", {"id": "first"})
    guest.wait_removed(3)
    guest.end()
