"""Requests to actions: which exist, what their bodies are, and when they are allowed."""

from __future__ import annotations

import json
import os
from typing import Any, NamedTuple

from worker.simulator import images
from worker.simulator.bodies import BadBody, read_body
from worker.simulator.journal import Journal
from worker.simulator.machine import Machine
from worker.simulator.metadata import Metadata
from worker.simulator.routes import (
    IDENTIFIED,
    KEEPS_LOADABLE,
    ONLY_AFTER,
    ONLY_BEFORE,
    check_body,
    is_deprecated,
    route,
)
from worker.simulator.schemas import bodies
from worker.simulator.words import ApiFault, refused

BEFORE = "The requested operation is not supported before starting the microVM."
AFTER = "The requested operation is not supported after starting the microVM."
NO_DEVICE = "Failed perform action on device: Device not found"


class Answer(NamedTuple):
    """What is done: the JSON to reply, if any, and whether the request is deprecated."""

    payload: Any
    deprecated: bool = False


class Api:
    """The API of one machine."""

    def __init__(self, machine: Machine, journal: Journal) -> None:
        self.machine, self.journal = machine, journal
        self.metadata = Metadata(machine)

    def answer(self, method: str, path: str, raw: bytes) -> tuple[Answer, ApiFault | None]:
        """The answer, or the fault; `deprecated` is known in both cases once the body is read.

        Raises:
            SystemExit: the machine dies of the request.
        """
        deprecated = False
        try:
            minor = self.machine.faults.minor
            key, tail = route(method, path, raw, minor=minor)
            body = read_body(bodies(minor)[key], raw) if raw else None
            check_body(key, tail, body)
            deprecated = is_deprecated(key, body)
            return Answer(self._act(key, body), deprecated), None
        except BadBody as fault:
            return Answer(None), ApiFault(str(fault))
        except ApiFault as fault:
            return Answer(None, deprecated), fault

    def _act(self, key: str, body: Any) -> Any:
        machine = self.machine
        name = f"{key} {body['action_type']}" if key == "PUT actions" else key
        started = machine.state != "Not started"
        if started and name in ONLY_BEFORE:
            hotplug = machine.faults.minor >= 17 and name.split()[1] in IDENTIFIED
            raise ApiFault("PCI is not enabled" if hotplug else AFTER)
        if not started and (name in ONLY_AFTER or key.startswith("DELETE")):
            raise ApiFault(BEFORE)
        if not started and key in ONLY_BEFORE - KEEPS_LOADABLE and key != "PUT snapshot/load":
            machine.configured = True
        if key.startswith("GET"):
            return self._read(key)
        return self._change(name, body)

    def _read(self, key: str) -> Any:
        machine = self.machine
        match key:
            case "GET ":
                return machine.info()
            case "GET version":
                return {"firecracker_version": machine.faults.version}
            case "GET machine-config":
                return machine.config
            case "GET vm/config":
                return machine.full_config()
            case "GET mmds":
                return self.metadata.read()
            case "GET balloon" if machine.balloon is not None:
                return machine.balloon
            case "GET balloon" if machine.state == "Not started":
                raise ApiFault("Balloon config error: No balloon device found.")
            case "GET balloon/hinting/status":
                raise ApiFault(f"Balloon update error: {NO_DEVICE}")
            case _:
                raise ApiFault(f"Internal VMM error: {NO_DEVICE}")

    def _change(self, name: str, body: Any) -> None:  # noqa: C901, PLR0912, PLR0915 - one line each
        machine = self.machine
        match name:
            case "PUT boot-source":
                machine.set_boot_source(body)
            case "PUT machine-config" | "PATCH machine-config":
                machine.set_machine(body)
            case "PUT drives":
                machine.put_drive(body)
            case "PATCH drives":
                machine.patch_drive(body)
            case "PUT network-interfaces":
                machine.put_interface(body)
            case "PATCH network-interfaces" if body["iface_id"] not in machine.interfaces:
                raise ApiFault(
                    f"Network config error: Unable to update the net device: {NO_DEVICE}"
                )
            case "PUT vsock":
                machine.put_vsock(body)
            case "PUT entropy":
                machine.entropy = {"rate_limiter": None} | body
            case "PUT balloon":
                machine.set_balloon(body)
            case "PATCH balloon" if machine.balloon is None:
                raise ApiFault(f"Balloon update error: {NO_DEVICE}")
            case "PATCH balloon":
                machine.balloon = (machine.balloon or {}) | body
            case _ if name.startswith("PATCH balloon/"):
                raise ApiFault(f"Balloon update error: {NO_DEVICE}")
            case "PATCH hotplug/memory":
                raise ApiFault(f"Memory hotplug update error: {NO_DEVICE}")
            case "PUT hotplug/memory":
                machine.extras.put_hotplug(body)
            case "PUT pmem":
                machine.extras.put_pmem(body)
            case "PUT serial":
                machine.serial_path = body.get("serial_out_path")
            case "PUT logger":
                self.journal.configure(body)
            case "PUT metrics":
                self.journal.open_metrics(body["metrics_path"])
            case "PUT actions FlushMetrics":
                self.journal.flush_metrics(machine)
            case "PUT actions InstanceStart":
                machine.boot()
            case "PUT actions SendCtrlAltDel":
                machine.ctrl_alt_del()
            case "PATCH vm":
                machine.pause() if body["state"] == "Paused" else machine.resume()
            case "PUT snapshot/create":
                images.create(machine, body)
            case "PUT snapshot/load":
                images.load(machine, body)
            case "PUT mmds" | "PATCH mmds" | "PUT mmds/config":
                self.metadata.change(name, body)
            case _ if name.startswith("DELETE"):
                raise ApiFault("PCI is not enabled")
            case _:
                return

    def configure_from(self, path: str) -> None:
        """The machine is configured from the file's JSON and runs (`--config-file`).

        Raises:
            ApiFault: a section is refused, or the file cannot be read.
        """
        with refused("Unable to open or read from the configuration file"):
            file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        with os.fdopen(file, "rb") as opened:
            whole = json.load(opened)
        for section, value in whole.items():
            for item in value if isinstance(value, list) else [value]:
                suffix = f"/{item[IDENTIFIED[section]]}" if section in IDENTIFIED else ""
                _, fault = self.answer("PUT", f"/{section}{suffix}", json.dumps(item).encode())
                if fault:
                    raise fault
        self.machine.boot()
