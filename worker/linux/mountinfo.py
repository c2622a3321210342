"""How the kernel writes paths in /proc/<pid>/mountinfo."""

from __future__ import annotations

import re


def unescaped(field: str) -> str:
    """The path that a field of mountinfo names."""
    if "\\" not in field:
        return field
    # The kernel writes blank, tab, newline and backslash as three octal digits (proc(5)).
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)
