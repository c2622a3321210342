"""What all tests share: the fixtures' modules, and reports of what could not run."""

from __future__ import annotations

import os
import signal
from collections.abc import Generator

import pytest

pytest_plugins = [
    "tests.fixtures.dashboard",
    "tests.fixtures.diskfaults",
    "tests.fixtures.filesystems",
    "tests.fixtures.host_resources",
    "tests.fixtures.netns",
    "tests.fixtures.real_host",
    "tests.fixtures.redis",
    "tests.fixtures.simulator",
    "tests.fixtures.vmm",
    "tests.fixtures.worker",
]

MAY_NOT_BE_SKIPPED = ("root", "redis")


def pytest_configure() -> None:
    """A shell lets what it starts in the background ignore SIGINT, and so would every child."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """On CI, a skipped `root` or `redis` test is a failed one."""
    report = yield
    must_run = any(item.get_closest_marker(name) for name in MAY_NOT_BE_SKIPPED)
    optional = any(item.get_closest_marker(name) for name in ("kvm", "firecracker", "dm"))
    if report.skipped and must_run and not optional and os.environ.get("CI"):
        report.outcome = "failed"
        report.longrepr = f"skipped on CI: {report.longrepr}"
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Prints which Firecracker the tests used."""
    real = os.environ.get("HOSTD_FIRECRACKER") and os.environ.get("HOSTD_JAILER")
    used = "the real one too" if real else "SIMULATED: hostd's stand-ins only"
    terminalreporter.write_line(f"Firecracker and jailer: {used}")
