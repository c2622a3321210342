"""Redis dies, loses data, refuses: nothing acknowledged is lost, nothing is done twice."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from enqueue.results import Failed
from tests.fixtures.asking import done
from tests.fixtures.effects import down
from tests.fixtures.host_in_every_state import SETTINGS, HostInEveryState
from tests.fixtures.redis import RedisServer
from tests.fixtures.worker import HOST, HostdProcess, eventually

pytestmark = [pytest.mark.redis, pytest.mark.root]

SOON_S = 15.0  # the promise is 2 s, which `make bench` measures
TRIES = 10


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    """A private Redis whose every acknowledged write is on the disk."""
    if shutil.which("redis-server") is None:
        pytest.skip("no redis-server here")
    server = RedisServer(tmp_path)
    server.start()
    server.client().config_set("appendfsync", "always")
    yield server
    server.thaw()
    server.close_clients()
    server.stop()


@pytest.fixture
def host(server: RedisServer) -> Iterator[HostInEveryState]:
    """A running host on that Redis."""
    with HostdProcess(server, SETTINGS) as hostd:
        hostd.start()
        with HostInEveryState(hostd) as host:
            yield host


@contextmanager
def killed(server: RedisServer) -> Iterator[None]:
    """Kills Redis and starts it again on its files."""
    server.stop()
    yield
    server.start()


@contextmanager
def away_for_long(server: RedisServer) -> Iterator[None]:
    """Stops Redis until hostd has tried several times."""
    server.stop()
    server.socket.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as deaf:
        deaf.bind(str(server.socket))
        deaf.listen()
        deaf.settimeout(SOON_S)
        yield
        for _ in range(TRIES):
            deaf.accept()[0].close()
    server.start()


@contextmanager
def frozen(server: RedisServer) -> Iterator[None]:
    """Keeps the connections open and answers nothing."""
    server.freeze()
    yield
    server.thaw()


@contextmanager
def out_of_memory(server: RedisServer) -> Iterator[None]:
    """Refuses every write."""
    server.client().config_set("maxmemory", 1)
    yield
    server.client().config_set("maxmemory", 0)


@contextmanager
def read_only(server: RedisServer) -> Iterator[None]:
    """Makes it a replica of a missing master."""
    server.client().replicaof("127.0.0.1", "1")
    yield
    server.client().replicaof("NO", "ONE")


@contextmanager
def replaced_by_an_empty_one(server: RedisServer) -> Iterator[None]:
    """Replaces it by another server at the same address."""
    server.stop()
    shutil.rmtree(server.directory / "appendonlydir")
    yield
    server.start()


@contextmanager
def flushed(server: RedisServer) -> Iterator[None]:
    """Empties it with FLUSHALL."""
    server.client().flushall()
    yield


Fault = Callable[[RedisServer], AbstractContextManager[None]]


@pytest.mark.parametrize("fault", [killed, away_for_long, frozen, out_of_memory, read_only])
def test_nothing_is_lost_or_done_twice(
    host: HostInEveryState, server: RedisServer, fault: Fault
) -> None:
    host.fill()
    with fault(server):
        host.release()
    assert tells_within_s(host) < SOON_S
    assert host.lost() == []
    host.assert_all_ended_once()


@pytest.mark.parametrize("fault", [replaced_by_an_empty_one, flushed])
def test_an_emptied_redis_loses_only_untaken_requests_without_a_waiting_caller(
    host: HostInEveryState, server: RedisServer, fault: Fault
) -> None:
    host.fill()
    with fault(server):
        host.release()
    assert tells_within_s(host) < SOON_S
    eventually(lambda: host.lost() == ["up-26"], "those who wait have asked again")
    host.assert_all_ended_once()


def test_a_lost_tail_loses_only_untaken_requests_without_a_waiting_caller(
    host: HostInEveryState, server: RedisServer, tmp_path: Path
) -> None:
    written, earlier = server.directory / "appendonlydir", tmp_path / "earlier"
    shutil.copytree(written, earlier)
    host.fill()
    server.stop()
    host.release()
    shutil.rmtree(written)
    shutil.copytree(earlier, written)
    server.start()
    assert tells_within_s(host) < SOON_S
    eventually(lambda: host.lost() == ["up-26"], "those who wait have asked again")
    host.assert_all_ended_once()


def test_an_id_still_names_its_request_after_a_flush(
    host: HostInEveryState, server: RedisServer
) -> None:
    server.client().flushall()
    result = host.client.enqueue(down(20), host=HOST, request_id="up-20").wait(SOON_S)
    assert isinstance(result, Failed)
    assert result.code == "rejected/request_id_reused"
    server.client().flushall()
    again = done(host.ask("up-20"))
    assert again.replayed
    assert host.effects.of(20) == (1, 0)


def tells_within_s(host: HostInEveryState) -> float:
    """Seconds until pending results are published; the host then answers new requests."""
    took_s = host.works_after_s()
    print(f"hostd went on {took_s:.2f} s after Redis was back")
    eventually(lambda: host.hostd.state_of("up-24") == "published", "its result is published")
    return took_s
