"""Plays the demo, from two tenants' networks to the proof that nothing is left."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import click
import msgspec

from enqueue.client import HostClient, Ticket
from enqueue.requests import (
    DestroyInstance,
    InstanceRequest,
    Ping,
    Request,
    SetupNetwork,
    SleepInstance,
    StartInstance,
    StopInstance,
    TeardownNetwork,
    TenantId,
    WakeInstance,
    describe,
)
from enqueue.results import Failed, Result
from worker.demo import sandbox
from worker.demo.documents import net, write_instance, write_tenant
from worker.demo.interrupts import Interrupts
from worker.demo.private_host import SandboxError
from worker.demo.proof import leftovers
from worker.demo.sandbox import HOST, Sandbox
from worker.demo.view import say, say_note, say_result
from worker.model.names import InstanceRef

TENANTS: Mapping[str, int] = {"acme": 10, "globex": 20}
WAIT_S = 40.0
REAL_PARTS = (
    "Redis, network, control groups, disks, locks and signals are real. For real guests set "
    "HOSTD_FIRECRACKER and HOSTD_JAILER and give --kernel FILE."
)


@dataclass(frozen=True, slots=True)
class Choice:
    """The Firecracker and the kernel to use."""

    settings: Mapping[str, object]
    kernel: bytes
    simulated: str  # what is simulated, for the last line; empty if nothing is


class PlayError(Exception):
    """A request did not end as expected."""


def run(*, keep: bool, kernel: Path | None) -> int:
    """Plays the demo; its exit code."""
    if os.geteuid() != 0:
        say("hostd demo needs root: it makes devices, namespaces and control groups")
        return 1
    began = time.monotonic()
    interrupts = Interrupts()
    choice = choose(kernel)
    try:
        with ExitStack() as stack:
            removed = sandbox.prepare()
            stack.callback(sandbox.sweep)
            if removed:
                say(f"removed what a killed demo had left: {', '.join(removed)}")
            if choice.simulated:
                warning = click.style(f"SIMULATED: {choice.simulated}.", fg="yellow")
                say(f"{warning} {REAL_PARTS}")
            box = Sandbox(choice.settings, interrupts)
            stack.callback(box.close)
            count = play(box, choice)
            interrupts.check()
            took_s = time.monotonic() - began
            if keep:
                _keep(box)
    except (SandboxError, PlayError) as error:
        say(f"{click.style('demo failed:', fg='red')} {error}")
        return 1
    except KeyboardInterrupt:
        say("stopped; everything of the demo is removed")
        return 130
    finally:
        left = leftovers()
    if left:
        say(f"{click.style('left behind:', fg='red')} {', '.join(left)}")
        return 1
    what = f"simulated: {choice.simulated}" if choice.simulated else "nothing was simulated"
    done = click.style("done", fg="green", bold=True)
    click.echo(
        f"{done}: {count} requests for 2 tenants and 3 instances, one "
        "worker killed in the middle of a sleep that was finished all the same, in "
        f"{took_s:.1f} s; nothing is left; {what}"
    )
    return 0


def choose(kernel: Path | None) -> Choice:
    """The real Firecracker, if the environment names it, /dev/kvm opens and `kernel` is given."""
    firecracker, jailer = os.environ.get("HOSTD_FIRECRACKER"), os.environ.get("HOSTD_JAILER")
    if firecracker and jailer and kernel and os.access("/dev/kvm", os.R_OK | os.W_OK):
        settings = {"firecracker": firecracker, "jailer": jailer, "console": True}
        return Choice(settings, kernel.read_bytes(), "")
    simulated = "Firecracker, its jailer and the guests"
    return Choice({"simulate": True}, b"a stand-in needs no kernel", simulated)


def play(box: Sandbox, choice: Choice) -> int:
    """Plays everything; the number of requests.

    Raises:
        PlayError: a request did not end as expected.
        SandboxError: Redis or the worker did not start.
    """
    layout = box.layout
    for tenant, net_id in TENANTS.items():
        write_tenant(layout, tenant, net_id, kernel=choice.kernel)
    first = write_instance(layout, "acme", "i-00000001")
    second = write_instance(layout, "acme", "i-00000002")
    third = write_instance(layout, "globex", "i-00000003")
    box.start_redis()
    box.start_worker()
    with box.client() as client:
        stage = Stage(client, box.interrupts)
        networks = [
            SetupNetwork(tenant_id=TenantId(tenant), net=net(id_))
            for tenant, id_ in TENANTS.items()
        ]
        stage.all(*networks)
        stage.all(*(of(StartInstance, ref) for ref in (first, second, third)))
        stage.all(Ping())
        stage.all(of(SleepInstance, first))
        _kill_during_sleep(stage, box, second)
        stage.all(of(WakeInstance, first), of(WakeInstance, second))
        stage.all(of(StopInstance, first), of(StopInstance, third))
        stage.all(*(of(DestroyInstance, ref) for ref in (first, second, third)))
        stage.all(*(TeardownNetwork(tenant_id=n.tenant_id, net=n.net) for n in networks))
        inside = leftovers(box.namespace, running=True)
        if inside:
            raise PlayError(f"left in the sandbox: {', '.join(inside)}")
        say_note("no link, nft table, control group, VMM or jail mount is left")
    return stage.count


def _kill_during_sleep(stage: Stage, box: Sandbox, ref: InstanceRef) -> None:
    """Kills the worker while Firecracker writes the image; a new worker finishes the sleep."""
    request = of(SleepInstance, ref)
    ticket = stage.ask(request)
    memory = box.layout.jail_base(ref)
    _until(lambda: any(path.stat().st_size for path in memory.rglob("snapshot/mem*")))
    pid = box.kill("worker")
    say_note(f"worker {pid} killed (SIGKILL) while {ref.instance_id}'s image was written")
    box.start_worker()
    say_note("worker started again")
    result = stage.await_(ticket)
    if not isinstance(result, Failed) and getattr(result, "attempts", 0) < 2:
        raise PlayError("the sleep had ended before the worker was killed")


class Stage:
    """Sends requests to hostd, and shows their results."""

    def __init__(self, client: HostClient, interrupts: Interrupts) -> None:
        self._client = client
        self._interrupts = interrupts
        self.count = 0

    def ask(self, request: Request) -> Ticket:
        """Enqueues one request."""
        self._interrupts.check()
        self.count += 1
        return self._client.enqueue(request, host=HOST)

    def await_(self, ticket: Ticket) -> Result:
        """The request's result; a failure ends the play."""
        result = ticket.wait(timeout_s=WAIT_S)
        request = ticket.request
        say_result("Ping" if isinstance(request, Ping) else describe(request), result)
        if isinstance(result, Failed):
            raise PlayError(f"{result}\n(worker's log: {sandbox.BASE}/worker.log)")
        return result

    def all(self, *requests: Request) -> None:
        """Enqueues all, then awaits all: requests that do not conflict run in parallel."""
        for ticket in [self.ask(request) for request in requests]:
            self.await_(ticket)


def of(kind: type[InstanceRequest], ref: InstanceRef) -> InstanceRequest:
    """A request of that kind about the instance."""
    value = {
        "op": kind.__name__,
        "tenant_id": ref.tenant_id,
        "pool_id": ref.pool_id,
        "instance_id": ref.instance_id,
    }
    return msgspec.convert(value, kind)


def _until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        try:
            if true():
                return
        except FileNotFoundError:
            pass  # the file was removed after it was listed
        time.sleep(0.002)
    raise PlayError(f"no sleep wrote its image within {WAIT_S:.0f} s")


def _keep(box: Sandbox) -> None:
    box.start_dashboard()
    say(f"dashboard  http://127.0.0.1:{box.dashboard.getsockname()[1]}/")
    say(f"metrics    http://127.0.0.1:{box.metrics.getsockname()[1]}/metrics")
    say(f"redis      redis-cli -s {sandbox.BASE}/redis.sock")
    say("Ctrl-C removes everything")
    try:
        signal.pause()
    except KeyboardInterrupt:
        say("removing everything")
