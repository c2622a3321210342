"""HostClient stores each request once, in a real Redis."""

from __future__ import annotations

import threading

import pytest

from enqueue import HostClient, keys
from enqueue.client import Ticket
from enqueue.conversation.job import RETENTION_S
from enqueue.errors import (
    BadRequest,
    QueueFull,
    RequestIdReused,
)
from enqueue.requests import (
    InstanceId,
    PoolId,
    Request,
    StartInstance,
    TenantId,
)
from tests.fixtures.fake_consumer import FAILED, FakeConsumer
from tests.fixtures.jobs import HOST, START, STOP, queued
from tests.fixtures.proxy import Proxy
from tests.fixtures.redis import RedisServer

pytestmark = pytest.mark.redis


def test_one_id_enqueued_by_twenty_at_once_gives_one_job(
    host_client: HostClient, redis_server: RedisServer
) -> None:
    barrier = threading.Barrier(20)
    tickets: list[Ticket] = []

    def enqueue() -> None:
        barrier.wait()
        tickets.append(host_client.enqueue(START, host=HOST, request_id="same"))

    threads = [threading.Thread(target=enqueue) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {ticket.job_id for ticket in tickets} == {"host-a_same"}
    assert len(tickets) == 20
    assert queued(redis_server) == [b"host-a_same"]


def test_an_id_twice_in_one_batch_is_one_job(
    host_client: HostClient, redis_server: RedisServer
) -> None:
    first, second = host_client.enqueue_many([(START, "same"), (START, "same")], host=HOST)
    assert first.job_id == second.job_id
    assert queued(redis_server) == [b"host-a_same"]


def test_an_id_of_another_request_is_refused_and_changes_nothing(
    host_client: HostClient, redis_server: RedisServer
) -> None:
    host_client.enqueue(START, host=HOST, request_id="same")
    before = redis_server.client().hgetall("rq:job:host-a_same")
    with pytest.raises(RequestIdReused, match="already names another request: StartInstance acme"):
        host_client.enqueue(STOP, host=HOST, request_id="same")
    assert redis_server.client().hgetall("rq:job:host-a_same") == before
    assert queued(redis_server) == [b"host-a_same"]


def test_an_id_of_another_issuer_is_refused(host_client: HostClient) -> None:
    host_client.enqueue(START, host=HOST, request_id="same", issuer="alice")
    with pytest.raises(RequestIdReused, match="issued by alice"):
        host_client.enqueue(START, host=HOST, request_id="same", issuer="bob")


def test_an_id_whose_stored_job_is_not_a_request_is_refused(
    host_client: HostClient, redis_server: RedisServer
) -> None:
    redis_server.client().hset("rq:job:host-a_same", mapping={"data": b"\x80poison"})
    with pytest.raises(RequestIdReused, match="already names another request"):
        host_client.enqueue(START, host=HOST, request_id="same")


def test_another_deadline_and_trace_are_the_same_request(host_client: HostClient) -> None:
    first = host_client.enqueue(START, host=HOST, request_id="same")
    second = host_client.enqueue(
        START, host=HOST, request_id="same", not_after=60, trace="00-ab-cd-01"
    )
    assert second.job_id == first.job_id


def test_a_duplicate_of_an_ended_request_returns_what_is_stored(
    proxied_client: HostClient,
    redis_proxy: Proxy,
    redis_server: RedisServer,
    fake_consumer: FakeConsumer,
) -> None:
    proxied_client.enqueue(START, host=HOST, request_id="same")
    fake_consumer.answer(FAILED)
    before = redis_proxy.round_trips
    assert proxied_client.enqueue(START, host=HOST, request_id="same").wait(0) == FAILED
    assert redis_proxy.round_trips - before == 1
    assert queued(redis_server) == []


def test_a_full_queue_stores_no_part_of_a_batch(redis_server: RedisServer) -> None:
    with HostClient(redis_server.url, queue_limit=3) as client:
        client.enqueue_many([START, START], host=HOST)
        with pytest.raises(QueueFull, match="holds 2 requests, its limit is 3"):
            client.enqueue_many([START, START], host=HOST)
    assert len(queued(redis_server)) == 2


def test_running_requests_count_towards_the_limit(
    redis_server: RedisServer, fake_consumer: FakeConsumer
) -> None:
    with HostClient(redis_server.url, queue_limit=1) as client:
        client.enqueue(START, host=HOST)
        fake_consumer.take()
        with pytest.raises(QueueFull):
            client.enqueue(START, host=HOST)


def test_a_full_queue_still_returns_the_ticket_of_a_stored_request(
    redis_server: RedisServer,
) -> None:
    with HostClient(redis_server.url, queue_limit=1) as client:
        client.enqueue(START, host=HOST, request_id="same")
        assert client.enqueue(START, host=HOST, request_id="same").status() == "queued"


def test_each_host_has_its_own_queue(redis_server: RedisServer) -> None:
    with HostClient(redis_server.url, queue_limit=1) as client:
        client.enqueue(START, host=HOST)
        assert client.enqueue(START, host="host-b").job_id.startswith("host-b_")


def test_a_host_in_the_map_has_its_own_redis(redis_server: RedisServer) -> None:
    elsewhere = redis_server.url.replace("db=0", "db=1")
    with HostClient(redis_server.url, hosts={"host-b": elsewhere}) as client:
        ticket = client.enqueue(START, host="host-b")
        assert ticket.status() == "queued"
    assert redis_server.client().dbsize() == 0
    assert redis_server.client(db=1).exists(keys.job(ticket.job_id)) == 1


@pytest.mark.parametrize(
    ("request_", "host", "request_id", "message"),
    [
        (START, "Host_A", None, "host: 'Host_A' is wrong; it must be 1 to 63 of a-z"),
        (START, HOST, "a b", "request_id: 'a b' is wrong"),
        (
            StartInstance(
                tenant_id=TenantId("acme"), pool_id=PoolId("p"), instance_id=InstanceId("i-1")
            ),
            HOST,
            None,
            "instance_id: 'i-1' is wrong; it must be 'i-' and 8 of",
        ),
    ],
)
def test_a_bad_request_is_named_and_not_sent(
    redis_server: RedisServer, request_: Request, host: str, request_id: str | None, message: str
) -> None:
    with HostClient(redis_server.url) as client, pytest.raises(BadRequest, match=message):
        client.enqueue(request_, host=host, request_id=request_id)
    assert redis_server.client().dbsize() == 0


def test_one_bad_request_in_a_batch_stops_the_whole_batch(
    host_client: HostClient, redis_server: RedisServer
) -> None:
    with pytest.raises(BadRequest, match="request_id"):
        host_client.enqueue_many([START, (STOP, "not an id")], host=HOST)
    assert redis_server.client().dbsize() == 0


def test_a_job_outlives_its_deadline_by_a_week(
    host_client: HostClient, redis_server: RedisServer
) -> None:
    ticket = host_client.enqueue(START, host=HOST, not_after=3600)
    left_s = redis_server.client().ttl(keys.job(ticket.job_id))
    assert RETENTION_S + 3500 < left_s <= RETENTION_S + 3600


def test_an_empty_batch_sends_nothing(host_client: HostClient) -> None:
    assert host_client.enqueue_many([], host=HOST) == []
