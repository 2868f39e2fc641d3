#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Adds a line to a trend file: `trend.py RESULT.json TREND.tsv`, in the working tree that was measured.

The first line names the columns, the others are measurements: date, commit, and the numbers. A number that is new gets a
column, empty in older lines. Prints what has changed since the line before.
"""
import datetime
import json
import subprocess
import sys
from pathlib import Path

FIRST = ["date", "commit"]


def read(path):
    lines = [line.split("\t") for line in path.read_text().splitlines() if line] if path.exists() else [FIRST]
    return lines[0], [dict(zip(lines[0], line)) for line in lines[1:]]


def add(result, path, date, commit):
    columns, lines = read(path)
    columns += [key for key in result if key not in columns]
    before = lines[-1] if lines else {}
    lines.append({"date": date, "commit": commit, **{key: f"{value:.10g}" for key, value in result.items()}})
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join("\t".join(line.get(key, "") for key in columns) + "\n"
                            for line in [dict(zip(columns, columns)), *lines]))
    for key, value in result.items():
        old = float(before.get(key) or 0)
        change = f"{100 * (value - old) / old:+.2f} %" if old else "new"
        print(f"{key.replace('_', ' '):28}{value:>14,.10g}  {change}")


def main():
    result, trend = Path(sys.argv[1]), Path(sys.argv[2])
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True).stdout.strip()
    add(json.loads(result.read_text()), trend, datetime.date.today().isoformat(), commit or "unknown")


if __name__ == "__main__":
    main()
