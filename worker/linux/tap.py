"""A TAP device as /dev/net/tun makes it: it exists while the descriptor is open, or for good once
it is persistent.  Constants are those of linux/if_tun.h.
"""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

_TUNSETIFF: Final = 0x400454CA
_TUNSETPERSIST: Final = 0x400454CB
_TUNSETOWNER: Final = 0x400454CC
_IFF_TAP: Final = 0x0002
_IFF_NO_PI: Final = 0x1000
_IFF_VNET_HDR: Final = 0x4000
_IFF_TUN_EXCL: Final = 0x8000  # EBUSY instead of attaching to a device that is there


@contextmanager
def new_tap(name: str, *, owner_uid: int) -> Iterator[None]:
    """A new TAP of that owner; persistent when the block ends, gone if it fails or is killed.

    What the block does to the device is so part of its making.  The device is made in the
    network namespace of the calling thread.

    Raises:
        OSError: EBUSY, a device of that name exists.
    """
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
    try:
        flags = _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR | _IFF_TUN_EXCL
        fcntl.ioctl(descriptor, _TUNSETIFF, struct.pack("16sH22x", name.encode(), flags))
        fcntl.ioctl(descriptor, _TUNSETOWNER, owner_uid)
        yield
        fcntl.ioctl(descriptor, _TUNSETPERSIST, 1)
    finally:
        os.close(descriptor)
