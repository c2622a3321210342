"""Opens the host resources of a VM's devices, at PUT and again at load."""

from __future__ import annotations

import fcntl
import os
import struct
from typing import Any

from worker.simulator.errors import ApiFault, FatalFault, api_errors

TUNSETIFF = 0x400454CA
IFF_TAP, IFF_NO_PI, IFF_VNET_HDR = 0x0002, 0x1000, 0x4000
BUILD = (
    "Load snapshot error: Failed to restore from snapshot: Failed to build microVM from "
    "snapshot: Failed to restore devices: Error restoring MMIO devices: "
)
BACKING = "Virtio backend error: Error manipulating the backing file"
COMMAND_LINE_MAX = 2048


def open_kernel(body: dict[str, Any]) -> None:
    """Checks that the kernel and initrd can be opened.

    Raises:
        ApiFault: they cannot, or the command line is too long.
    """
    for key, what in (
        ("kernel_image_path", "The kernel file cannot be opened: "),
        (
            "initrd_path",
            "The initrd file cannot be opened due to invalid path or invalid permissions. ",
        ),
    ):
        if key in body:
            with api_errors(f"Boot source error: {what}", join=""):
                os.close(os.open(body[key], os.O_RDONLY | os.O_CLOEXEC))
    if len(body.get("boot_args", "").encode()) > COMMAND_LINE_MAX:
        raise ApiFault(
            "Boot source error: The kernel command line is invalid: Invalid cmdline "
            "capacity provided."
        )


def open_drive(drive: dict[str, Any], *, what: str, after: str = "", fatal: bool = False) -> int:
    """A descriptor of the drive's file.

    Raises:
        ApiFault: it cannot be opened; the message is `what`, the reason, `after`.
    """
    path, mode = drive["path_on_host"], os.O_RDONLY if drive["is_read_only"] else os.O_RDWR
    with api_errors(f"{what}{BACKING}", after=f" {path}{after}", fatal=fatal):
        return os.open(path, mode | os.O_CLOEXEC)


def open_tap(name: str, *, fatal: bool = False) -> int:
    """A descriptor attached to the TAP; the kernel checks that it belongs to our uid.

    Raises:
        ApiFault: the name is invalid, or the TAP is another uid's, or in use.
    """
    where = (
        f"{BUILD}Net: " if fatal else "Network config error: Could not create the network device: "
    )
    if not 0 < len(name.encode()) < 16:
        raise (FatalFault if fatal else ApiFault)(
            f"{where}Open tap device failed: Invalid interface name"
        )
    with api_errors(f"{where}Open tap device failed: Couldn't open /dev/net/tun", fatal=fatal):
        tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    request = struct.pack("16sH22x", name.encode(), IFF_TAP | IFF_NO_PI | IFF_VNET_HDR)
    hint = (
        f". Invalid TUN/TAP Backend provided by {name}. Check our documentation on setting up "
        "the network devices."
    )
    try:
        with api_errors(
            f"{where}Open tap device failed: Error while creating ifreq structure",
            after=hint,
            fatal=fatal,
        ):
            fcntl.ioctl(tun, TUNSETIFF, request)
    except ApiFault:
        os.close(tun)
        raise
    return tun


def open_console(path: str | None, boot_args: str) -> int:
    """A descriptor for the guest's serial console; -1 without one.

    Raises:
        ApiFault: the file cannot be opened.
    """
    if "console=ttyS0" not in boot_args or "8250.nr_uarts=0" in boot_args:
        return -1
    if path is None:
        return 1
    with api_errors("Start microvm error: Failed to open the serial output"):
        return os.open(
            path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NONBLOCK | os.O_CLOEXEC, 0o644
        )


def open_log(path: str) -> int:
    """A descriptor for `Faults.serial`; -1 without one."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
    return os.open(path, flags, 0o644) if path else -1
