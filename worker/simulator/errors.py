"""Errors in the words that the real programs use for them."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

# The real binaries are linked with musl, which words these errors unlike glibc.
MUSL = {errno.EADDRINUSE: "Address in use", errno.EBUSY: "Resource busy"}


class JailerFault(Exception):
    """The jailer gives up; the text is the real jailer's."""


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
def jailer_errors(what: str) -> Iterator[None]:
    """Turns an OSError into JailerFault `what: why`."""
    try:
        yield
    except OSError as error:
        raise JailerFault(f"{what}: {os_words(error)}") from error


@contextmanager
def api_errors(
    what: str, *, join: str = ": ", after: str = "", fatal: bool = False
) -> Iterator[None]:
    """Turns an OSError into ApiFault, or FatalFault: `what`, `join`, why, `after`."""
    try:
        yield
    except OSError as error:
        kind = FatalFault if fatal else ApiFault
        raise kind(f"{what}{join}{os_words(error)}{after}") from error
