"""Each of fifteen mistakes that controllers of Firecracker make has a test that it is not made."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).parents[1]
NAMED = re.compile(r"^def test_mistake_(\d\d)_\w+\(", re.MULTILINE)


def test_every_mistake_has_a_test_of_its_number() -> None:
    found = {
        int(number)
        for file in TESTS.rglob("test_*.py")
        for number in NAMED.findall(file.read_text())
    }
    assert found == set(range(1, 16))
