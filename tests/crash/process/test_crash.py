"""hostd dies before and after effects of every kind, and its restart makes all of it good."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final

import pytest

from tests.crash.process.operations import OPERATIONS
from tests.crash.process.run import Tally, enumerated

pytestmark = [pytest.mark.root, pytest.mark.redis, pytest.mark.slow]

# A prime, so that no rhythm of a plan hides from it; `make crash` tries every point.
EVERY: Final = 97
FEWEST: Final = 1500


@pytest.mark.timeout(600)
def test_a_death_at_any_effect_leaves_nothing_that_a_restart_does_not_make_good(
    capsys: pytest.CaptureFixture[str], redis_process: object
) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root: hostd run")
    tally = Tally(EVERY)
    said: list[str] = []
    say: Callable[[str], None] = said.append
    for operation in OPERATIONS:
        # Goes on where the operation before left off, so that the points lie apart by as much.
        enumerated(operation, tally, say, offset=-tally.points % EVERY)
    with capsys.disabled():
        print(f"\n{tally}")
    assert tally.violations == [], "\n".join(said)
    assert tally.points >= FEWEST
