"""Whether a guest that was put to sleep there can be woken here.  Pure.

Firecracker restores a guest only where its snapshot format is readable and the processor is the
one that the guest has seen; it promises nothing across kernels of the host
(docs/snapshotting/versioning.md and snapshot-support.md of Firecracker).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from worker.ports import Platform


def incompatibilities(
    manifest: Mapping[str, Any], platform: Platform, *, across_kernels: bool = False
) -> tuple[str, ...]:
    """Why the image with this manifest cannot be loaded here, a phrase each; empty if it can.

    What the manifest does not say is not compared.  `across_kernels` lets the host's kernel be
    another.
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
    """Same major, and a minor that is not newer."""
    (major, minor), (our_major, our_minor) = _numbers(made), _numbers(here)
    return major == our_major and minor <= our_minor


def _numbers(version: str) -> tuple[int, int]:
    """Major and minor; (-1, -1) of what has none."""
    found = re.match(r"v?(\d+)\.(\d+)", version)
    return (int(found[1]), int(found[2])) if found else (-1, -1)
