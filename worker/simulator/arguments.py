"""Reads command lines like Firecracker and its jailer: `--name value`, no `=`, no short forms."""

from __future__ import annotations

from collections.abc import Iterator, Mapping


class BadArguments(Exception):
    """The command line cannot be used; the text is in the real programs' words."""


def parsed(
    argv: list[str],
    *,
    flags: frozenset[str],
    single: Mapping[str, str | None],
    multiple: frozenset[str] = frozenset(),
) -> tuple[dict[str, list[str]], list[str]]:
    """Values by name, and the words after `--`.

    `single` maps the names that take one value to their default.

    Raises:
        BadArguments: unknown, repeated, or without its value.
    """
    own, extra = argv, []
    if "--" in argv:
        own, extra = argv[: argv.index("--")], argv[argv.index("--") + 1 :]
    found: dict[str, list[str]] = {}
    left = iter(own)
    for word in left:
        name = word[2:]
        if not word.startswith("--") or name not in flags | set(single) | multiple:
            shown = name if word.startswith("--") else word
            raise BadArguments(
                f"Found argument '{shown}' which wasn't expected, or isn't valid in this context."
            )
        if name in found and name not in multiple:
            raise BadArguments(f"The argument '{name}' was provided more than once.")
        values = found.setdefault(name, [])
        if name not in flags:
            values.append(_value(name, left))
    for name, default in single.items():
        if default is not None:
            found.setdefault(name, [default])
    return found, extra


def _value(name: str, left: Iterator[str]) -> str:
    value = next(left, None)
    if value is None or value.startswith("--"):
        raise BadArguments(f"The argument '{name}' requires a value, but none was supplied.")
    return value


def instance_id_fault(name: str) -> str | None:
    """What is wrong with a VM id, in Firecracker's words; None if nothing is."""
    if not 1 <= len(name) <= 64:
        return f"Invalid len ({len(name)});  the length must be between 1 and 64"
    for at, char in enumerate(name):
        if char != "-" and not char.isalnum():
            return f"Invalid char ({char}) at position {at}"
    return None
