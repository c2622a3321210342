"""`hostd demo` does what it says, cleans up when stopped, and after itself when killed."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator

import pytest

from tests.fixtures.worker import eventually
from worker.demo import sandbox
from worker.demo.cleanup import control_groups
from worker.demo.proof import leftovers

pytestmark = [pytest.mark.root, pytest.mark.redis, pytest.mark.slow]
BOUND_S = 90


def demo(*options: str) -> subprocess.Popen[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("HOSTD_")}
    return subprocess.Popen(
        [sys.executable, "-m", "worker", "demo", *options],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env=environment | {"COLUMNS": "200"},
    )  # fmt: skip


@pytest.fixture(autouse=True)
def nothing_before_or_after() -> Iterator[None]:
    sandbox.sweep()
    yield
    sandbox.sweep()
    assert leftovers() == []


def test_the_demo_plays_to_its_end_and_says_what_was_simulated() -> None:
    playing = demo()
    said, _ = playing.communicate(timeout=BOUND_S)
    assert playing.returncode == 0, said
    assert "killed (SIGKILL) while i-00000002's image was written" in said
    assert re.search(r"SleepInstance acme/workers/i-00000002 .*sleeping in .* attempt 2", said)
    last = said.strip().splitlines()[-1]
    assert last.startswith("done: 17 requests")
    assert "simulated: Firecracker, its jailer and the guests" in last
    assert leftovers() == []


def test_ctrl_c_removes_everything() -> None:
    playing = demo()
    eventually(lambda: (sandbox.BASE / "worker.log").exists(), "the demo is under way")
    playing.send_signal(signal.SIGINT)
    said, _ = playing.communicate(timeout=BOUND_S)
    assert playing.returncode == 130, said
    assert "stopped; everything of the demo is removed" in said
    assert leftovers() == []


def test_the_next_demo_removes_what_a_killed_one_left() -> None:
    killed = demo()
    eventually(lambda: any(_guests()), "guests run", bound_s=60)
    killed.kill()
    killed.communicate(timeout=BOUND_S)
    assert leftovers() != []
    playing = demo()
    said, _ = playing.communicate(timeout=BOUND_S)
    assert playing.returncode == 0, said
    assert "removed what a killed demo had left" in said
    assert leftovers() == []


def test_keep_leaves_dashboard_and_metrics_up_outside_the_namespace() -> None:
    playing = demo("--keep")
    assert playing.stdout is not None
    lines = []
    for line in playing.stdout:
        lines.append(line)
        if "Ctrl-C removes everything" in line:
            break
    said = "".join(lines)
    urls = re.findall(r"http://127\.0\.0\.1:\d+/\S*", said)
    assert len(urls) == 2, said

    def answers(url: str, word: str) -> bool:
        try:
            with urllib.request.urlopen(url, timeout=5) as reply:  # noqa: S310  our own loopback URL
                return word in reply.read().decode()
        except OSError:
            return False

    eventually(lambda: answers(urls[0], "RQ"), "the dashboard answers")
    assert answers(urls[1], "hostd_requests_total")
    playing.send_signal(signal.SIGINT)
    playing.communicate(timeout=BOUND_S)
    assert leftovers() == []


def _guests() -> list[str]:
    return [str(path) for path in control_groups(sandbox.CGROUP) if path.name.startswith("i-")]
