"""`make crash`: every operation, killed before and after every effect, all points."""

from __future__ import annotations

import argparse
import sys
import time

from tests.crash.process.operations import OPERATIONS
from tests.crash.process.run import Tally, enumerated


def main() -> int:
    """The exit code: 0 without violations."""
    parser = argparse.ArgumentParser(prog="python -m tests.crash.process", description=__doc__)
    parser.add_argument("--every", type=int, default=1, help="only every k-th point")
    parser.add_argument("--only", default="", help="only operations with this in their name")
    arguments = parser.parse_args()
    tally = Tally(arguments.every)
    for operation in OPERATIONS:
        if arguments.only.lower() not in operation.name.lower():
            continue
        began, before = time.monotonic(), tally.tried
        enumerated(operation, tally, _print, offset=0)
        _print(f"{operation.name}: {tally.tried - before} in {time.monotonic() - began:.0f} s")
    _print(str(tally))
    return bool(tally.violations)


def _print(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
