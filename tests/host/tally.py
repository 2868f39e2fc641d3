#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Adds up test results and prints one line: `N passed, N failed, N skipped`. Exit status 1 if one failed or none ran.

    tally.py FOLDER

FOLDER holds JUnit XML files, and `steps`: lines `STATUS NAME` with passed, failed or skipped, for what is not JUnit.
"""
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path


def of_case(case):
    if case.find("failure") is not None or case.find("error") is not None:
        return "failed"
    return "skipped" if case.find("skipped") is not None else "passed"


def main(folder):
    count = {"passed": 0, "failed": 0, "skipped": 0}
    failed = []
    for path in sorted(folder.glob("*.xml")):
        try:
            cases = list(ElementTree.parse(path).iter("testcase"))
        except ElementTree.ParseError:  # its writer was killed in the middle
            count["failed"] += 1
            failed.append(f"{path.name}: not a whole report")
            continue
        for case in cases:
            result = of_case(case)
            count[result] += 1
            if result == "failed":
                failed.append(f"{path.stem}: {case.get('classname', '')} {case.get('name')}")
    if (folder / "steps").exists():
        for line in (folder / "steps").read_text().splitlines():
            result, name = line.split(" ", 1)
            count[result] += 1
            if result == "failed":
                failed.append(name)
    for name in failed:
        print(f"FAILED: {name}")
    print(f"{count['passed']} passed, {count['failed']} failed, {count['skipped']} skipped")
    return 1 if count["failed"] or not count["passed"] else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
