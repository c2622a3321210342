"""Writes the two executable files that hostd runs as `firecracker` and `jailer`."""

from __future__ import annotations

import json
import os
import shlex
import sys
from pathlib import Path
from typing import Any

from worker.simulator.faults import FILE_NAME, read_faults
from worker.simulator.jailer import MARK

SOURCES = Path(__file__).parents[2]
START = (
    "import sys; sys.path.append({sources!r}); "
    "from worker.simulator.entry import {program}; {program}(sys.argv[1:])"
)


def write_launchers(directory: Path, faults: dict[str, Any]) -> tuple[Path, Path]:
    """Writes `firecracker`, `jailer` and `simulate.json`; the paths of the first two.

    Raises:
        ValueError: `faults` has an unknown key.
    """
    directory.mkdir(parents=True, exist_ok=True)
    (directory / FILE_NAME).write_text(json.dumps(faults))
    read_faults(str(directory / FILE_NAME))
    return _launcher(directory / "firecracker"), _launcher(directory / "jailer")


def _launcher(path: Path) -> Path:
    start = START.format(sources=str(SOURCES), program=path.name)
    # env -i, since a process cannot clear /proc/<pid>/environ once it runs.
    command = shlex.join(["/usr/bin/env", "-i", sys.executable, "-I", "-S", "-c", start])
    text = f'#!/bin/sh\n# {MARK.decode()}\nexec {command} "$0" "$@"\n'
    partial = path.with_suffix(".partial")
    partial.write_text(text)
    partial.chmod(0o755)
    os.replace(partial, path)
    return path
