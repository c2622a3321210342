"""Creating and loading snapshots of a machine."""

from __future__ import annotations

import time
from typing import Any

from worker.simulator.devices import BUILD, open_console, open_drive, open_tap
from worker.simulator.errors import ApiFault, FatalFault
from worker.simulator.machine import Machine
from worker.simulator.snapshot import (
    CREATE,
    STATE,
    load_guest,
    read_state,
    save_memory,
    save_state,
)
from worker.simulator.vsock import Vsock


def create(machine: Machine, body: dict[str, Any]) -> None:
    """Writes vmstate, then memory, and fsyncs both.

    Raises:
        ApiFault: the guest runs, or a file cannot be written.
        SystemExit: a fault says so, or a file exceeded the size limit (151).
    """
    guest = machine.guest
    if machine.state != "Paused" or guest is None:
        raise ApiFault(
            f"{CREATE}Cannot save the microVM state: Operation not allowed: "
            "save/restore unavailable while running"
        )
    machine.bare_pause = False
    if machine.vsock is not None:
        machine.vsock.reset()
    save_state(
        body["snapshot_path"],
        {
            "format": machine.faults.snapshot_version,
            "counter": guest.counter,
            "token": guest.token.hex(),
            "digest": guest.digest(),
            "mem_size_mib": machine.config["mem_size_mib"],
            "config": machine.config,
            "boot_source": machine.boot_source,
            "drives": list(machine.drives.values()),
            "interfaces": list(machine.interfaces.values()),
            "vsock": machine.vsock_config,
            "entropy": machine.entropy,
        },
    )
    diff = body.get("snapshot_type") == "Diff"
    tracked = bool(machine.config["track_dirty_pages"])
    save_memory(body["mem_file_path"], guest, diff=diff, tracked=tracked, faults=machine.faults)


def load(machine: Machine, body: dict[str, Any]) -> None:
    """Gives the machine the snapshot's guest, paused, or running if `resume_vm`.

    Raises:
        ApiFault: something was configured before.
        FatalFault: the snapshot cannot be restored; the VMM must exit.
    """
    if machine.configured:
        raise ApiFault(
            "Load snapshot error: Loading a microVM snapshot not allowed after "
            "configuring boot-specific resources."
        )
    time.sleep(machine.faults.slow_load_ms / 1000)
    state = read_state(body["snapshot_path"], supported=machine.faults.snapshot_version)
    _override(state, body)
    backend = body.get("mem_backend") or {
        "backend_type": "File",
        "backend_path": body["mem_file_path"],
    }
    if backend["backend_type"] != "File":
        raise FatalFault("Load snapshot error: simulator: no Uffd backend")
    dirty = bool(body.get("track_dirty_pages") or body.get("enable_diff_snapshots"))
    tick_s = machine.faults.tick_ms / 1000
    guest = load_guest(backend["backend_path"], state, tick_s)
    _reopen(machine, state)
    guest.all_touched = not dirty
    machine.config = state["config"] | {"track_dirty_pages": dirty}
    machine.boot_source = state["boot_source"]
    machine.entropy = state["entropy"]
    args = (machine.boot_source or {}).get("boot_args") or ""
    machine.adopt(guest, open_console(machine.serial_path, args))
    if body.get("resume_vm"):
        machine.resume()


def _override(state: dict[str, Any], body: dict[str, Any]) -> None:
    for entry in body.get("network_overrides", []):
        found = [i for i in state["interfaces"] if i["iface_id"] == entry["iface_id"]]
        if not found:
            raise FatalFault(f"{STATE}Unknown Network Device.")
        found[0]["host_dev_name"] = entry["host_dev_name"]
    if "vsock_override" in body:
        if state["vsock"] is None:
            raise FatalFault(f"{STATE}Unknown Vsock Device.")
        state["vsock"]["uds_path"] = body["vsock_override"]["uds_path"]


def _reopen(machine: Machine, state: dict[str, Any]) -> None:
    for drive in state["drives"]:
        file = open_drive(drive, what=f"{BUILD}Block: ", fatal=True)
        machine.files[f"drive {drive['drive_id']}"] = file
        machine.drives[drive["drive_id"]] = drive
    for interface in state["interfaces"]:
        file = open_tap(interface["host_dev_name"], fatal=True)
        machine.files[f"tap {interface['iface_id']}"] = file
        machine.interfaces[interface["iface_id"]] = interface
    if state["vsock"] is not None:
        machine.vsock = Vsock(
            state["vsock"]["uds_path"], prefix=f"{BUILD}VsockUnixBackend: ", fatal=True
        )
        machine.vsock.dead = machine.faults.vsock_dies_in_restore
        machine.vsock_config = state["vsock"]
