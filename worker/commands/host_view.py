"""The parts of a host that commands read: the host and its ledger, but no queue."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from worker.config import Config
from worker.errors import StartupError
from worker.ledger.ledger import Ledger
from worker.ledger.readonly import holds_requests
from worker.plans.settings import Settings
from worker.ports import Host
from worker.scheduling.locks import Locks
from worker.wiring import build_host, build_settings


@dataclass(frozen=True, slots=True)
class HostView:
    """An operator's view of this host."""

    config: Config
    settings: Settings
    host: Host
    ledger: Ledger
    locks: Locks


@contextmanager
def open_host(config: Config) -> Iterator[HostView]:
    """The host of this configuration, beside a hostd that may be running.

    Raises:
        StartupError: hostd has never run here, or a part cannot be opened.
    """
    if not holds_requests(config.paths.ledger):
        raise StartupError(
            f"there is no ledger at {config.paths.ledger}: hostd has not run here with this "
            "configuration; give --config, or start `hostd run`"
        )
    with ExitStack() as opened:
        ledger = Ledger.open(config.paths.ledger)
        opened.callback(ledger.close)
        yield HostView(
            config=config,
            settings=build_settings(config),
            host=build_host(config, opened),
            ledger=ledger,
            locks=Locks(config.paths.runtime / "lock", timeout_s=1.0),
        )
