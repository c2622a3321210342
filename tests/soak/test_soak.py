"""A minute of the soak, with as many guests as a small machine can run."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.soak.play import Scale, run_soak

pytestmark = [pytest.mark.slow, pytest.mark.root, pytest.mark.redis, pytest.mark.timeout(600)]


def test_nothing_is_lost_done_twice_or_left_behind(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root: hostd run")
    if shutil.which("redis-server") is None:
        pytest.skip("no redis-server here")
    with capsys.disabled():
        print()
        findings = run_soak(Scale(), tmp_path)
    assert findings.faults() == []
    assert findings.answered == findings.acknowledged > 0
