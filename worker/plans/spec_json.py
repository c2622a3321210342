"""A guest's spec as JSON, for the jail's record and the image's manifest."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from worker.ports import VmSpec


def spec_to_builtins(spec: VmSpec) -> dict[str, Any]:
    """`spec` as plain JSON values."""
    plain: dict[str, Any] = msgspec.to_builtins(spec, enc_hook=str)
    return plain


def spec_from_builtins(value: Mapping[str, Any]) -> VmSpec:
    """The spec in `value`.

    Raises:
        msgspec.ValidationError: it is none.
    """
    return msgspec.convert(value, VmSpec, dec_hook=_path)


def _path(kind: type, value: Any) -> Path:
    if kind is not Path:
        raise NotImplementedError(f"no such type in a spec: {kind}")
    return Path(value)
