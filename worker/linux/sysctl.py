"""Kernel switches under /proc/sys/net, of the calling thread's network namespace."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from worker.linux import procfs as small_files

_NET: Final = Path("/proc/sys/net")
_IP_FORWARD: Final = _NET / "ipv4/ip_forward"


def forwards_ipv4() -> bool:
    """Whether the namespace forwards IPv4."""
    return small_files.text(_IP_FORWARD) == "1"


def forward_ipv4() -> None:
    """Makes the namespace forward IPv4."""
    # Writing it sets every device's own switch again, so only a change is written.
    if not forwards_ipv4():
        small_files.write(_IP_FORWARD, b"1")


def set_device(family: str, device: str, key: str, value: str) -> None:
    """Sets the device's switch, if the kernel has it."""
    path = _NET / family / "conf" / device / key
    if path.exists():  # no IPv6 in the kernel: no file
        small_files.write(path, value.encode())
