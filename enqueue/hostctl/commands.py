"""What each command of hostctl does; true if all of it succeeded."""

from __future__ import annotations

import argparse
import time
from ipaddress import AddressValueError, IPv4Network, NetmaskValueError
from pathlib import Path
from typing import Any

from enqueue import requests, signing
from enqueue.client import HostClient, Ticket
from enqueue.conversation.listing import PENDING
from enqueue.errors import NotRetryable, QueueFull, UnknownRequest, WaitTimeout
from enqueue.hostctl import acl_files
from enqueue.hostctl.output import Printer
from enqueue.requests import Request, TenantId, TenantNet, bridge_name
from enqueue.results import Failed, Result
from enqueue.times import format_rq, parse_time

PROGRESS_S = 0.5
FOLLOW_S = 5.0
ALL = 10_000


class Unusable(Exception):
    """The command line cannot be carried out as it stands."""


def run(options: argparse.Namespace, client: HostClient, printer: Printer) -> bool:
    """Carries out any command but keygen.

    Raises:
        Unusable, EnqueueError: it cannot be done.
    """
    if not options.host:
        raise Unusable("which host? give --host H or set HOSTCTL_HOST")
    match options.command:
        case "wait":
            ticket = client.ticket(options.request_id, host=options.host)
            return _awaited(ticket, options, printer)
        case "retry":
            return _retry(options, client, printer)
        case "cancel":
            return _cancel(options, client, printer)
        case "jobs":
            states = options.states or PENDING
            printer.jobs(client.jobs(host=options.host, states=states, limit=options.limit))
            return True
        case "events":
            return _events(options, client, printer)
        case _:
            return _ask(options, client, printer)


def keygen(options: argparse.Namespace, printer: Printer) -> None:
    """A new key pair is in the two files.

    Raises:
        Unusable: a file is there already or cannot be written, or the id is no label.
    """
    private, public = Path(options.private), Path(options.public)
    try:
        signing.generate(options.key_id, private=private, public=public)
    except (OSError, ValueError) as error:
        raise Unusable(str(error)) from error
    printer.document(
        {"key_id": options.key_id, "private": str(private), "public": str(public)},
        f"{options.key_id}: {private} signs; copy {public} to the host's keys_dir as "
        f"{options.key_id}.json",
    )


def acl(options: argparse.Namespace, printer: Printer) -> None:
    """An ACL file for these hosts is in the directory, and each user's password beside it.

    Raises:
        Unusable: a file cannot be written, or a host's name is none.
    """
    try:
        path = acl_files.write(Path(options.directory), options.hosts)
    except (OSError, ValueError) as error:
        raise Unusable(str(error)) from error
    printer.document(
        {"users": str(path), "hosts": options.hosts},
        f"{path}: name it as `aclfile` in redis.conf; each user's password is beside it",
    )


def _ask(options: argparse.Namespace, client: HostClient, printer: Printer) -> bool:
    ticket = client.enqueue(
        _request(options),
        host=options.host,
        request_id=options.request_id,
        not_after=options.not_after,
    )
    if options.wait or options.command == "ping":
        return _awaited(ticket, options, printer)
    printer.enqueued(ticket)
    return True


def _request(options: argparse.Namespace) -> Request:
    if options.command == "ping":
        return requests.Ping()
    if options.command in ("net-up", "net-down"):
        kind = requests.SetupNetwork if options.command == "net-up" else requests.TeardownNetwork
        return kind(tenant_id=TenantId(options.tenant), net=_net(options))
    ids: dict[str, Any] = {
        "tenant_id": options.tenant,
        "pool_id": options.pool,
        "instance_id": options.instance,
    }
    match options.command:
        case "start":
            return requests.StartInstance(**ids)
        case "stop":
            return requests.StopInstance(**ids)
        case "wake":
            return requests.WakeInstance(**ids)
        case "sleep":
            return requests.SleepInstance(
                **ids, force=options.force, drain_timeout_secs=options.drain_timeout
            )
        case "destroy":
            return requests.DestroyInstance(**ids, wipe_volumes=options.wipe_volumes)
        case unknown:
            raise Unusable(f"no command {unknown}")


def _net(options: argparse.Namespace) -> TenantNet:
    try:
        gateway = IPv4Network(options.subnet).network_address + 1
        return TenantNet(
            tenant_net_id=options.net_id,
            ipv4_subnet=options.subnet,
            gateway_ip=str(gateway),
            bridge_name=bridge_name(options.net_id),
        )
    except (AddressValueError, NetmaskValueError, ValueError) as error:
        raise Unusable(f"--subnet: {error}") from None


def _retry(options: argparse.Namespace, client: HostClient, printer: Printer) -> bool:
    if bool(options.request_ids) == bool(options.op):
        raise Unusable("retry what? give request ids, or --op for all failed requests of a kind")
    if options.request_ids and options.since:
        raise Unusable("--since goes with --op; given ids are retried whenever they failed")
    request_ids = options.request_ids or _dead_letters(options, client)
    if not request_ids:
        printer.message(f"no failed {options.op} on {options.host}")
    if options.dry_run:
        for request_id in request_ids:
            printer.would_retry(request_id, options.host)
        return True
    retried = [_retried(id_, options, client, printer) for id_ in request_ids]
    outcomes = [ticket is not None for ticket in retried]
    if options.wait:
        outcomes += [_awaited(ticket, options, printer) for ticket in retried if ticket]
    return all(outcomes)


def _retried(
    request_id: str, options: argparse.Namespace, client: HostClient, printer: Printer
) -> Ticket | None:
    try:
        ticket = client.ticket(request_id, host=options.host).retry()
    except (NotRetryable, UnknownRequest, QueueFull) as error:
        printer.error(error)
        return None
    if not options.wait:
        printer.enqueued(ticket)
    return ticket


def _dead_letters(options: argparse.Namespace, client: HostClient) -> list[str]:
    try:
        since = format_rq(parse_time(options.since)) if options.since else ""
    except ValueError as error:
        raise Unusable(f"--since: {error}") from None
    failed = client.jobs(host=options.host, states=["failed"], limit=ALL)
    return [job.request_id for job in failed if job.op == options.op and job.ended_at >= since]


def _cancel(options: argparse.Namespace, client: HostClient, printer: Printer) -> bool:
    if bool(options.request_ids) == bool(options.op):
        raise Unusable("cancel what? give request ids, or --op for all waiting requests of a kind")
    request_ids = options.request_ids or _waiting(options, client)
    if not request_ids:
        printer.message(f"no waiting {options.op} on {options.host}")
    outcomes = []
    for request_id in request_ids:
        outcomes.append(client.cancel(request_id, host=options.host))
        printer.cancelled(request_id, options.host, outcomes[-1])
    return all(outcome == "cancelled" for outcome in outcomes)


def _waiting(options: argparse.Namespace, client: HostClient) -> list[str]:
    taken = client.jobs(host=options.host, states=["queued", "deferred"], limit=ALL)
    return [job.request_id for job in taken if job.op == options.op and job.status == "queued"]


def _awaited(ticket: Ticket, options: argparse.Namespace, printer: Printer) -> bool:
    try:
        result = _result(ticket, options.timeout, printer)
    except KeyboardInterrupt:
        printer.message(
            f"request {ticket.request_id} goes on; to wait for it: "
            f"hostctl wait {ticket.request_id} --host {ticket.host}"
        )
        raise
    printer.result(ticket, result)
    return not isinstance(result, Failed)


def _result(ticket: Ticket, timeout_s: float, printer: Printer) -> Result:
    if not printer.shows_progress:
        return ticket.wait(timeout_s)
    began = time.monotonic()
    while True:
        waited_s = time.monotonic() - began
        printer.progress(ticket, waited_s)
        try:
            return ticket.wait(min(PROGRESS_S, timeout_s - waited_s))
        except WaitTimeout:
            if time.monotonic() - began >= timeout_s:
                raise
        finally:
            printer.end_progress()


def _events(options: argparse.Namespace, client: HostClient, printer: Printer) -> bool:
    after = options.since
    if after == "now":
        after = next((event.id for event in client.events(host=options.host, after="now")), "0")
    wait_s = FOLLOW_S if options.follow else 0.0
    while True:
        events = client.events(host=options.host, after=after, wait_s=wait_s)
        for event in events:
            printer.event(event)
            after = event.id
        if not events and not options.follow:
            return True
