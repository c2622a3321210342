"""AsyncHostClient against a real Redis; a fake consumer answers."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import redis.asyncio

from enqueue import AsyncHostClient, keys
from enqueue.conversation import operations
from enqueue.errors import NotRetryable, QueueUnavailable, RequestIdReused, WaitTimeout
from enqueue.requests import Ping
from tests.fixtures.fake_consumer import DONE, FAILED, FakeConsumer
from tests.fixtures.proxy import Proxy
from tests.fixtures.redis import RedisServer

pytestmark = pytest.mark.redis

HOST = "host-a"
QUEUE = keys.HostKeys(HOST).queue
BOUND_S = 30.0


def test_a_request_is_stored_pushed_and_answered(
    redis_server: RedisServer, fake_consumer: FakeConsumer
) -> None:
    async def story() -> None:
        async with AsyncHostClient(redis_server.url) as client:
            ticket = await client.enqueue(Ping(), host=HOST)
            waiter = asyncio.create_task(ticket.wait(BOUND_S))
            await asyncio.to_thread(fake_consumer.answer, FAILED)
            assert await waiter == FAILED
            again = await ticket.retry()
            await asyncio.to_thread(fake_consumer.answer, DONE)
            assert await again.wait(BOUND_S) == DONE
            assert await ticket.wait(0) == FAILED
            assert await again.status() == "finished"
            assert await again.cancel() == "ended"
            assert await client.cancel("no-such", host=HOST) == "unknown"
            with pytest.raises(NotRetryable, match="is finished"):
                await again.retry()
            other = await client.ticket(ticket.request_id, host=HOST)
            assert await other.wait(0) == DONE
            (job,) = await client.jobs(host=HOST, states=["finished"])
            assert job.request_id == ticket.request_id
            assert await client.events(host=HOST) == []

    asyncio.run(story())


def test_each_call_takes_one_round_trip(redis_proxy: Proxy, fake_consumer: FakeConsumer) -> None:
    async def story() -> None:
        async with AsyncHostClient(redis_proxy.url) as client:
            await client.enqueue(Ping(), host="warm-up")
            before = redis_proxy.round_trips
            ticket = await client.enqueue(Ping(), host=HOST)
            assert redis_proxy.round_trips - before == 1
            fake_consumer.answer(DONE)
            assert await ticket.wait(BOUND_S) == DONE
            assert redis_proxy.round_trips - before == 2
            await client.enqueue_many([Ping()] * 100, host=HOST)
            assert redis_proxy.round_trips - before == 3

    asyncio.run(story())


def test_one_id_enqueued_by_twenty_at_once_gives_one_job(redis_server: RedisServer) -> None:
    async def story() -> None:
        async with AsyncHostClient(redis_server.url) as client:
            calls = (client.enqueue(Ping(), host=HOST, request_id="same") for _ in range(20))
            tickets = await asyncio.gather(*calls)
        assert {ticket.job_id for ticket in tickets} == {"host-a_same"}

    asyncio.run(story())
    assert redis_server.client().lrange(QUEUE, 0, -1) == [b"host-a_same"]


def test_a_hundred_waiters_each_get_their_own_result(
    redis_server: RedisServer, fake_consumer: FakeConsumer
) -> None:
    async def story() -> None:
        async with AsyncHostClient(redis_server.url) as client:
            tickets = await client.enqueue_many([Ping()] * 100, host=HOST)
            waiters = [asyncio.create_task(ticket.wait(BOUND_S)) for ticket in tickets]
            await asyncio.to_thread(redis_server.await_blocked, 100)
            outcomes = [DONE if n % 2 else FAILED for n in range(100)]
            for outcome in outcomes:
                await asyncio.to_thread(fake_consumer.answer, outcome)
            assert await asyncio.gather(*waiters) == outcomes

    asyncio.run(story())


def test_a_cancelled_waiter_leaves_no_reply_to_the_next_caller(
    redis_server: RedisServer, fake_consumer: FakeConsumer
) -> None:
    async def story() -> None:
        async with AsyncHostClient(redis_server.url) as client:
            ticket = await client.enqueue(Ping(), host=HOST)
            waiter = asyncio.create_task(ticket.wait(BOUND_S))
            await asyncio.to_thread(redis_server.await_blocked)
            waiter.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiter
            assert await ticket.status() == "queued"
            fake_consumer.answer(DONE)
            assert await ticket.wait(BOUND_S) == DONE

    asyncio.run(story())


def test_lost_replies_say_that_the_request_may_be_stored(
    redis_proxy: Proxy, redis_server: RedisServer
) -> None:
    async def story() -> None:
        async with AsyncHostClient(redis_proxy.url) as client:
            await client.enqueue(Ping(), host="warm-up")
            redis_proxy.lose_replies(2)
            with pytest.raises(QueueUnavailable) as caught:
                await client.enqueue(Ping(), host=HOST, request_id="same")
            assert caught.value.may_be_stored
            await client.enqueue(Ping(), host=HOST, request_id="same")

    asyncio.run(story())
    assert redis_server.client().lrange(QUEUE, 0, -1) == [b"host-a_same"]


def test_nothing_is_stored_when_no_server_listens(tmp_path: Path) -> None:
    async def story() -> None:
        async with AsyncHostClient(f"unix://{tmp_path}/none.sock") as client:
            with pytest.raises(QueueUnavailable) as caught:
                await client.enqueue(Ping(), host=HOST)
            assert not caught.value.may_be_stored

    asyncio.run(story())


def test_a_redis_that_does_not_answer_is_abandoned_in_time(redis_server: RedisServer) -> None:
    async def story() -> None:
        async with AsyncHostClient(redis_server.url, timeout_s=0.3) as client:
            await client.enqueue(Ping(), host=HOST)
            redis_server.freeze()
            with pytest.raises(QueueUnavailable) as caught:
                await client.enqueue(Ping(), host=HOST)
            assert caught.value.may_be_stored
            redis_server.thaw()

    asyncio.run(story())


def test_a_waiter_survives_a_restart_and_sends_a_lost_job_again(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operations, "SLICE_S", 0.05)

    async def story() -> None:
        async with AsyncHostClient(redis_server.url) as client:
            ticket = await client.enqueue(Ping(), host=HOST)
            waiter = asyncio.create_task(ticket.wait(BOUND_S))
            await asyncio.to_thread(redis_server.await_blocked)
            await asyncio.to_thread(redis_server.restart)
            redis_server.client().flushall()
            host = FakeConsumer(redis_server.client(), HOST)
            await asyncio.to_thread(host.answer, DONE)
            assert await waiter == DONE

    asyncio.run(story())


def test_an_id_of_another_request_is_refused(redis_server: RedisServer) -> None:
    async def story() -> None:
        async with AsyncHostClient(redis_server.url) as client:
            await client.enqueue(Ping(), host=HOST, request_id="same")
            with pytest.raises(RequestIdReused):
                await client.enqueue(Ping(), host=HOST, request_id="same", issuer="other")
            with pytest.raises(WaitTimeout):
                await (await client.ticket("same", host=HOST)).wait(0)

    asyncio.run(story())


def test_a_redis_of_the_caller_stays_open(
    redis_server: RedisServer, fake_consumer: FakeConsumer
) -> None:
    async def story() -> None:
        given = redis.asyncio.Redis(unix_socket_path=str(redis_server.socket), protocol=3)
        async with given:
            async with AsyncHostClient(given) as client:
                ticket = await client.enqueue(Ping(), host=HOST)
                fake_consumer.answer(DONE)
                assert await ticket.wait(BOUND_S) == DONE
            assert await given.ping()

    asyncio.run(story())
