"""The errors of the privileged side.  What a caller may do is in the class, never in the text.

* HostdError
  + Rejected    the request is wrong; nothing was changed; do not repeat it
  + Conflict    the host's state forbids it; change the state first
  + Transient   the same request may succeed later; hostd retries it
  + Lost        memory is gone and cannot be restored
  + Broken      a bug or a broken host; an operator must look
"""

from __future__ import annotations

import sqlite3
from typing import ClassVar, Final

from enqueue.results import FailureClass


class HostdError(Exception):
    """Base of every error that hostd raises on purpose.

    `code` is the stable name within the class, `hint` what to do, `facts` what was observed.
    """

    failure_class: ClassVar[FailureClass] = "broken"

    def __init__(self, code: str, message: str, *, hint: str = "", **facts: object) -> None:
        super().__init__(message)
        self.code = f"{self.failure_class}/{code}"
        self.message = message
        self.hint = hint
        self.facts = facts

    def __str__(self) -> str:
        facts = " ".join(f"{name}={value}" for name, value in self.facts.items())
        return f"{self.message} ({facts})" if facts else self.message


class Rejected(HostdError):
    """The request is wrong; nothing was changed; do not repeat it."""

    failure_class = "rejected"


class Conflict(HostdError):
    """The host's state forbids it; change the state first."""

    failure_class = "conflict"


class Transient(HostdError):
    """The same request may succeed later; hostd retries it."""

    failure_class = "transient"


class Lost(HostdError):
    """Memory is gone and cannot be restored."""

    failure_class = "lost"


class Broken(HostdError):
    """A bug or a broken host; an operator must look."""

    failure_class = "broken"


class ConfigError(Exception):
    """The configuration cannot be used; the message lists every fault."""


class StartupError(Exception):
    """`hostd run` cannot start; the message says what is wrong and how to correct it."""


class Unreachable(StartupError):
    """Redis does not answer."""


# What the ledger raises when it cannot be read or written: hostd must not continue without it.
LedgerError: Final = sqlite3.Error
