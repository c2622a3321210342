"""Explains to the caller what is wrong with a request."""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec

from enqueue.requests import INSTANCE_PATTERN, LABEL_PATTERN, REQUEST_ID_PATTERN

_WORDS: Final = {
    LABEL_PATTERN: "1 to 63 of a-z, 0-9 and '-', with no '-' at either end",
    INSTANCE_PATTERN: "'i-' and 8 of 0-9, a-f, as in i-1a2b3c4d",
    REQUEST_ID_PATTERN: "1 to 64 of A-Z, a-z, 0-9 and '-'",
}
_LONGEST_SHOWN: Final = 80


def explain(error: Exception, body: msgspec.Struct) -> str:
    """`field: 'value' is wrong; it must be ...`, for an error in encoding or decoding `body`."""
    text = str(error)
    found = re.fullmatch(r"(?P<rule>.*) - at `\$(?P<path>[^`]*)`", text, re.DOTALL)
    if found is None:
        return text
    path = found["path"].lstrip(".")
    name = path.removeprefix("request.")
    return f"{name}: {_shortened(_lookup(body, path))} is wrong; {_rule(found['rule'])}"


def _lookup(value: Any, path: str) -> object:
    for name in filter(None, path.split(".")):
        value = getattr(value, name, value)
    return value


def _shortened(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}..."


def _rule(rule: str) -> str:
    for pattern, words in _WORDS.items():
        if repr(pattern) in rule or pattern in rule:
            return f"it must be {words}"
    return rule[:1].lower() + rule[1:]
