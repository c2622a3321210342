"""The tables of docs/recovery.md, from observed outcomes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final, get_args

from enqueue.documents import Status
from tests.crash.model.recovery_cases import IMAGES, INTERRUPTED, Case
from worker.ports import VmmState

ROWS: Final = (
    (VmmState.GONE, False, "gone"),
    (VmmState.GONE, True, "gone, another boot"),
    (VmmState.IDLE, False, "no guest yet"),
    (VmmState.RUNNING, False, "running"),
    (VmmState.PAUSED, False, "paused"),
)


def rendered(outcomes: Mapping[Case, str]) -> str:
    """One table for each interrupted request and status."""
    return "\n".join(_tables(outcomes)) + "\n"


def _tables(outcomes: Mapping[Case, str]) -> Iterator[str]:
    for interrupted in INTERRUPTED:
        yield _title(interrupted)
        for status in get_args(Status):
            yield f"\n| {status} | " + " | ".join(f"image {image}" for image in IMAGES) + " |"
            yield "|---" * (len(IMAGES) + 1) + "|"
            for vmm, rebooted, said in ROWS:
                cells = [
                    outcomes[Case(status, vmm, image, rebooted, interrupted)] for image in IMAGES
                ]
                yield f"| VMM {said} | " + " | ".join(cells) + " |"
        yield ""


def _title(interrupted: str) -> str:
    if interrupted == "none":
        return "## No request was running"
    return f"## {interrupted} was in an attempt"
