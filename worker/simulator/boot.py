"""How Firecracker leaves memory and vCPU to a kernel on x86-64: by PVH, or as 64-bit Linux.

Addresses and values are those of Firecracker 1.17's `arch/x86_64`; the structures are Xen's
`hvm_start_info`, Linux's zero page, and the processor's tables.
"""

from __future__ import annotations

import mmap
import struct
from typing import NamedTuple

from worker.simulator.kvm import GAP_END, GAP_START, Machine

HIGH_MEMORY = 0x100000
TABLES, IDT, START_INFO, ZERO_PAGE, STACK = 0x500, 0x520, 0x6000, 0x7000, 0x8FF0
MEMORY_MAP = ZERO_PAGE  # the one or the other is there
PML4, COMMAND_LINE, LOW_END, BIOS_END = 0x9000, 0x20000, 0x9FC00, 0xE0000
START_MAGIC, PHYS32_ENTRY = 0x336EC578, 18
PT_LOAD, PT_NOTE = 1, 4
PROTECTED, PAGING, EXTENDED, LONG = 0x11, 0x80000001, 0x20, 0x500
SREGS_TABLES, SREGS_CONTROL = 192, 224  # offsets in kvm_sregs, after eight segments


class Kernel(NamedTuple):
    """Where the kernel starts, and the spans of memory that were written for it."""

    entry: int
    pvh: bool
    spans: list[tuple[int, int]]


def load_kernel(memory: mmap.mmap, path: str) -> Kernel:
    """The ELF image's segments are in memory.

    Raises:
        OSError: the file cannot be read.
        ValueError: not an ELF64 image for x86-64 that fits.
    """
    with open(path, "rb") as file:
        image = file.read()
    if image[:6] != b"\x7fELF\x02\x01" or image[18:20] != b"\x3e\0":
        raise ValueError("Invalid Elf magic number")
    try:
        return _load_segments(memory, image)
    except struct.error as error:
        raise ValueError("Unable to read program header") from error


def _load_segments(memory: mmap.mmap, image: bytes) -> Kernel:
    entry, headers = struct.unpack_from("<QQ", image, 24)
    size, count = struct.unpack_from("<HH", image, 54)
    note, spans = None, []
    for number in range(count):
        kind, _, offset, _, at, in_file, in_memory, _ = struct.unpack_from(
            "<IIQQQQQQ", image, headers + number * size
        )
        if kind == PT_LOAD and in_file:
            if at < HIGH_MEMORY or at + in_memory > min(len(memory), GAP_START):
                raise ValueError("Unable to read kernel image")
            memory[at : at + in_file] = image[offset : offset + in_file]
            spans.append((at, in_memory))
        elif kind == PT_NOTE and note is None:
            note = _pvh_entry(image[offset : offset + in_file])
    if not spans or entry < HIGH_MEMORY:
        raise ValueError("Invalid entry address")
    return Kernel(entry if note is None else note, note is not None, [(0, HIGH_MEMORY), *spans])


def _pvh_entry(notes: bytes) -> int | None:
    at = 0
    while at + 12 <= len(notes):
        name, size, kind = struct.unpack_from("<III", notes, at)
        value = at + 12 + (name + 3) // 4 * 4
        if kind == PHYS32_ENTRY and notes[at + 12 : at + 16] == b"Xen\0":
            return int.from_bytes(notes[value : value + 4], "little")
        at = value + (size + 3) // 4 * 4
    return None


def start_state(machine: Machine, kernel: Kernel, command_line: bytes) -> None:
    """The vCPU stands before the kernel's first instruction, with what the kernel expects."""
    memory = machine.memory
    memory[COMMAND_LINE : COMMAND_LINE + len(command_line) + 1] = command_line + b"\0"
    sregs = machine.get("sregs")
    control = list(struct.unpack_from("<7Q", sregs, SREGS_CONTROL))
    if kernel.pvh:
        entries = [0, _entry(0xC09B, 0xFFFFFFFF), _entry(0xC093, 0xFFFFFFFF), _entry(0x8B, 0x67)]
        _write_start_info(memory)
        control[0], control[3] = PROTECTED, 0
    else:
        entries = [0, _entry(0xA09B, 0xFFFFF), _entry(0xC093, 0xFFFFF), _entry(0x808B, 0xFFFFF)]
        _write_zero_page(memory)
        control[0] |= PAGING
        control[2], control[3], control[5] = PML4, control[3] | EXTENDED, control[5] | LONG
    struct.pack_into("<4QQ", memory, TABLES, *entries, 0)
    code, data, task = (_segment(entries[i], i) for i in (1, 2, 3))
    sregs[: 7 * 24] = code + data * 5 + task
    struct.pack_into("<QH6xQH6x", sregs, SREGS_TABLES, TABLES, 31, IDT, 7)
    struct.pack_into("<7Q", sregs, SREGS_CONTROL, *control)
    machine.put("regs", _registers(kernel))
    fpu = bytearray(416)
    struct.pack_into("<H", fpu, 128, 0x37F)
    struct.pack_into("<I", fpu, 408, 0x1F80)
    machine.put("fpu", fpu)
    machine.put("sregs", sregs)


def _registers(kernel: Kernel) -> bytes:
    values = [0] * 18  # rax, rbx, rcx, rdx, rsi, rdi, rsp, rbp, r8 to r15, rip, rflags
    values[16], values[17] = kernel.entry, 2
    if kernel.pvh:
        values[1] = START_INFO
    else:
        values[4], values[6], values[7] = ZERO_PAGE, STACK, STACK
    return struct.pack("<18Q", *values)


def _regions(size: int) -> list[tuple[int, int, int]]:
    regions = [(0, LOW_END, 1), (LOW_END, BIOS_END - LOW_END, 2)]
    regions.append((HIGH_MEMORY, min(size, GAP_START) - HIGH_MEMORY, 1))
    return regions + ([(GAP_END, size - GAP_START, 1)] if size > GAP_START else [])


def _write_start_info(memory: mmap.mmap) -> None:
    regions = _regions(len(memory))
    numbers = (START_MAGIC, 1, 0, 0, 0, COMMAND_LINE, 0, MEMORY_MAP, len(regions), 0)
    struct.pack_into("<IIIIQQQQII", memory, START_INFO, *numbers)
    for number, region in enumerate(regions):
        struct.pack_into("<QQII", memory, MEMORY_MAP + number * 24, *region, 0)


def _write_zero_page(memory: mmap.mmap) -> None:
    regions = _regions(len(memory))
    memory[ZERO_PAGE + 0x1E8] = len(regions)
    struct.pack_into("<H", memory, ZERO_PAGE + 0x1FE, 0xAA55)
    memory[ZERO_PAGE + 0x202 : ZERO_PAGE + 0x206] = b"HdrS"
    memory[ZERO_PAGE + 0x210] = 0xFF
    struct.pack_into("<I", memory, ZERO_PAGE + 0x228, COMMAND_LINE)
    for number, region in enumerate(regions):
        struct.pack_into("<QQI", memory, ZERO_PAGE + 0x2D0 + number * 20, *region)
    struct.pack_into("<Q", memory, PML4, 0xA003)
    struct.pack_into("<Q", memory, 0xA000, 0xB003)
    struct.pack_into("<512Q", memory, 0xB000, *((i << 21) + 0x83 for i in range(512)))


def _entry(flags: int, limit: int) -> int:
    return (flags & 0xF0FF) << 40 | (limit & 0xF0000) << 32 | limit & 0xFFFF


def _segment(entry: int, index: int) -> bytes:
    bits = [entry >> at & 1 for at in (47, 54, 44, 53, 55, 52)]  # present db s l g avl
    present, db, system, long, granular, available = bits
    limit = (entry & 0x000F_0000_0000_0000) >> 32 | entry & 0xFFFF
    limit = limit << 12 | 0xFFF if granular else limit
    kind, ring = entry >> 40 & 15, entry >> 45 & 3
    flags = (kind, present, ring, db, system, long, granular, available, not present)
    return struct.pack("<QIH9Bx", 0, limit, index * 8, *flags)
