"""Tickets wait, retry and are found by id, in a known number of round trips."""

from __future__ import annotations

import pytest

from enqueue import HostClient, keys
from enqueue.conversation.job import RETENTION_S
from enqueue.conversation.scripts import RETRY
from enqueue.errors import (
    NotRetryable,
    UnknownRequest,
    WaitTimeout,
)
from enqueue.requests import (
    Ping,
)
from tests.fixtures.fake_consumer import DONE, FAILED, FakeConsumer
from tests.fixtures.jobs import BOUND_S, HOST, KEYS, START, STOP, queued
from tests.fixtures.proxy import Proxy
from tests.fixtures.redis import RedisServer

pytestmark = pytest.mark.redis


def test_a_request_is_stored_pushed_and_answered(
    host_client: HostClient, fake_consumer: FakeConsumer
) -> None:
    ticket = host_client.enqueue(START, host=HOST)
    with fake_consumer.answering(DONE):
        assert ticket.wait(BOUND_S) == DONE
    assert ticket.wait(0) == DONE
    assert ticket.status() == "finished"


def test_a_failed_request_returns_its_failure(
    host_client: HostClient, fake_consumer: FakeConsumer
) -> None:
    ticket = host_client.enqueue(START, host=HOST)
    fake_consumer.answer(FAILED)
    assert ticket.wait(BOUND_S) == FAILED


def test_enqueueing_takes_one_round_trip(proxied_client: HostClient, redis_proxy: Proxy) -> None:
    before = redis_proxy.round_trips
    proxied_client.enqueue(START, host=HOST)
    assert redis_proxy.round_trips - before == 1


def test_an_existing_result_takes_one_round_trip(
    proxied_client: HostClient, redis_proxy: Proxy, fake_consumer: FakeConsumer
) -> None:
    ticket = proxied_client.enqueue(START, host=HOST)
    fake_consumer.answer(DONE)
    before = redis_proxy.round_trips
    assert ticket.wait(BOUND_S) == DONE
    assert redis_proxy.round_trips - before == 1


def test_a_hundred_requests_take_one_round_trip_and_keep_their_order(
    proxied_client: HostClient, redis_proxy: Proxy, redis_server: RedisServer
) -> None:
    before = redis_proxy.round_trips
    tickets = proxied_client.enqueue_many(
        [START] * 50 + [(STOP, f"stop-{n}") for n in range(50)], host=HOST
    )
    assert redis_proxy.round_trips - before == 1
    assert queued(redis_server) == [ticket.job_id.encode() for ticket in tickets]


def test_a_connection_costs_no_handshake(redis_server: RedisServer, redis_proxy: Proxy) -> None:
    with HostClient(redis_server.url) as other:
        other.enqueue(Ping(), host=HOST)
    with HostClient(redis_proxy.url) as client:
        client.enqueue(Ping(), host=HOST)
    assert redis_proxy.round_trips == 1


def test_scripts_unknown_to_redis_cost_one_more_round_trip(
    proxied_client: HostClient, redis_proxy: Proxy, redis_server: RedisServer
) -> None:
    redis_server.client().script_flush()
    before = redis_proxy.round_trips
    proxied_client.enqueue(START, host=HOST)
    assert redis_proxy.round_trips - before == 2


def test_a_duplicate_of_a_running_request_waits_for_its_result(
    host_client: HostClient, fake_consumer: FakeConsumer
) -> None:
    host_client.enqueue(START, host=HOST, request_id="same")
    job_id = fake_consumer.take()
    second = host_client.enqueue(START, host=HOST, request_id="same")
    fake_consumer.publish(job_id, DONE)
    assert second.wait(BOUND_S) == DONE


def test_a_retry_waits_for_its_own_result(
    host_client: HostClient, fake_consumer: FakeConsumer
) -> None:
    first = host_client.enqueue(START, host=HOST)
    fake_consumer.answer(FAILED)
    again = first.retry()
    with pytest.raises(WaitTimeout, match="its job is queued"):
        again.wait(0)
    fake_consumer.answer(DONE)
    assert again.wait(BOUND_S) == DONE
    assert first.wait(BOUND_S) == FAILED


def test_a_retry_takes_the_job_out_of_the_dead_letters_and_queues_it_once(
    host_client: HostClient, fake_consumer: FakeConsumer, redis_server: RedisServer
) -> None:
    ticket = host_client.enqueue(START, host=HOST)
    fake_consumer.answer(FAILED)
    ticket.retry()
    redis = redis_server.client()
    assert redis.zcard(KEYS.failed) == 0
    assert queued(redis_server) == [ticket.job_id.encode()]
    assert ticket.status() == "queued"
    assert 0 < redis.ttl(keys.job(ticket.job_id)) <= RETENTION_S


def test_only_an_ended_failure_can_be_retried(
    host_client: HostClient, fake_consumer: FakeConsumer
) -> None:
    ticket = host_client.enqueue(START, host=HOST)
    with pytest.raises(NotRetryable, match="is queued; only a failed one"):
        ticket.retry()
    fake_consumer.answer(DONE)
    with pytest.raises(NotRetryable, match="is finished"):
        ticket.retry()


def test_a_retry_whose_reply_is_lost_pushes_once(
    proxied_client: HostClient,
    redis_proxy: Proxy,
    redis_server: RedisServer,
    fake_consumer: FakeConsumer,
) -> None:
    ticket = proxied_client.enqueue(START, host=HOST)
    fake_consumer.answer(FAILED)
    ticket.status()
    redis_server.client().script_load(RETRY.text.decode())
    redis_proxy.lose_replies(1)
    again = ticket.retry()
    assert queued(redis_server) == [ticket.job_id.encode()]
    fake_consumer.answer(DONE)
    assert again.wait(BOUND_S) == DONE


def test_retrying_what_redis_has_dropped_sends_it_again(
    host_client: HostClient, fake_consumer: FakeConsumer, redis_server: RedisServer
) -> None:
    ticket = host_client.enqueue(START, host=HOST)
    fake_consumer.answer(FAILED)
    redis_server.client().flushall()
    again = ticket.retry()
    fake_consumer.answer(DONE)
    assert again.wait(BOUND_S) == DONE


def test_a_ticket_is_found_by_its_id(host_client: HostClient, fake_consumer: FakeConsumer) -> None:
    request_id = host_client.enqueue(START, host=HOST).request_id
    waiting = host_client.ticket(request_id, host=HOST)
    assert waiting.request == START
    fake_consumer.answer(FAILED)
    assert waiting.wait(BOUND_S) == FAILED
    assert host_client.ticket(request_id, host=HOST).wait(0) == FAILED


def test_a_ticket_found_during_a_retry_waits_for_the_retry(
    host_client: HostClient, fake_consumer: FakeConsumer
) -> None:
    first = host_client.enqueue(START, host=HOST)
    fake_consumer.answer(FAILED)
    first.retry()
    job_id = fake_consumer.take()
    other = host_client.ticket(first.request_id, host=HOST)
    fake_consumer.publish(job_id, DONE)
    assert other.wait(BOUND_S) == DONE


def test_an_unknown_id_has_no_ticket(host_client: HostClient) -> None:
    with pytest.raises(UnknownRequest, match="no request gone on host-a"):
        host_client.ticket("gone", host=HOST)


def test_after_a_wait_that_timed_out_another_one_returns_the_result(
    host_client: HostClient, fake_consumer: FakeConsumer
) -> None:
    ticket = host_client.enqueue(START, host=HOST)
    with pytest.raises(WaitTimeout, match="its job is queued"):
        ticket.wait(0.05)
    fake_consumer.answer(DONE)
    assert ticket.wait(BOUND_S) == DONE
