"""RQ's serializer: msgspec JSON.  Inert: it loads only dicts, lists, strings and numbers."""

from __future__ import annotations

from typing import Any

import msgspec


class MsgspecSerializer:
    """The pair of functions that RQ asks for; the bytes survive requeueing by stock tools."""

    @staticmethod
    def dumps(value: object) -> bytes:
        """`value` as JSON."""
        return msgspec.json.encode(value)

    @staticmethod
    def loads(raw: bytes) -> Any:
        """The JSON in `raw`.

        Raises:
            msgspec.DecodeError: it is not JSON.
        """
        return msgspec.json.decode(raw)
