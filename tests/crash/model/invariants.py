"""What must be true on a host whenever hostd works on no request of an instance."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise

import msgspec

from enqueue.results import Done, Failed, Result
from tests.crash.model.model_host import ModelHost
from worker.model.names import InstanceRef
from worker.ports import Tap

FINAL_CLASSES = ("rejected", "lost")
FINAL_CODES = ("conflict/superseded", "conflict/overtaken")


def faults(host: ModelHost) -> Iterator[str]:
    """All violations, each as a sentence."""
    yield from (f"out of order: {jumped}" for jumped in host.history.jumped)
    yield from _twice(host)
    yield from _changed_answers(host)
    busy, _ = host.ledger.requests.busy()
    for ref in host.records.docs:
        if ref.instance_id not in busy:
            yield from (f"{ref}: {fault}" for fault in _of(ref, host))


def _twice(host: ModelHost) -> Iterator[str]:
    """Runs that booted their guest again although the first one did not exit."""
    for ref, boots in host.history.boots.items():
        for before, after in pairwise(boots):
            if before is not None and before == after:
                yield f"{ref} was booted twice by {after}"


def _changed_answers(host: ModelHost) -> Iterator[str]:
    for job, results in host.published.items():
        answers = [result for result in results if not _is_reuse(result)]
        for first, then in pairwise(answers):
            if _is_final(first) and _plain(first) != _plain(then):
                yield f"{job} was told {first}, then {then}"


def _is_final(result: Result) -> bool:
    if not isinstance(result, Failed):
        return True
    return result.failure_class in FINAL_CLASSES or result.code in FINAL_CODES


def _is_reuse(result: Result) -> bool:
    return isinstance(result, Failed) and result.code == "rejected/request_id_reused"


def _plain(result: Result) -> Result:
    assert isinstance(result, Done | Failed)
    return msgspec.structs.replace(result, replayed=False)


def _of(ref: InstanceRef, host: ModelHost) -> Iterator[str]:
    status = json.loads(host.records.docs[ref])["status"]
    up = status == "running"
    if (image := _image(ref, host)) != (status == "sleeping"):
        yield f"{status}, and {'an' if image else 'no'} image to wake"
    if up != host.runs(ref):
        yield f"{status}, and its guest is {host.guest(ref)}"
    for thing, count in _parts(ref, host).items():
        if count != (1 if up else 0):
            yield f"{status}, and it has {count} {thing}"
    yield from _record(ref, status, host)
    yield from _events(ref, status, host)


def _image(ref: InstanceRef, host: ModelHost) -> bool:
    """Whether an image exists, and nothing else."""
    generation = host.images.published.get(ref)
    if generation is None:
        return host.images.has_files(ref)
    return not generation.consumed and ref not in host.images.leftovers()


def _parts(ref: InstanceRef, host: ModelHost) -> Counter[str]:
    """The resources of which a running guest has one each."""
    mark = f"hostd:{ref.instance_id}"
    taps = [d for d in host.links.devices.values() if isinstance(d, Tap) and d.owner_tag == mark]
    held = [tap.name for tap in taps if tap.name in host.firewall.guest_rules]
    quotas = [key for kind, key, _ in host.reservations() if kind == "quota"]
    return Counter({
        "TAPs": len(taps),
        "anti-spoofing rules": len(held),
        "control groups": int(ref.instance_id in host.cgroups.groups),
        "jails": int(host.vmm.jail_exists(ref)),
        "secrets disks": int(ref.instance_id in host.disks.secrets()),
        "shares of quota": quotas.count(ref.instance_id),
    })  # fmt: skip


def _record(ref: InstanceRef, status: str, host: ModelHost) -> Iterator[str]:
    """Where the ledger disagrees with instance.json or, if nothing came since, the last result."""
    known = host.ledger.instances.status(ref.instance_id)
    recreated = known == "destroyed" and status == "created"  # agentd used the id again
    if known is not None and known != status and not recreated:
        yield f"{status}, and {known} in the ledger"
    if ref.instance_id in host.history.disturbed:
        return
    for entry in host.ledger.requests.history(ref.instance_id, limit=1):
        if isinstance(entry.result, Done) and entry.result.state != status:
            yield f"{status}, and {entry.request_id} has left it {entry.result.state}"


def _events(ref: InstanceRef, status: str, host: ModelHost) -> Iterator[str]:
    """Events whose statuses leave a gap, or do not end at the current one."""
    numbered = dict([*host.events, *host.ledger.outbox.unpublished()])
    news = [json.loads(numbered[number]) for number in sorted(numbered)]
    mine = [e for e in news if e["event"] == "instance" and e["instance_id"] == ref.instance_id]
    told = "created"
    for event in mine:
        # None: hostd never published it; `created`: agentd used the id again.
        first = event["before"] in (None, "created") and told in ("created", "destroyed")
        if event["before"] != told and not first:
            yield f"an event says it was {event['before']}, the one before that it was {told}"
        told = event["after"]
    if told != status and status != "created":
        yield f"{status}, and by the last event {told}"
