"""hostd is killed before and after effects of every kind, and its restart repairs everything."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final

import pytest

from tests.crash.process.operations import OPERATIONS
from tests.crash.process.run import Tally, enumerated

pytestmark = [pytest.mark.root, pytest.mark.redis, pytest.mark.slow]

# A prime, so that no regular pattern of a plan is missed; `make crash` tries every point.
EVERY: Final = 97
FEWEST: Final = 1500


@pytest.mark.timeout(600)
def test_a_restart_repairs_everything_after_a_kill_at_any_effect(
    capsys: pytest.CaptureFixture[str], redis_process: object
) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root: hostd run")
    tally = Tally(EVERY)
    lines: list[str] = []
    record: Callable[[str], None] = lines.append
    for operation in OPERATIONS:
        # Continues where the previous operation ended, so that the points are evenly spaced.
        enumerated(operation, tally, record, offset=-tally.points % EVERY)
    with capsys.disabled():
        print(f"\n{tally}")
    assert tally.violations == [], "\n".join(lines)
    assert tally.points >= FEWEST
