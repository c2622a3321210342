"""The manifest of a sleep image: its guest's spec, and whether this host can load it.  Pure.

Firecracker restores a guest only where its snapshot format is readable and the processor is the
one that the guest has seen; it promises nothing across kernels of the host
(docs/snapshotting/versioning.md and snapshot-support.md of Firecracker).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from worker.ports import Platform, VmSpec


def spec_to_builtins(spec: VmSpec) -> dict[str, Any]:
    """`spec` as plain JSON values."""
    plain: dict[str, Any] = msgspec.to_builtins(spec, enc_hook=str)
    return plain


def spec_from_builtins(value: Mapping[str, Any]) -> VmSpec:
    """The spec in `value`.

    Raises:
        msgspec.ValidationError: it is not a valid spec.
    """
    return msgspec.convert(value, VmSpec, dec_hook=_path)


def _path(kind: type, value: Any) -> Path:
    if kind is not Path:
        raise NotImplementedError(f"no such type in a spec: {kind}")
    return Path(value)


def incompatibilities(
    manifest: Mapping[str, Any], platform: Platform, *, across_kernels: bool = False
) -> tuple[str, ...]:
    """Why the image with this manifest cannot be loaded here, one phrase each; empty if it can.

    A field that the manifest lacks is not compared.  `across_kernels` allows another host kernel.
    """
    return tuple(_differences(manifest, platform, across_kernels))


def _differences(
    manifest: Mapping[str, Any], platform: Platform, across_kernels: bool
) -> Iterator[str]:
    for field in ("architecture", "cpu_vendor", "cpu_family", "cpu_model"):
        made, here = str(manifest.get(field, "")), getattr(platform, field)
        if made and made != here:
            yield f"{field.replace('_', ' ')} was {made}, is {here}"
    made = str(manifest.get("snapshot_format", ""))
    if made and not _readable(made, platform.snapshot_format):
        yield (
            f"snapshot format is {made}, Firecracker {platform.firecracker_version} "
            f"reads {platform.snapshot_format}"
        )
    made = str(manifest.get("kernel", ""))
    if made and not across_kernels and _numbers(made) != _numbers(platform.kernel):
        yield f"host kernel was {made}, is {platform.kernel}"


def _readable(made: str, here: str) -> bool:
    """Whether the major version is the same and the minor not newer."""
    (major, minor), (our_major, our_minor) = _numbers(made), _numbers(here)
    return major == our_major and minor <= our_minor


def _numbers(version: str) -> tuple[int, int]:
    """Major and minor; (-1, -1) if `version` has none."""
    found = re.match(r"v?(\d+)\.(\d+)", version)
    return (int(found[1]), int(found[2])) if found else (-1, -1)
