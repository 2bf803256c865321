#!/usr/bin/env python3
"""Sums test results: sum.py [--failed NAME]... TESTLOG.json... prints each failed test and, as its last line,
`N passed, N failed, N skipped`. Each NAME is one more failure: something that could not even be built.

A test program that counts its own cases (cmocka's summary, or a line "N passed, N failed") counts as so many; any other
counts as one. A program that fails without a failed case counts as one failure.
"""
import argparse
import json
import re
import sys

PLAIN = re.compile(r"^(?:\w+: )?(\d+) passed, (\d+) failed(?:, (\d+) skipped)?$", re.M)
CMOCKA = {
    "passed": re.compile(r"\[  PASSED  \] (\d+) test"),
    "failed": re.compile(r"\[  FAILED  \] (\d+) test"),
    "skipped": re.compile(r"\[  SKIPPED \] (\d+) test"),
}


def cases(test):
    """(passed, failed, skipped) as the program says itself, or None."""
    text = test.get("stdout", "") + test.get("stderr", "")
    plain = PLAIN.findall(text)
    if plain:
        return [sum(int(n or 0) for n in column) for column in zip(*plain)]
    if any(pattern.search(text) for pattern in CMOCKA.values()):
        return [sum(map(int, CMOCKA[kind].findall(text))) for kind in ("passed", "failed", "skipped")]
    return None


def tests(path):
    """The tests in a log; None if it cannot be read: the run that writes it never began."""
    try:
        with open(path, encoding="utf-8") as log:
            return [json.loads(line) for line in log]
    except (OSError, ValueError) as error:
        print(f"FAILED: {path}: {error}")
        return None


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--failed", action="append", default=[], metavar="NAME")
    parser.add_argument("logs", nargs="*")
    options = parser.parse_args()
    total = [0, len(options.failed), 0]
    for name in options.failed:
        print(f"FAILED: {name}")
    for path in options.logs:
        found = tests(path)
        if found is None:
            total[1] += 1
            continue
        for test in found:
            result = test["result"]
            good, skipped = result in ("OK", "EXPECTEDFAIL"), result == "SKIP"
            counts = cases(test) or [int(good), int(not good and not skipped), int(skipped)]
            if not good and not skipped and not counts[1]:
                counts[1] = 1
            if counts[1]:
                print(f"FAILED: {test['name']} ({path}: {result})")
            total = [a + b for a, b in zip(total, counts)]
    print(f"{total[0]} passed, {total[1]} failed, {total[2]} skipped")
    return 1 if total[1] or not total[0] else 0


sys.exit(main())
