"""A MULTI that is carried out once, whatever somebody has planted in Redis."""

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
    """The replies of the MULTI.

    A command inside a MULTI that fails (WRONGTYPE, say) stops no other, so repeating the whole
    would tell everything twice.  A key that hostd cannot write to is somebody's plant: it is
    deleted and what belongs there is written again.

    Raises:
        RedisError: Redis is away, or has refused the whole.
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
        log.error("deleted, because they are not what hostd keeps there: %s", ascii(failed))
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
