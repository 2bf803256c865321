#!/usr/bin/env python3
"""Sums test results: sum.py TESTLOG.json... prints each failed test and one line `N passed, N failed, N skipped`.

A test program that counts its own cases (cmocka's summary, or a line "N passed, N failed") counts as so many; any other
counts as one. A program that fails without a failed case counts as one failure.
"""
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


def main():
    total = [0, 0, 0]
    for path in sys.argv[1:]:
        with open(path, encoding="utf-8") as log:
            for line in log:
                test = json.loads(line)
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
