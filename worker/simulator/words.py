"""Errors in the words that the real programs use for them."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

# Where the C library of the real binaries, musl, words an error unlike glibc.
MUSL = {errno.EADDRINUSE: "Address in use", errno.EBUSY: "Resource busy"}


class JailerFault(Exception):
    """The jailer gives up; the text is its own."""


class ApiFault(Exception):
    """The request is refused with 400; the text is the fault message."""


class FatalFault(ApiFault):
    """The request is refused with 400, and then the VMM exits with code 1."""


def os_words(error: OSError) -> str:
    """`No such file or directory (os error 2)`."""
    number = error.errno or 0
    text = MUSL.get(number) or os.strerror(number)
    return f"{text} (os error {number})"


@contextmanager
def told(what: str) -> Iterator[None]:
    """OSErrors come out as JailerFault `what: why`."""
    try:
        yield
    except OSError as error:
        raise JailerFault(f"{what}: {os_words(error)}") from error


@contextmanager
def refused(what: str, *, join: str = ": ", after: str = "", fatal: bool = False) -> Iterator[None]:
    """OSErrors come out as ApiFault, or FatalFault: `what`, `join`, why, `after`."""
    try:
        yield
    except OSError as error:
        kind = FatalFault if fatal else ApiFault
        raise kind(f"{what}{join}{os_words(error)}{after}") from error
