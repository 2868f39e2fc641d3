# SPDX-License-Identifier: Apache-2.0
"""Numbers to text: the table, the targets, JSON."""
import json
from statistics import median

from machines import PEER, PROGRAM, SMALL

# What a run costs: key, heading, unit.
COSTS = (("first_instructions", "instructions to first guest entry", 1e6, "M"),
         ("user_instructions", "instructions to user space", 1e6, "M"),
         ("first_waited", "waited, to first guest entry", 1e6, "ms"),
         ("user_waited", "waited, to user space", 1e6, "ms"),
         ("rss_kib", "own memory, resident", 1024, "MiB"),
         ("pss_kib", "own memory, proportional", 1024, "MiB"))
GROUPS = (("exits", "exits by reason"), ("user_exits", "exits to user space by reason"), ("system_calls", "system calls"))
DETAILS = (("ports", "ports"), ("mmio", "MMIO addresses"), ("msrs", "MSRs"), ("cpuid", "CPUID leaves"))
TOP = 12  # names listed of each group


def middle(result, key):
    return median(run[key] for run in result["runs"])


def targets(results):
    """[(text, is it met)]: of both of our machines, beside the peer's."""
    found = []
    for name in (SMALL, PROGRAM):
        ours, theirs = results[name], results[PEER]
        first = middle(theirs, "first_instructions") / middle(ours, "first_instructions")
        user = middle(ours, "user_instructions") / middle(theirs, "user_instructions")
        own = middle(ours, "rss_kib") / 1024
        found += [(f"{name}: at most an eighth of {PEER}'s instructions to the first guest entry: 1/{first:.1f}", first >= 8),
                  (f"{name}: fewer instructions than {PEER} to user space: {user:.3f} of them", user < 1),
                  (f"{name}: at most 3 MiB of own memory: {own:.2f} MiB", own <= 3)]
    return found


def are_met(results):
    return all(is_met for _, is_met in targets(results))


def _line(label, cells):
    return f"{label:38}" + "".join(f"{cell:>26}" for cell in cells)


def _spread(result, key, unit):
    low, mid, high = (f(run[key] / unit for run in result["runs"]) for f in (min, median, max))
    return f"{mid:.2f}" if f"{low:.2f}" == f"{high:.2f}" else f"{low:.2f} {mid:.2f} {high:.2f}"


def _costs(results):
    for key, label, unit, sign in COSTS:
        yield _line(f"{label} ({sign})", [_spread(result, key, unit) for result in results.values()])
        if PEER in results and key in ("first_instructions", "user_instructions", "rss_kib"):
            peer = middle(results[PEER], key)
            yield _line(f"  as a share of {PEER}", [f"{middle(result, key) / peer:.3f}" for result in results.values()])
    yield _line("page faults of the VMM", [result["page_faults"] for result in results.values()])


def _group(results, key, label):
    total = {name: sum(result[key].values()) for name, result in results.items()}
    yield _line(label, total.values())
    weight = {}
    for result in results.values():
        for name, n in result[key].items():
            weight[name] = max(weight.get(name, 0), n)
    ranking = sorted(weight, key=lambda name: (-weight[name], name))
    for name in ranking[:TOP]:
        yield _line(f"  {name}", [result[key].get(name, 0) for result in results.values()])
    if ranking[TOP:]:
        yield _line("  others", [sum(result[key].get(name, 0) for name in ranking[TOP:]) for result in results.values()])


def as_text(facts, results, has_details=False):
    lines = [f"Boot of {facts['kernel']}, {facts['vcpus']} vCPU, {facts['memory_mib']} MiB, from exec of the VMM",
             "", _line("", results), *_costs(results)]
    for key, label in GROUPS + (DETAILS if has_details else ()):
        lines += ["", *_group(results, key, label)]
    if {PROGRAM, SMALL, PEER} <= results.keys():
        lines += ["", *(f"{'PASS' if is_met else 'FAIL'}  {text}" for text, is_met in targets(results))]
    return "\n".join(lines)


def as_json(facts, results):
    more = {}
    if {PROGRAM, SMALL, PEER} <= results.keys():
        more["targets"] = [{"target": text, "met": is_met} for text, is_met in targets(results)]
    return json.dumps({**facts, "machines": results, **more}, indent=1) + "\n"
