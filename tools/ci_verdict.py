"""Read pytest's JUnit file: fail on any skipped test but those that need hardware we lack.

A skip is expected only if its reason starts with one of ``ALLOWED``. Ends in the line of counts
that pytest ends in.
"""

from __future__ import annotations

import sys
import xml.etree.ElementTree as ElementTree

ALLOWED = ("needs a CUDA device", "needs triton")


def main(path: str) -> int:
    cases = list(ElementTree.parse(path).iter("testcase"))
    skips = [(case, skip) for case in cases for skip in case.iter("skipped")]
    unexpected = [
        f"{case.get('classname')}::{case.get('name')}: {skip.get('message')}"
        for case, skip in skips
        if not (skip.get("message") or "").startswith(ALLOWED)
    ]
    failed = sum(
        case.find("failure") is not None or case.find("error") is not None for case in cases
    )
    for line in unexpected:
        print(f"ci: skipped without a reason that is allowed: {line}")
    passed = len(cases) - failed - len(skips)
    seconds = sum(float(case.get("time") or 0) for case in cases)
    print(f"==== {failed} failed, {passed} passed, {len(skips)} skipped in {seconds:.2f}s ====")
    return int(bool(failed or unexpected or not passed))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
