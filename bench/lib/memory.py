# SPDX-License-Identifier: Apache-2.0
"""A process's own memory: what is resident of all its mappings, except the one that is the guest's RAM."""
import re
from pathlib import Path


def _mappings(pid):
    """[{"range", "perms", "Size", "Rss", "Pss"}], sizes in KiB"""
    found = []
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        if match := re.match(r"([0-9a-f]+)-([0-9a-f]+) (\S+)", line):
            found.append({"start": int(match.group(1), 16), "end": int(match.group(2), 16), "perms": match.group(3)})
        elif match := re.match(r"(Size|Rss|Pss): +(\d+) kB", line):
            found[-1][match.group(1)] = int(match.group(2))
    return found


def _guest_ram(mappings, size_kib):
    """Which of the mappings are the guest's RAM: some that lie end to end, may be written, and add up to its size. (It is
    one mapping, or more where a file is mapped into its middle.)"""
    for first in range(len(mappings)):
        end, total = mappings[first]["start"], 0
        for last in range(first, len(mappings)):
            one = mappings[last]
            if one["start"] != end or not one["perms"].startswith("rw"):
                break
            end, total = one["end"], total + one["Size"]
            if total == size_kib:
                return range(first, last + 1)
    return range(0)


def own_memory(pid, guest_mib):
    """Resident and proportional size in KiB."""
    mappings = _mappings(pid)
    guest = _guest_ram(mappings, guest_mib * 1024)
    if not guest:
        raise RuntimeError(f"process {pid}: no mappings of {guest_mib} MiB, which the guest's RAM has")
    own = [one for n, one in enumerate(mappings) if n not in guest]
    return {"rss_kib": sum(one["Rss"] for one in own), "pss_kib": sum(one["Pss"] for one in own)}


def page_faults(pid):
    """Of all threads, so far (proc(5), /proc/pid/stat: minflt and majflt)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return int(fields[7]) + int(fields[9])
