"""What several commands of hostd are given: the configuration, and common options."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import click

from enqueue.times import parse_time
from worker.config import load

as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON document a line.")
since = click.option(
    "--since", "since_ms", metavar="T", type=parse_time,
    help="Only from then on: a time (2026-11-24T02:30:00Z) or an age (90m, 12h, 7d).",
)  # fmt: skip


def configured(command: Callable[..., Any]) -> Callable[..., Any]:
    """The command gets the `Config` first; `ConfigError` ends it before it begins."""

    @click.pass_obj
    @wraps(command)
    def run(path: Path | None, /, **values: Any) -> Any:
        return command(load(path), **values)

    return run
