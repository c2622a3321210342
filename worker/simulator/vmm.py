"""The stand-in firecracker's process: arguments, signals, API socket, exit codes."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import sys
import time
from types import FrameType
from typing import Any, NoReturn

from worker.simulator import kernel
from worker.simulator.api import Api
from worker.simulator.arguments import BadArguments, instance_id_fault, parsed
from worker.simulator.errors import ApiFault, FatalFault, os_words
from worker.simulator.faults import FILE_NAME, Faults, Rule, read_faults
from worker.simulator.http import Connection, Request, Server, as_json
from worker.simulator.journal import Journal
from worker.simulator.machine import Machine

OK, GENERIC, BAD_ARGUMENTS = 0, 1, 153
FLAGS = frozenset({"version", "snapshot-version"})
SINGLE = {
    "api-sock": "/run/firecracker.socket",
    "id": "anonymous-instance",
    "log-path": None,
    "level": "info",
}
# Not SIGBUS, SIGSEGV, SIGILL: a handler in Python returns to the faulting instruction, for ever.
DEADLY = {signal.SIGXFSZ: 151, signal.SIGXCPU: 154, signal.SIGHUP: 156}


class Vmm:
    """One VMM process."""

    def __init__(
        self, found: dict[str, list[str]], faults: Faults, fault_file: str, journal: Journal
    ) -> None:
        self.found, self.journal = found, journal
        self.first_faults, self.fault_file = faults, fault_file
        self.machine = Machine(found["id"][0], faults)
        self.api = Api(self.machine, journal)
        self.calls: dict[str, int] = {}

    def run(self) -> int:
        """Serves until the guest or an error ends the VMM; its exit code.

        Raises:
            SystemExit: a fault says so.
        """
        faults = self.machine.faults
        self.journal.write(f"Running Firecracker v{faults.version}")
        if faults.die_before_socket:
            raise SystemExit(faults.exit_code)
        listener = self._bound(self.found["api-sock"][0])
        if faults.die_after_socket:
            raise SystemExit(faults.exit_code)
        self.journal.write("API server started.", thread="fc_api")
        return Server(listener).serve(self._handle)

    def _bound(self, path: str) -> socket.socket:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listener.bind(path)
        except OSError as error:
            if error.errno == 98:
                raise ApiFault(
                    "RunWithApiError error: Failed to open the API socket at: "
                    f"{path}. Check that it is not already used."
                ) from error
            raise ApiFault(
                "RunWithApiError error: Failed to bind and run the HTTP server: IO "
                f"error: {os_words(error)}"
            ) from error
        listener.listen(128)
        self.journal.write(f'Listening on API socket ("{path}").')
        return listener

    def _handle(self, request: Request, connection: Connection) -> int | None:
        machine, name = self.machine, f"{request.method} {request.path}"
        machine.faults = faults = read_faults(self.fault_file) or self.first_faults
        verb = request.method.capitalize()
        self.journal.write(
            f'The API server received a {verb} request on "{request.path}".', thread="fc_api"
        )
        if faults.requests:
            self._record(faults.requests, request)
        self.calls[name] = nth = self.calls.get(name, 0) + 1
        rule = faults.rule(name, nth)
        if rule is not None and not (rule.after or rule.answered) and _apply(rule, connection):
            return None
        try:
            payload, fault = self.api.answer(*request), None
        except ApiFault as refusal:
            payload, fault = None, refusal
        if rule is not None and rule.after and _apply(rule, connection):
            return None
        code = self._reply(connection, payload, fault)
        if rule is not None and rule.answered:
            _apply(rule, connection)
        if faults.die_after_snapshot and name == "PUT /snapshot/create" and fault is None:
            raise SystemExit(faults.exit_code)
        return code

    def _record(self, path: str, request: Request) -> None:
        body = json.loads(request.body) if request.body else None
        with open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps([request.method, request.path, body]) + "\n")

    def _reply(self, connection: Connection, payload: Any, fault: ApiFault | None) -> int | None:
        if fault is not None:
            return self._refuse(connection, fault)
        if payload is None:
            connection.send(204)
        else:
            connection.send(200, as_json(payload))
        return None

    def _refuse(self, connection: Connection, fault: ApiFault) -> int | None:
        self.journal.write(
            f"Received Error. Status code: 400 Bad Request. Message: {fault}", thread="fc_api"
        )
        connection.send(400, as_json({"fault_message": str(fault)}))
        if isinstance(fault, FatalFault):
            self.journal.write(
                "RunWithApiError error: Failed to build MicroVM: Loading snapshot failed.."
            )
            return GENERIC
        return None


def _apply(rule: Rule, connection: Connection) -> bool:
    """Applies the rule; whether it was the whole answer."""
    time.sleep(rule.delay_ms / 1000)
    if rule.hang:
        select.select([], [], [])
    if rule.exit is not None:
        raise SystemExit(rule.exit)
    if rule.signal:
        signal.signal(rule.signal, signal.SIG_DFL)
        os.kill(os.getpid(), rule.signal)
        raise SystemExit(128 + rule.signal)
    if rule.status:
        busy = rule.status == 503
        body = {"error" if busy else "fault_message": rule.message}
        connection.send(rule.status, as_json(body))
    if rule.close or rule.status == 503:
        connection.client.shutdown(socket.SHUT_RDWR)
    return bool(rule.close or rule.status)


def _install_signal_handlers() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    for number in DEADLY:
        signal.signal(number, _die)


def _die(number: int, _frame: FrameType | None) -> NoReturn:
    os._exit(DEADLY[signal.Signals(number)])


def _print_version(found: dict[str, list[str]], faults: Faults) -> bool:
    if "version" in found:
        print(f"Firecracker v{faults.version}\n")
    elif "snapshot-version" in found:
        print(f"v{faults.snapshot_version}")
    else:
        return False
    sys.stdout.flush()
    return True


def _run(argv: list[str], faults: Faults, fault_file: str, journal: Journal) -> int:
    found, extra = parsed(argv, flags=FLAGS, single=SINGLE)
    if extra:
        raise BadArguments(
            f"Found argument '{extra[0]}' which wasn't expected, or isn't valid in this context."
        )
    if _print_version(found, faults):
        return OK
    journal.name = found["id"][0]
    fault = instance_id_fault(journal.name)
    if fault:
        journal.write(f"Invalid instance ID: {fault}")
        os.abort()  # the real one panics
    if "log-path" in found:
        journal.configure({"log_path": found["log-path"][0]})
    _install_signal_handlers()
    kernel.set_name("firecracker")
    kernel.forbid_new_privileges()
    return Vmm(found, faults, fault_file, journal).run()


def main(argv: list[str], faults: Faults, fault_file: str = f"/{FILE_NAME}") -> int:
    """Runs `firecracker <argv>`; its exit code.  `fault_file`, if it exists, overrides `faults`."""
    journal = Journal("anonymous-instance")
    try:
        code = _run(argv, faults, fault_file, journal)
    except BadArguments as fault:
        journal.write(f"Arguments parsing error: {fault} \n\nFor more information try --help.")
        code = BAD_ARGUMENTS
    except ApiFault as fault:
        journal.write(str(fault))
        code = GENERIC
    except SystemExit as death:
        code = int(death.code or 0)
    ending = "successfully" if code == OK else "with error"
    journal.write(f"Firecracker exiting {ending}. exit_code={code}")
    return code
