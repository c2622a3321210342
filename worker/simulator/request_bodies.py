"""Reads request bodies, with the error messages of Firecracker's JSON reader, columns included."""

from __future__ import annotations

import json
from collections.abc import Callable
from json.decoder import scanstring  # type: ignore[attr-defined]  # typeshed lacks it
from typing import Any

from worker.simulator.errors import ApiFault

WHITE = " \t\r\n"
PREFIX = "An error occurred when deserializing the json body of a request: "
_decoder = json.JSONDecoder()


def _refuse(reason: str, text: str, at: int) -> ApiFault:
    line = text.count("\n", 0, at) + 1
    column = at - (text.rfind("\n", 0, at) + 1)
    return ApiFault(f"{PREFIX}{reason} at line {line} column {column}.")


def _named(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return f"boolean `{str(value).lower()}`"
        case int():
            return f"integer `{value}`"
        case float():
            return f"floating point `{value}`"
        case str():
            return f'string "{value}"'
        case list():
            return "sequence"
        case _:
            return "map"


def _listed(names: list[str]) -> str:
    quoted = [f"`{name}`" for name in names]
    if len(quoted) < 3:
        return " or ".join(quoted)
    return "one of " + ", ".join(quoted)


class Kind:
    """A form of a JSON value; `read` returns the value and the position after it."""

    expected = ""

    def matches(self, value: Any) -> bool:
        """Whether the value has this form."""
        return True

    def read(self, text: str, at: int) -> tuple[Any, int]:
        """The value that starts at `at`.

        Raises:
            ApiFault: it has another form.
        """
        value, end = _decoder.raw_decode(text, at)
        if not self.matches(value):
            raise _refuse(f"invalid type: {_named(value)}, expected {self.expected}", text, end)
        return value, end


class Scalar(Kind):
    """A string or a boolean; `check` returns what else is wrong with it, or None."""

    def __init__(
        self, expected: str, of: type, check: Callable[[Any], str | None] | None = None
    ) -> None:
        self.expected, self.of, self.check = expected, of, check

    def matches(self, value: Any) -> bool:
        return isinstance(value, self.of)

    def read(self, text: str, at: int) -> tuple[Any, int]:
        value, end = super().read(text, at)
        fault = self.check(value) if self.check else None
        if fault:
            raise _refuse(fault, text, end + 1)
        return value, end


class Unsigned(Kind):
    """An integer of `bits` bits; a boolean is not an integer."""

    def __init__(self, expected: str, bits: int) -> None:
        self.expected, self.bits = expected, bits

    def read(self, text: str, at: int) -> tuple[Any, int]:
        value, end = _decoder.raw_decode(text, at)
        if isinstance(value, bool) or not isinstance(value, int):
            raise _refuse(f"invalid type: {_named(value)}, expected {self.expected}", text, end)
        if not 0 <= value < 1 << self.bits:
            raise _refuse(f"invalid value: {_named(value)}, expected {self.expected}", text, end)
        return value, end


class OneOf(Kind):
    """One of some strings."""

    def __init__(self, *names: str) -> None:
        self.names = list(names)

    def read(self, text: str, at: int) -> tuple[Any, int]:
        value, end = _decoder.raw_decode(text, at)
        if value not in self.names:
            shown = value if isinstance(value, str) else _named(value)
            raise _refuse(f"unknown variant `{shown}`, expected {_listed(self.names)}", text, end)
        return value, end


class ListOf(Kind):
    """A list of values of one form."""

    def __init__(self, kind: Kind) -> None:
        self.kind = kind

    def read(self, text: str, at: int) -> tuple[Any, int]:
        whole, end = _decoder.raw_decode(text, at)
        if not isinstance(whole, list):
            raise _refuse(f"invalid type: {_named(whole)}, expected a sequence", text, end)
        return [self.kind.read(json.dumps(item), 0)[0] for item in whole], end


class Struct(Kind):
    """An object of known fields in order; `required` ones must be present, null means absent."""

    def __init__(self, name: str, required: str, **fields: Kind) -> None:
        self.expected = f"struct {name}"
        self.required, self.fields = required.split(), fields

    def read(self, text: str, at: int) -> tuple[Any, int]:
        whole, end = _decoder.raw_decode(text, at)
        if not isinstance(whole, dict):
            raise _refuse(f"invalid type: {_named(whole)}, expected {self.expected}", text, end)
        found: dict[str, Any] = {}
        at = _skip(text, at + 1)
        while text[at] != "}":
            key, after = scanstring(text, at + 1)
            if key not in self.fields:
                names = _listed(list(self.fields))
                raise _refuse(f"unknown field `{key}`, expected {names}", text, after)
            at = _skip(text, _skip(text, after) + 1)
            if text.startswith("null", at) and key not in self.required:
                at += 4
            else:
                found[key], at = self.fields[key].read(text, at)
            at = _skip(text, at)
            if text[at] == ",":
                at = _skip(text, at + 1)
        for key in self.required:
            if key not in found:
                raise _refuse(f"missing field `{key}`", text, end)
        return found, end


def _skip(text: str, at: int) -> int:
    while at < len(text) and text[at] in WHITE:
        at += 1
    return at


def read_body(kind: Kind, raw: bytes) -> Any:
    """The value in `raw`.

    Raises:
        ApiFault: it is not JSON, or has another form.
    """
    try:
        text = raw.decode()
        json.loads(text)
    except UnicodeDecodeError as error:
        raise ApiFault(f"{PREFIX}invalid unicode code point.") from error
    except json.JSONDecodeError as error:
        reason = f"{error.msg[:1].lower()}{error.msg[1:]}"
        raise ApiFault(f"{PREFIX}{reason} at line {error.lineno} column {error.colno}.") from error
    return kind.read(text, _skip(text, 0))[0]
