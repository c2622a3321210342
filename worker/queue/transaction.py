"""A MULTI that is executed once, even if keys have wrong types."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Final

from redis.client import Pipeline
from redis.exceptions import (
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
)

log = logging.getLogger("hostd")

NOT_THE_KEYS: Final = (NoPermissionError, OutOfMemoryError, ReadOnlyError)


def execute_repairing(pipe: Pipeline) -> list[Any]:
    """Executes the MULTI and returns its replies; commands that failed are repeated once.

    A command that fails inside a MULTI (WRONGTYPE, say) stops no other, so repeating all of them
    would publish everything twice.  hostd did not write a key that it cannot write to: the key is
    deleted, and its commands are repeated.

    Raises:
        RedisError: Redis is unreachable, or refuses the MULTI.
    """
    commands: list[Any] = [command for command, _ in pipe.command_stack]
    replies = pipe.execute(raise_on_error=False)
    failed = [
        command[1]
        for command, reply in zip(commands, replies, strict=True)
        if isinstance(reply, ResponseError)
    ]
    for reply in replies:
        if isinstance(reply, NOT_THE_KEYS):
            raise reply
    if failed:
        log.error("deleted keys of a wrong type, which hostd did not write: %s", ascii(failed))
        pipe.delete(*failed)
        again: Callable[..., object] = pipe.execute_command  # redis-py leaves it untyped
        for command in commands:
            if command[1] in failed:
                again(*command)
        pipe.execute(raise_on_error=False)
    return replies


def is_wrong_type(error: ResponseError) -> bool:
    """Whether a key holds another type than the command wants (the prefix is Redis' protocol)."""
    return str(error).startswith("WRONGTYPE")
