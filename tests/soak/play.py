"""The soak: `python -m tests.soak.play --seconds 600 --instances 50`.

Hosts, each in a network namespace, on one Redis; clients, each a process; and a kill every few
seconds.  Exit code 1 if anything was lost, done twice, done out of order, or left behind.
"""

from __future__ import annotations

import argparse
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from enqueue import HostClient
from enqueue.requests import DestroyInstance, Request
from enqueue.results import Done
from tests.fixtures.worker import ids
from tests.soak.client import Plan, Subject
from tests.soak.findings import Findings, History, by_instance, evaluate
from tests.soak.hosts import SETUP, TEARDOWN, DurableRedis, SoakHost
from tests.soak.logs import Log, lines

QUIET_S: Final = 120.0  # how long an acknowledged request may take after the last kill
GRACE_S: Final = 20.0
DESCRIPTORS: Final = 6  # more than those of a new hostd: pooled connections only
SHOWN: Final = 20
VICTIMS: Final = ("worker", "worker", "Redis", "VMM", "VMM")


@dataclass(frozen=True)
class Scale:
    """The size of a run; `pause_s` is the mean time between two requests about an instance."""

    seconds: float = 60.0
    hosts: int = 4
    instances: int = 8
    clients: int = 4
    pause_s: float = 2.0
    in_flight: int = 3
    kill_every_s: float = 3.0
    seed: int = 1


class Soak:
    """One run; `directory` gets the logs."""

    def __init__(self, scale: Scale, directory: Path, stack: ExitStack) -> None:
        self.scale, self.directory = scale, directory
        self.chance = random.Random(scale.seed)  # noqa: S311  a game
        self.killed: Counter[str] = Counter()
        self.kills = Log(directory / "kills")
        stack.callback(self.kills.close)
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hostd-soak-")))
        self.redis = DurableRedis(place)
        self.redis.start()
        stack.callback(self.redis.stop)
        self.stack = stack
        self.hosts: list[SoakHost] = []
        for number in range(scale.hosts):
            host = SoakHost(self.redis, f"soak-{number}", scale.instances)
            self.hosts.append(stack.enter_context(host))
            host.start()

    def run(self) -> Findings:
        """Runs clients and kills, evaluates the logs, destroys everything, searches for traces."""
        for host in self.hosts:
            self._done(host, [SETUP])
        clients = [self._client(number) for number in range(self.scale.clients)]
        self._kill_until(time.monotonic() + self.scale.seconds, clients)
        for client in clients:
            client.wait(QUIET_S + GRACE_S)
        logs = [lines(self._log(number)) for number in range(self.scale.clients)]
        findings = evaluate(logs, self._histories())
        findings.leaks += self._leaks()
        return findings

    # ------------------------------------------------------------ clients and kills

    def _client(self, number: int) -> subprocess.Popen[bytes]:
        mine = [
            Subject(host.name, {key: str(value) for key, value in ids(ref).items()})
            for host in self.hosts
            for n, ref in enumerate(host.refs)
            if n % self.scale.clients == number
        ]
        until_s = time.monotonic() + self.scale.seconds
        plan = Plan(
            seed=self.scale.seed * 1000 + number, until_s=until_s,
            quiet_until_s=until_s + QUIET_S, pause_s=self.scale.pause_s,
            in_flight=self.scale.in_flight, subjects=mine,
        )  # fmt: skip
        path = self.directory / f"plan-{number}"
        path.write_bytes(msgspec.json.encode(plan))
        command = [sys.executable, "-m", "tests.soak.client"]
        client = subprocess.Popen([*command, self.redis.url, str(self._log(number)), str(path)])
        self.stack.callback(_end, client)
        return client

    def _log(self, number: int) -> Path:
        return self.directory / f"client-{number}"

    def _kill_until(self, until_s: float, clients: list[subprocess.Popen[bytes]]) -> None:
        while (left_s := until_s - time.monotonic()) > 0:
            pause_s = self.chance.uniform(0, 2 * self.scale.kill_every_s)
            try:
                clients[0].wait(min(pause_s, left_s))
            except subprocess.TimeoutExpired:
                self._kill(self.chance.choice(VICTIMS))
            else:
                return

    def _kill(self, victim: str) -> None:
        host = self.chance.choice(self.hosts)
        name: str | None = host.name
        match victim:
            case "worker":
                host.restart()
            case "Redis":
                self.redis.restart()
            case _:
                name = host.kill_vmm(self.chance)
        if name is not None:
            self.killed[victim] += 1
            self.kills.write("killed", victim=victim, name=name)

    # ------------------------------------------------------------ the machine

    def _histories(self) -> dict[str, History]:
        journals = by_instance(lines(host.effects) for host in self.hosts)
        kills = Counter(
            line["name"] for line in lines(self.directory / "kills") if line["victim"] == "VMM"
        )
        return {
            ref.instance_id: History(
                journal=journals.get(ref.instance_id, []),
                kills=kills[ref.instance_id],
                status=host.status(ref.instance_id),
                lives=host.lives(ref.instance_id),
            )
            for host in self.hosts
            for ref in host.refs
        }

    def _leaks(self) -> list[str]:
        """Traces after all is destroyed, and descriptors that hostd has and a new one has not."""
        left = []
        for host in self.hosts:
            self._done(host, [DestroyInstance(**ids(ref)) for ref in host.refs])
            self._done(host, [TEARDOWN])
            left += host.leftovers()
            open_before = host.descriptors()
            host.restart()
            more = open_before - host.descriptors()
            left += [f"{host.name}: {more} descriptors"] if more > DESCRIPTORS else []
        return left

    def _done(self, host: SoakHost, requests: list[Request]) -> None:
        with HostClient(self.redis.url) as client:
            for ticket in client.enqueue_many(requests, host=host.name):
                result = ticket.wait(QUIET_S)
                assert isinstance(result, Done), result


def _end(client: subprocess.Popen[bytes]) -> None:
    client.kill()
    client.wait()


def summary(scale: Scale, findings: Findings, killed: Counter[str]) -> str:
    """One line with all numbers."""
    instances = scale.hosts * scale.instances
    return (
        f"soak: {scale.seconds:.0f} s, {scale.hosts} hosts, {instances} instances, "
        f"{scale.clients} clients: {findings.acknowledged} requests acknowledged, "
        f"{findings.answered} answered, {len(findings.lost)} lost, "
        f"{len(findings.double)} double effects, {len(findings.disorder)} out of order, "
        f"{len(findings.leaks)} leaks; killed: {killed['worker']} workers, "
        f"{killed['Redis']} Redis, {killed['VMM']} VMMs"
    )


def run_soak(scale: Scale, directory: Path) -> Findings:
    """Runs the soak, prints its summary, and leaves the logs in the directory."""
    with ExitStack() as stack:
        soak = Soak(scale, directory, stack)
        findings = soak.run()
        print(summary(scale, findings, soak.killed))
        print("answers:", ", ".join(f"{n} {what}" for what, n in findings.answers.most_common()))
        return findings


def main() -> int:
    """Runs the soak of the command line; the exit code."""
    options: Any = _options()
    directory = Path(tempfile.mkdtemp(prefix="hostd-soak-logs-"))
    scale = Scale(**vars(options))
    findings = run_soak(scale, directory)
    for fault in findings.faults()[:SHOWN]:
        print(f"fault: {fault}")
    if findings.faults():
        print(f"logs: {directory}")
        return 1
    shutil.rmtree(directory)
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.soak.play", description=__doc__)
    for name, default in vars(Scale()).items():
        option = f"--{name.replace('_', '-')}"
        parser.add_argument(option, type=type(default), default=default)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
