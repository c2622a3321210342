"""One agentd: sends requests about each of its instances, several at a time, and logs everything.

`python -m tests.soak.client REDIS LOG PLAN`; the plan is a file (`Plan`).
"""

from __future__ import annotations

import asyncio
import random
import sys
import time
from pathlib import Path
from typing import Any

import msgspec

from enqueue.aio import AsyncHostClient, AsyncTicket
from enqueue.conversation.job import new_request_id
from enqueue.errors import QueueFull, QueueUnavailable, WaitTimeout
from enqueue.requests import (
    InstanceRequest,
    SleepInstance,
    StartInstance,
    StopInstance,
    WakeInstance,
)
from tests.soak.logs import Log

AGAIN_S = 0.2
LOOK_S = 10.0
KINDS: tuple[type[InstanceRequest], ...] = (
    StartInstance, StartInstance, StartInstance, SleepInstance, SleepInstance, SleepInstance,
    SleepInstance, WakeInstance, WakeInstance, WakeInstance, StopInstance,
)  # fmt: skip


class Subject(msgspec.Struct):
    """An instance and its host."""

    host: str
    ids: dict[str, str]


class Plan(msgspec.Struct):
    """The work of one client: it sends until `until_s` and awaits results until `quiet_until_s`.

    Times are on the machine's monotonic clock.  `pause_s` is the mean time between two requests
    about one instance, `in_flight` the most that may be unanswered.
    """

    seed: int
    until_s: float
    quiet_until_s: float
    pause_s: float
    in_flight: int
    subjects: list[Subject]


async def play(url: str, log: Log, plan: Plan) -> None:
    """Sends requests until the plan ends; returns when all have results, or time is over."""
    async with AsyncHostClient(url) as client, asyncio.TaskGroup() as group:
        for number, subject in enumerate(plan.subjects):
            chance = random.Random(f"{plan.seed}/{number}")  # noqa: S311  a game
            group.create_task(Player(client, log, plan, subject, chance).play())


class Player:
    """The requests about one instance, in order."""

    def __init__(
        self,
        client: AsyncHostClient,
        log: Log,
        plan: Plan,
        subject: Subject,
        chance: random.Random,
    ) -> None:
        self._client, self._log, self._plan = client, log, plan
        self._subject, self._chance = subject, chance
        self._free = asyncio.Semaphore(plan.in_flight)

    async def play(self) -> None:
        """Sends until the time is over; returns when all have results."""
        async with asyncio.TaskGroup() as group:
            await self._pause()
            while time.monotonic() < self._plan.until_s:
                await self._free.acquire()
                ticket = await self._acknowledged(self._chance.choice(KINDS))
                group.create_task(self._answered(ticket))
                await self._pause()

    async def _pause(self) -> None:
        await asyncio.sleep(self._chance.uniform(0, 2 * self._plan.pause_s))

    async def _acknowledged(self, kind: type[InstanceRequest]) -> AsyncTicket:
        """Sends a request until it is acknowledged; only then the next, which fixes their order."""
        request: Any = msgspec.convert({"op": kind.__name__, **self._subject.ids}, kind)
        request_id = new_request_id(time.time_ns() // 1_000_000)
        facts = {"id": request_id, "instance": self._subject.ids["instance_id"]}
        self._log.write("sent", op=kind.__name__, **facts)
        while True:
            try:
                ticket = await self._client.enqueue(
                    request, host=self._subject.host, request_id=request_id
                )
            except (QueueUnavailable, QueueFull):
                await asyncio.sleep(AGAIN_S)
            else:
                self._log.write("acknowledged", **facts)
                return ticket

    async def _answered(self, ticket: AsyncTicket) -> None:
        while time.monotonic() < self._plan.quiet_until_s:
            try:
                result = await ticket.wait(LOOK_S)
            except WaitTimeout:
                continue
            except QueueUnavailable:
                await asyncio.sleep(AGAIN_S)
            else:
                value = msgspec.to_builtins(result)
                self._log.write("answered", id=ticket.request_id, result=value)
                break
        self._free.release()


def main() -> None:
    """Runs the client of the command line."""
    url, log, plan = sys.argv[1:]
    decoded = msgspec.json.decode(Path(plan).read_bytes(), type=Plan)
    asyncio.run(play(url, Log(Path(log)), decoded))


if __name__ == "__main__":
    main()
