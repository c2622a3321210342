"""Whether a guest's clock can be advanced when its image is loaded.

Firecracker refuses a load with `clock_realtime` if the snapshot lacks KVM's realtime stamp, and
then ends (src/vmm/src/arch/x86_64/vm.rs).  KVM stamps since Linux 5.16, and only while the host's
own clock is the TSC (Documentation/virt/kvm/api.rst, KVM_GET_CLOCK).
"""

from __future__ import annotations

import fcntl
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from worker.errors import Broken
from worker.host.firecracker import versions
from worker.model.names import InstanceRef

_CLOCKSOURCE: Final = Path("/sys/devices/system/clocksource/clocksource0/current_clocksource")
_KVM: Final = Path("/dev/kvm")
# linux/kvm.h
_KVM_CHECK_EXTENSION: Final = 0xAE03
_KVM_CAP_ADJUST_CLOCK: Final = 39
_KVM_CLOCK_REALTIME: Final = 4


class GuestClocks:
    """Decides which guests are loaded with `clock_realtime`."""

    def __init__(self) -> None:
        self._refused: set[InstanceRef] = set()

    @contextmanager
    def advance(self, ref: InstanceRef, version: str) -> Iterator[bool]:
        """A context manager around the load of one guest: whether to load it with `clock_realtime`.

        `version` is the VMM's.  After a refusal the next load leaves the clock as it was: the image
        may come from an older kernel, and a clock must not make an image unusable.
        """
        forward = ref not in self._refused and can_be_set(version)
        try:
            yield forward
        except Broken:
            if forward:
                self._refused.add(ref)
            raise
        self._refused.discard(ref)


def can_be_set(version: str) -> bool:
    """Whether this host and this version of Firecracker support `clock_realtime`."""
    return versions.has_clock_realtime(version, platform.machine()) and _kvm_stamps()


def _kvm_stamps() -> bool:
    try:
        if _CLOCKSOURCE.read_text().strip() != "tsc":
            return False
        kvm = os.open(_KVM, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        flags: int = fcntl.ioctl(kvm, _KVM_CHECK_EXTENSION, _KVM_CAP_ADJUST_CLOCK)
    except OSError:
        return False
    finally:
        os.close(kvm)
    return bool(flags & _KVM_CLOCK_REALTIME)
