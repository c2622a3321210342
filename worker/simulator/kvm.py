"""One virtual machine with one vCPU, through `/dev/kvm`, on x86-64.

Numbers and layouts are those of the kernel's `linux/kvm.h` and `asm/kvm.h`.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import struct
from typing import NamedTuple

DEVICE = "/dev/kvm"
API_VERSION = 12
CREATE_VM, GET_VCPU_MMAP_SIZE, GET_SUPPORTED_CPUID = 0xAE01, 0xAE04, 0xC008AE05
CREATE_VCPU, GET_DIRTY_LOG, SET_MEMORY_REGION = 0xAE41, 0x4010AE42, 0x4020AE46
SET_TSS_ADDR, CREATE_IRQCHIP, CREATE_PIT2 = 0xAE47, 0xAE60, 0x4040AE77
RUN, SET_CPUID2, GET_API_VERSION = 0xAE80, 0x4008AE90, 0xAE00
# What is saved of a vCPU: name, how to get it, how to set it, bytes; in the order of setting.
STATE = (
    ("sregs", 0x8138AE83, 0x4138AE84, 312),
    ("regs", 0x8090AE81, 0x4090AE82, 144),
    ("fpu", 0x81A0AE8C, 0x41A0AE8D, 416),
    ("lapic", 0x8400AE8E, 0x4400AE8F, 1024),
    ("mp_state", 0x8004AE98, 0x4004AE99, 4),
    ("events", 0x8040AE9F, 0x4040AEA0, 64),
)
TSS_ADDRESS = 0xFFFBD000
LOG_DIRTY_PAGES, PIT_SPEAKER_DUMMY = 1, 1
PAGE = 4096
# Firecracker leaves the addresses from 3 to 4 GiB to devices; memory goes on above.
GAP_START, GAP_END = 3 << 30, 4 << 30
MAP_NORESERVE = 0x4000
EXIT_IO, EXIT_HLT, EXIT_MMIO, EXIT_SHUTDOWN = 2, 5, 6, 8
IMMEDIATE_EXIT, EXIT_REASON, IO = 1, 8, 32

_libc = ctypes.CDLL(None, use_errno=True)


class Port(NamedTuple):
    """The guest reads or writes a port: `data` is in the shared page, from `at` on."""

    port: int
    write: bool
    at: int
    size: int


def call(descriptor: int, request: int, argument: int | bytearray = 0) -> int:
    """What the ioctl returns; other threads run meanwhile.

    Raises:
        OSError: the kernel refuses.
    """
    passed: object = ctypes.c_ulong(argument) if isinstance(argument, int) else None
    if isinstance(argument, bytearray):
        passed = (ctypes.c_char * len(argument)).from_buffer(argument)
    result = int(_libc.ioctl(descriptor, ctypes.c_ulong(request), passed))
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def opens() -> bool:
    """Whether a virtual machine can be made here; the processor's flags do not tell."""
    try:
        device = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        os.close(call(device, CREATE_VM))
        return call(device, GET_API_VERSION) == API_VERSION
    except OSError:
        return False
    finally:
        os.close(device)


def anonymous(size: int) -> mmap.mmap:
    """New memory, of which nothing is reserved."""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE
    return mmap.mmap(-1, size, flags=flags)


def private(file: int, size: int) -> mmap.mmap:
    """A copy-on-write mapping of the file, as Firecracker's File backend makes it."""
    flags = mmap.MAP_PRIVATE | MAP_NORESERVE
    return mmap.mmap(file, size, flags=flags, prot=mmap.PROT_READ | mmap.PROT_WRITE)


class Machine:
    """A virtual machine with this memory; `run` belongs to one thread.

    Raises:
        OSError: the kernel refuses.
    """

    def __init__(self, memory: mmap.mmap, *, tracked: bool) -> None:
        self.memory, self.tracked = memory, tracked
        device = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
        self.vm = call(device, CREATE_VM)
        call(self.vm, SET_TSS_ADDR, TSS_ADDRESS)
        call(self.vm, CREATE_IRQCHIP)
        call(self.vm, CREATE_PIT2, bytearray(struct.pack("<I60x", PIT_SPEAKER_DUMMY)))
        self._slots = self._map_memory()
        self.vcpu = call(self.vm, CREATE_VCPU)
        self.shared = mmap.mmap(self.vcpu, call(device, GET_VCPU_MMAP_SIZE))
        cpuid = bytearray(struct.pack("<II", 256, 0) + bytes(256 * 40))
        call(device, GET_SUPPORTED_CPUID, cpuid)
        call(self.vcpu, SET_CPUID2, cpuid)
        os.close(device)

    def _map_memory(self) -> list[tuple[int, int]]:
        size = len(self.memory)
        low = min(size, GAP_START)
        slots = [(0, low)] + ([(low, size - low)] if size > low else [])
        start = ctypes.addressof(ctypes.c_char.from_buffer(self.memory))
        flags = LOG_DIRTY_PAGES if self.tracked else 0
        for number, (offset, length) in enumerate(slots):
            guest = GAP_END if offset else 0
            region = struct.pack("<IIQQQ", number, flags, guest, length, start + offset)
            call(self.vm, SET_MEMORY_REGION, bytearray(region))
        return slots

    def get(self, name: str) -> bytearray:
        """A part of the vCPU's state."""
        _, getter, _, size = next(row for row in STATE if row[0] == name)
        part = bytearray(size)
        call(self.vcpu, getter, part)
        return part

    def put(self, name: str, part: bytes | bytearray) -> None:
        """A part of the vCPU's state is this."""
        call(self.vcpu, next(row for row in STATE if row[0] == name)[2], bytearray(part))

    def saved(self) -> dict[str, str]:
        """All of the vCPU's state, in hexadecimal."""
        return {name: self.get(name).hex() for name, *_ in STATE}

    def restore(self, state: dict[str, str]) -> None:
        """The vCPU is as it was saved."""
        for name, *_ in STATE:
            self.put(name, bytes.fromhex(state[name]))

    def stop(self, *, yes: bool) -> None:
        """Whether the next `run`, or the present one once interrupted, returns at once."""
        self.shared[IMMEDIATE_EXIT] = int(yes)

    def run(self) -> int | None:
        """Why the guest came out; None if it was interrupted, and no port access is unfinished."""
        try:
            call(self.vcpu, RUN)
        except OSError as error:
            if error.errno in (errno.EINTR, errno.EAGAIN):
                return None
            raise
        return int.from_bytes(self.shared[EXIT_REASON : EXIT_REASON + 4], "little")

    def port(self) -> Port:
        """The port access for which the guest came out."""
        write, size, port, count, at = struct.unpack_from("<BBHIQ", self.shared, IO)
        return Port(port, bool(write), at, size * count)

    def dirtied(self) -> set[int]:
        """The pages that the guest wrote since the last call, as numbers within the memory.

        Unless dirty pages are tracked, those that were ever touched.
        """
        if not self.tracked:
            return self._resident()
        found: set[int] = set()
        for slot, (offset, length) in enumerate(self._slots):
            bitmap = bytearray((length // PAGE + 63) // 64 * 8)
            address = ctypes.addressof(ctypes.c_char.from_buffer(bitmap))
            call(self.vm, GET_DIRTY_LOG, bytearray(struct.pack("<IIQ", slot, 0, address)))
            first = offset // PAGE
            for at, byte in enumerate(bitmap):
                found.update(first + at * 8 + bit for bit in range(8) if byte >> bit & 1)
        return found

    def _resident(self) -> set[int]:
        size = len(self.memory)
        start = ctypes.c_void_p(ctypes.addressof(ctypes.c_char.from_buffer(self.memory)))
        pages = (ctypes.c_ubyte * (size // PAGE))()
        if _libc.mincore(start, ctypes.c_size_t(size), pages) < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        return {page for page, present in enumerate(pages) if present & 1}
