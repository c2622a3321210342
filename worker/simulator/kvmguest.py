"""A guest that is real: a kernel in a KVM vCPU, with a serial port and nothing else.

Only the first vCPU runs, however many are configured, and there are no virtio devices, so Linux
would find no disk; a kernel that counts on its serial port is enough to show that sleep and wake
keep memory and registers.  Of the vCPU's state the model-specific registers are not saved: the
time-stamp counter starts anew with each VMM.
"""

from __future__ import annotations

import mmap
import os
import signal
import threading
import zlib
from typing import Any

from worker.simulator import kvm
from worker.simulator.boot import load_kernel, start_state
from worker.simulator.guest import MIB, PAGE, Guest

KICK = signal.SIGRTMIN
SERIAL, SERIAL_STATUS = 0x3F8, 0x3FD
KEYBOARD, RESET = 0x64, 0xFE
READY = 0x60  # the serial port's transmitter is empty
OK, GENERIC = 0, 1
PARK_TIMEOUT_S = 30.0  # Firecracker's own for pausing its vCPUs


class KvmGuest(Guest):
    """A guest in a vCPU; `counter` is the last whole number, hexadecimal, on its serial port."""

    greeting = b""

    def __init__(
        self, machine: kvm.Machine, spans: list[tuple[int, int]], *, line: bytes = b"", **base: Any
    ) -> None:
        super().__init__(machine.memory, token=b"", tick_s=0, **base)
        self.machine, self.spans, self.line = machine, spans, line
        self.parked = True
        self.thread: threading.Thread | None = None

    @classmethod
    def loaded(cls, path: str, command_line: str, mem_size_mib: int, *, tracked: bool) -> KvmGuest:
        """A guest before its first instruction.

        Raises:
            OSError: the kernel's file cannot be read, or KVM refuses.
            ValueError: the file is no kernel that starts here.
        """
        memory = kvm.anonymous(mem_size_mib * MIB)
        kernel = load_kernel(memory, path)
        machine = kvm.Machine(memory, tracked=tracked)
        start_state(machine, kernel, command_line.encode())
        guest = cls(machine, kernel.spans, counter=0)
        for at, size in kernel.spans:
            guest.dirty.update(range(at // PAGE, -(-(at + size) // PAGE)))
        return guest

    @classmethod
    def restored(cls, memory: mmap.mmap, state: dict[str, Any], *, tracked: bool) -> KvmGuest:
        """The guest of `extra`, in this memory.

        Raises:
            OSError: KVM refuses.
        """
        machine = kvm.Machine(memory, tracked=tracked)
        machine.restore(state["kvm"]["vcpu"])
        line = bytes.fromhex(state["kvm"]["line"])
        return cls(machine, state["kvm"]["spans"], counter=state["counter"], line=line)

    def start(self) -> None:
        # The signal only has to interrupt; without a handler it would kill.
        signal.signal(KICK, lambda _number, _frame: None)
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def resume(self) -> None:
        with self.changed:
            self.running, self.parked = True, False
            self.machine.stop(yes=False)
            self.changed.notify_all()

    def pause(self) -> None:
        assert self.thread is not None, "started at once"  # noqa: S101 - an invariant of machine.py
        with self.changed:
            self.running = False
            # First the flag: a signal that comes before the vCPU is entered is lost.
            self.machine.stop(yes=True)
            if not self.parked and self.thread.ident is not None:
                signal.pthread_kill(self.thread.ident, KICK)
            if not self.changed.wait_for(lambda: self.parked, PARK_TIMEOUT_S):
                os._exit(GENERIC)

    def digest(self) -> int:
        crc = 0
        for at, size in self.spans:
            crc = zlib.crc32(self.memory[at : at + size], crc)
        return crc

    def dirty_pages(self) -> set[int]:
        self.dirty |= self.machine.dirtied()
        return self.dirty

    def extra(self) -> dict[str, Any]:
        vcpu = self.machine.saved()
        return {"kvm": {"vcpu": vcpu, "spans": self.spans, "line": self.line.hex()}}

    def _run(self) -> None:
        while True:
            with self.changed:
                # Parked anew at each wake-up: a pause may follow a resume that went unseen.
                while not self.running:
                    self.parked = True
                    self.changed.notify_all()
                    self.changed.wait()
            while (reason := self.machine.run()) is not None:
                self._handle(reason)

    def _handle(self, reason: int) -> None:
        match reason:
            case kvm.EXIT_IO:
                self._access(self.machine.port())
            case kvm.EXIT_MMIO:
                return  # nothing is there: reads tell what was there before
            case kvm.EXIT_HLT | kvm.EXIT_SHUTDOWN:
                os._exit(OK)
            case _:
                os._exit(GENERIC)

    def _access(self, port: kvm.Port) -> None:
        end = port.at + port.size
        if not port.write:
            value = READY if port.port == SERIAL_STATUS else 0
            self.machine.shared[port.at : end] = bytes([value]) * port.size
        elif port.port == SERIAL:
            self._print(self.machine.shared[port.at : end])
        elif port.port == KEYBOARD and self.machine.shared[port.at] == RESET:
            os._exit(OK)

    def _print(self, text: bytes) -> None:
        self.write_serial(text)
        *lines, self.line = (self.line + text).split(b"\n")
        for line in lines:
            number = line.partition(b" ")[0]
            if len(number) == 8 and not set(number) - set(b"0123456789abcdef"):
                self.counter = int(number, 16)
