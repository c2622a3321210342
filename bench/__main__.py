"""`python -m bench`: measures, prints a table and the missed targets, writes build/bench.json."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Final

import click
import msgspec

from bench import backlog, installed, instances, latency, networks, recovery, rest, roundtrips
from bench.figures import Figure
from bench.report import show
from bench.sandbox import Sandbox, sandbox
from bench.scale import FULL, QUICK, Scale

OUTPUT: Final = Path("build/bench.json")
PARTS: Final[Mapping[str, Callable[[Sandbox, Scale], Iterable[Figure]]]] = {
    "latency": latency.measure,
    "backlog": backlog.measure,
    "roundtrips": roundtrips.measure,
    "networks": networks.measure,
    "instances": instances.measure,
    "recovery": recovery.measure,
    "rest": rest.measure,
}


def main() -> int:
    """The exit code: 1 if a target is missed."""
    options = _options()
    if os.geteuid() != 0:
        print("the benchmark needs root: it makes devices, namespaces and control groups")
        return 2
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    began = time.monotonic()
    figures: list[Figure] = []
    try:
        with sandbox(options.kernel, hostd=installed.hostd()) as box:
            for name in options.parts or PARTS:
                click.echo(click.style(f"measuring {name} ...", dim=True))
                figures += PARTS[name](box, QUICK if options.quick else FULL)
    except KeyboardInterrupt:
        print("stopped; everything of the benchmark is removed")
        return 130
    OUTPUT.parent.mkdir(exist_ok=True)
    OUTPUT.write_bytes(msgspec.json.format(msgspec.json.encode(figures)) + b"\n")
    return show(figures, took_s=time.monotonic() - began, output=OUTPUT)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer samples, under a minute")
    parser.add_argument("--kernel", type=Path, help="the guest's kernel, for a real Firecracker")
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(PARTS)}; all by default")
    options = parser.parse_args()
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    return options


if __name__ == "__main__":
    sys.exit(main())
