"""Devices that are configured and shown, and never used by the guest: pmem, memory hotplug."""

from __future__ import annotations

from typing import Any

from worker.simulator.words import ApiFault, refused

PMEM = {
    "id": "",
    "path_on_host": "",
    "root_device": False,
    "read_only": False,
    "rate_limiter": None,
}
HOTPLUG = {"total_size_mib": 0, "block_size_mib": 2, "slot_size_mib": 128}
BLOCK_MIB = 2
CONFIG = "Memory hotplug config error: "


class Extras:
    """What one machine has of them."""

    def __init__(self) -> None:
        self.pmem: dict[str, dict[str, Any]] = {}
        self.hotplug: dict[str, int] | None = None

    def put_pmem(self, body: dict[str, Any]) -> None:
        """A persistent-memory device; its file is opened at the boot only."""
        self.pmem[body["id"]] = PMEM | body

    def put_hotplug(self, body: dict[str, int]) -> None:
        """How much memory may be plugged in.

        Raises:
            ApiFault: the sizes do not fit each other.
        """
        wanted = HOTPLUG | body
        total, block, slot = wanted.values()
        if block < BLOCK_MIB:
            raise ApiFault(f"{CONFIG}Block size must not be lower than {BLOCK_MIB} MiB")
        if block & block - 1:
            raise ApiFault(f"{CONFIG}Block size must be a power of 2")
        if slot % block:
            raise ApiFault(f"{CONFIG}Slot size must be a multiple of block size ({block} MiB)")
        if total < slot:
            raise ApiFault(f"{CONFIG}Total size must not be lower than slot size ({slot} MiB)")
        if total % slot:
            raise ApiFault(f"{CONFIG}Total size must be a multiple of slot size ({slot} MiB)")
        self.hotplug = wanted

    def open_all(self) -> None:
        """Nothing, if every device's file is there.

        Raises:
            ApiFault: one is not.
        """
        what = "Start microvm error: Cannot create pmem device: Error accessing backing file"
        for device in self.pmem.values():
            with refused(what), open(device["path_on_host"], "rb"):
                continue
