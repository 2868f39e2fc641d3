# SPDX-License-Identifier: Apache-2.0
"""Numbers of disks' requests to text: the table, and the targets."""
from machines import PEER

DEEP = "depth 32"
MAX_EXITS, MAX_CALLS = 0.05, 0.1
TOTALS = (("exits", "exits"), ("user_exits", "to user space"), ("system_calls", "system calls"))


def total(result, key):
    return sum(result[key].values())


def _top(values):
    ranking = sorted(values.items(), key=lambda item: -item[1])
    return ", ".join(f"{name} {n:.3f}" for name, n in ranking[:6] if n >= 0.001)


def targets(results):
    """[(text, is it met)]"""
    found = []
    for kind, rows in results.items():
        for load, machines in rows.items():
            for name, ours in machines.items():
                if name.startswith(PEER):
                    continue
                what = f"{kind}, {load}, {name}"
                peers = [one["instructions"] for other, one in machines.items() if other.startswith(PEER)]
                if peers:
                    share = ours["instructions"] / min(peers)
                    found.append((f"{what}: fewer instructions a request than {PEER}: {share:.3f} of them", share < 1))
                if load.endswith(DEEP):
                    exits, calls = total(ours, "exits"), total(ours, "system_calls")
                    found.append((f"{what}: at most {MAX_EXITS} exits a request: {exits:.4f}", exits <= MAX_EXITS))
                    found.append((f"{what}: at most {MAX_CALLS} system calls a request: {calls:.4f}", calls <= MAX_CALLS))
    return found


def are_met(results):
    return all(is_met for _, is_met in targets(results))


def flat(results):
    """{name: number}, for a trend."""
    words = {"instructions": lambda r: r["instructions"], "exits": lambda r: total(r, "exits"),
             "system_calls": lambda r: total(r, "system_calls")}
    return {" ".join((kind, load.replace(",", ""), name, key)).replace(" ", "_"): round(get(one), 4)
            for kind, rows in results.items() for load, machines in rows.items() for name, one in machines.items()
            for key, get in words.items()}


def as_text(results):
    lines = []
    for kind, rows in results.items():
        for load, machines in rows.items():
            lines += ["", f"{kind}, {load}: per request"]
            lines.append(f"  {'':30}{'instructions':>14}{'waited (ns)':>14}" + "".join(f"{label:>16}" for _, label in TOTALS))
            for name, one in machines.items():
                lines.append(f"  {name:30}{one['instructions']:>14,.0f}{one['waited']:>14,.0f}"
                             + "".join(f"{total(one, key):>16.4f}" for key, _ in TOTALS))
                lines += [f"    {label}: {_top(one[key])}" for key, label in TOTALS if key != "user_exits"]
    judged = targets(results)
    if judged:
        lines += ["", *(f"{'PASS' if is_met else 'FAIL'}  {text}" for text, is_met in judged)]
    return "\n".join(lines[1:])
