"""Carries out the API's requests, each when it is allowed."""

from __future__ import annotations

from typing import Any

from worker.simulator import images
from worker.simulator.errors import ApiFault
from worker.simulator.journal import Journal
from worker.simulator.machine import Machine
from worker.simulator.request_bodies import read_body
from worker.simulator.routes import (
    IDENTIFIED,
    KEEPS_LOADABLE,
    ONLY_AFTER,
    ONLY_BEFORE,
    check_body,
    route,
)
from worker.simulator.schemas import bodies

BEFORE = "The requested operation is not supported before starting the microVM."
AFTER = "The requested operation is not supported after starting the microVM."


class Api:
    """The API of one machine."""

    def __init__(self, machine: Machine, journal: Journal) -> None:
        self.machine, self.journal = machine, journal

    def answer(self, method: str, path: str, raw: bytes) -> Any:
        """The JSON to reply; None if the reply has no body.

        Raises:
            ApiFault: the request is refused.
            SystemExit: the machine dies of the request.
        """
        minor = self.machine.faults.minor
        key, tail = route(method, path, raw, minor=minor)
        body: Any = read_body(bodies(minor)[key], raw) if raw else None
        check_body(key, tail, body)
        name = f"{key} {body['action_type']}" if key == "PUT actions" else key
        self._check_order(name)
        return self._read(key) if method == "GET" else self._change(name, body)

    def _check_order(self, name: str) -> None:
        started = self.machine.state != "Not started"
        if started and name in ONLY_BEFORE:
            hotplug = self.machine.faults.minor >= 17 and name.split()[1] in IDENTIFIED
            raise ApiFault("PCI is not enabled" if hotplug else AFTER)
        if not started and name in ONLY_AFTER:
            raise ApiFault(BEFORE)
        if not started and name in ONLY_BEFORE - KEEPS_LOADABLE:
            self.machine.configured = True

    def _read(self, key: str) -> dict[str, Any]:
        match key:
            case "GET ":
                return self.machine.info()
            case "GET machine-config":
                return self.machine.config
            case _:
                return self.machine.full_config()

    def _change(self, name: str, body: Any) -> None:  # noqa: C901, PLR0912 - one line each
        machine = self.machine
        match name:
            case "PUT boot-source":
                machine.set_boot_source(body)
            case "PUT machine-config" | "PATCH machine-config":
                machine.set_machine(body)
            case "PUT drives":
                machine.put_drive(body)
            case "PUT network-interfaces":
                machine.put_interface(body)
            case "PUT vsock":
                machine.put_vsock(body)
            case "PUT entropy":
                machine.entropy = {"rate_limiter": None} | body
            case "PUT serial":
                machine.serial_path = body.get("serial_out_path")
            case "PUT logger":
                self.journal.configure(body)
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
            case _:  # PUT cpu-config is accepted and does nothing
                return
