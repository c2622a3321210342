"""HostClient while Redis is down, slow, loses data or refuses commands."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from enqueue import HostClient, keys
from enqueue.conversation import operations
from enqueue.conversation.listing import Event
from enqueue.conversation.sansio import LinkDown, RoundTrip, Sleep
from enqueue.errors import QueueUnavailable, RequestExpired, WaitTimeout
from enqueue.requests import Ping
from enqueue.times import Clock
from tests.fixtures.background import Background
from tests.fixtures.fake_consumer import DONE, FAILED, FakeConsumer
from tests.fixtures.proxy import Proxy
from tests.fixtures.redis import RedisServer

pytestmark = pytest.mark.redis

HOST = "host-a"
QUEUE = keys.HostKeys(HOST).queue
BOUND_S = 30.0
SHORT_S = 0.3
AWAY_S = 600.0


@pytest.fixture
def short_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waiters check their job more often, so that tests are quick."""
    monkeypatch.setattr(operations, "SLICE_S", 0.05)


def test_nothing_is_stored_when_no_server_listens(tmp_path: Path) -> None:
    with (
        HostClient(f"unix://{tmp_path}/none.sock") as client,
        pytest.raises(QueueUnavailable, match="was not stored") as caught,
    ):
        client.enqueue(Ping(), host=HOST)
    assert not caught.value.may_be_stored


def test_nothing_is_stored_when_redis_has_stopped_since(
    host_client: HostClient, redis_server: RedisServer
) -> None:
    host_client.enqueue(Ping(), host=HOST)
    redis_server.stop()
    with pytest.raises(QueueUnavailable) as caught:
        host_client.enqueue(Ping(), host=HOST)
    assert not caught.value.may_be_stored


def test_the_client_reconnects_by_itself(
    host_client: HostClient, redis_server: RedisServer
) -> None:
    host_client.enqueue(Ping(), host=HOST)
    redis_server.restart()
    assert host_client.enqueue(Ping(), host=HOST).status() == "queued"


def test_one_lost_reply_is_repeated_without_a_second_job(
    proxied_client: HostClient, redis_proxy: Proxy, redis_server: RedisServer
) -> None:
    redis_proxy.lose_replies(1)
    ticket = proxied_client.enqueue(Ping(), host=HOST)
    assert redis_server.client().lrange(QUEUE, 0, -1) == [ticket.job_id.encode()]


def test_lost_replies_say_that_the_request_may_be_stored_and_enqueueing_again_is_safe(
    proxied_client: HostClient, redis_proxy: Proxy, redis_server: RedisServer
) -> None:
    redis_proxy.lose_replies(2)
    with pytest.raises(QueueUnavailable, match="may have been stored") as caught:
        proxied_client.enqueue(Ping(), host=HOST, request_id="same")
    assert caught.value.may_be_stored
    assert proxied_client.enqueue(Ping(), host=HOST, request_id="same").job_id == "host-a_same"
    assert redis_server.client().lrange(QUEUE, 0, -1) == [b"host-a_same"]


def test_a_redis_that_does_not_answer_is_abandoned_in_time(redis_server: RedisServer) -> None:
    with HostClient(redis_server.url, timeout_s=SHORT_S) as client:
        client.enqueue(Ping(), host=HOST)
        redis_server.freeze()
        with pytest.raises(QueueUnavailable) as caught:
            client.enqueue(Ping(), host=HOST, request_id="same")
        redis_server.thaw()
        assert caught.value.may_be_stored
        client.enqueue(Ping(), host=HOST, request_id="same")
    assert redis_server.client().lrange(QUEUE, 0, -1).count(b"host-a_same") == 1


def test_a_replica_stores_nothing_and_says_so(
    host_client: HostClient, redis_server: RedisServer
) -> None:
    admin = redis_server.client()
    admin.replicaof("127.0.0.1", "1")
    try:
        with pytest.raises(QueueUnavailable, match="read only replica") as caught:
            host_client.enqueue(Ping(), host=HOST)
    finally:
        admin.replicaof("NO", "ONE")
    assert not caught.value.may_be_stored


def test_a_client_whose_server_became_a_replica_finds_the_new_master(
    proxied_client: HostClient, redis_proxy: Proxy, redis_server: RedisServer, tmp_path: Path
) -> None:
    old, master = redis_server.client(), RedisServer(tmp_path)
    master.start()
    old.replicaof("127.0.0.1", "1")
    redis_proxy.server = master.socket
    try:
        ticket = proxied_client.enqueue(Ping(), host=HOST)
        assert master.client().lrange(QUEUE, 0, -1) == [ticket.job_id.encode()]
    finally:
        old.replicaof("NO", "ONE")
        master.close_clients()
        master.stop()


def test_a_full_memory_stores_nothing_and_says_so(
    host_client: HostClient, redis_server: RedisServer
) -> None:
    admin = redis_server.client()
    admin.config_set("maxmemory", 1)
    try:
        with pytest.raises(QueueUnavailable, match="maxmemory") as caught:
            host_client.enqueue(Ping(), host=HOST)
    finally:
        admin.config_set("maxmemory", 0)
    assert not caught.value.may_be_stored
    assert admin.dbsize() == 0


def test_a_key_of_another_type_stores_nothing_and_says_so(
    host_client: HostClient, redis_server: RedisServer
) -> None:
    redis_server.client().set(QUEUE, "not a list")
    with pytest.raises(QueueUnavailable, match="WRONGTYPE"):
        host_client.enqueue(Ping(), host=HOST)
    assert redis_server.client().keys("*") == [QUEUE.encode()]


def test_a_wrong_type_for_the_set_of_queues_stops_no_request(
    host_client: HostClient, redis_server: RedisServer, fake_consumer: FakeConsumer
) -> None:
    admin = redis_server.client()
    admin.set(keys.QUEUES, "planted")
    ticket = host_client.enqueue(Ping(), host=HOST)
    fake_consumer.answer(FAILED)
    assert ticket.wait(BOUND_S) == FAILED
    assert ticket.retry().status() == "queued"
    admin.delete(keys.QUEUES)
    host_client.enqueue(Ping(), host=HOST)
    assert admin.smembers(keys.QUEUES) == {QUEUE.encode()}


@pytest.mark.usefixtures("short_slices")
def test_a_waiter_survives_a_restart_of_redis(
    host_client: HostClient, redis_server: RedisServer
) -> None:
    ticket = host_client.enqueue(Ping(), host=HOST)
    waiter = Background(lambda: ticket.wait(BOUND_S))
    redis_server.await_blocked()
    redis_server.restart()
    FakeConsumer(redis_server.client(), HOST).answer(DONE)
    assert waiter.outcome() == DONE


@pytest.mark.usefixtures("short_slices")
def test_a_waiter_survives_its_server_becoming_a_replica(
    host_client: HostClient, redis_server: RedisServer
) -> None:
    ticket = host_client.enqueue(Ping(), host=HOST)
    waiter = Background(lambda: ticket.wait(BOUND_S))
    redis_server.await_blocked()
    admin = redis_server.client()
    admin.replicaof("127.0.0.1", "1")
    admin.replicaof("NO", "ONE")
    FakeConsumer(admin, HOST).answer(DONE)
    assert waiter.outcome() == DONE


def test_a_follower_of_events_survives_its_server_becoming_a_replica(
    host_client: HostClient, redis_server: RedisServer
) -> None:
    follower = Background(lambda: host_client.events(host=HOST, wait_s=BOUND_S))
    redis_server.await_blocked()
    admin = redis_server.client()
    admin.replicaof("127.0.0.1", "1")
    admin.replicaof("NO", "ONE")
    admin.xadd(keys.HostKeys(HOST).events, {"event": '{"seq":1}'}, id="1-0")
    assert follower.outcome() == [Event(id="1-0", event={"seq": 1})]


def test_a_timed_out_waiter_says_that_redis_is_unavailable(
    host_client: HostClient, redis_server: RedisServer
) -> None:
    ticket = host_client.enqueue(Ping(), host=HOST)
    redis_server.stop()
    with pytest.raises(WaitTimeout, match="Redis is unavailable"):
        ticket.wait(SHORT_S)


def test_a_waiter_tries_an_absent_redis_again_until_its_timeout(
    host_client: HostClient, fake_consumer: FakeConsumer
) -> None:
    ticket = host_client.enqueue(Ping(), host=HOST)
    now_s = 0.0
    clock = Clock(monotonic=lambda: now_s)
    conversation = operations.wait(ticket._run, 3600, limit=1, clock=clock)
    step, paused = next(conversation), []
    while now_s < AWAY_S:
        if isinstance(step, Sleep):
            now_s += step.seconds
            paused.append(step.seconds)
            step = conversation.send([])
        else:
            step = conversation.throw(LinkDown("Redis is unavailable", sent=False))
    assert max(paused) <= operations.RECONNECT_S
    fake_consumer.answer(DONE)
    assert isinstance(step, RoundTrip)
    conversation.close()
    assert ticket.wait(BOUND_S) == DONE


@pytest.mark.usefixtures("short_slices")
def test_a_waiter_sends_a_lost_job_again_byte_for_byte(
    host_client: HostClient, redis_server: RedisServer
) -> None:
    ticket = host_client.enqueue(Ping(), host=HOST)
    admin = redis_server.client()
    stored = admin.hget(keys.job(ticket.job_id), "data")
    waiter = Background(lambda: ticket.wait(BOUND_S))
    redis_server.await_blocked()
    admin.flushall()
    host = FakeConsumer(admin, HOST)
    job_id = host.take()
    assert admin.hget(keys.job(job_id), "data") == stored
    host.publish(job_id, FAILED)
    assert waiter.outcome() == FAILED
    assert admin.llen(QUEUE) == 0


def test_a_lost_job_past_its_not_after_is_not_sent_again(
    host_client: HostClient, redis_server: RedisServer
) -> None:
    ticket = host_client.enqueue(Ping(), host=HOST, not_after=60)
    redis_server.client().flushall()
    late = host_client.clock.wall() + 61
    host_client.clock = Clock(wall=lambda: late)
    with pytest.raises(RequestExpired, match="its not_after has passed"):
        ticket.wait(BOUND_S)
    assert redis_server.client().dbsize() == 0


@pytest.mark.usefixtures("short_slices")
def test_two_waiters_of_a_lost_job_push_it_once(
    host_client: HostClient, redis_server: RedisServer
) -> None:
    first = host_client.enqueue(Ping(), host=HOST, request_id="same")
    second = host_client.enqueue(Ping(), host=HOST, request_id="same")
    waiters = [Background(lambda: first.wait(BOUND_S)), Background(lambda: second.wait(BOUND_S))]
    redis_server.await_blocked(2)
    redis_server.client().flushall()
    FakeConsumer(redis_server.client(), HOST).answer(DONE)
    assert [waiter.outcome() for waiter in waiters] == [DONE, DONE]
    assert redis_server.client().llen(QUEUE) == 0


@pytest.mark.parametrize("protocol", [2, 3])
def test_a_redis_of_the_caller_is_used_as_it_is_and_stays_open(
    redis_server: RedisServer, protocol: int
) -> None:
    given = redis_server.client(protocol=protocol, decode_responses=True)
    with HostClient(given) as client:
        ticket = client.enqueue(Ping(), host=HOST)
        FakeConsumer(redis_server.client(), HOST).answer(DONE)
        assert ticket.wait(BOUND_S) == DONE
    assert given.ping()


AGENTD = (
    "resetchannels ~rq:job:host-a_* ~rq:queue:hostd:host-a %R~rq:queue:hostd:host-a:intermediate "
    "%W~rq:queues %R~rq:results:host-a_* %W~rq:failed:hostd:host-a %W~rq:canceled:hostd:host-a "
    "%R~hostd:events:host-a -@all +evalsha +script|load +exists +hget +hmget +hset +expire +llen "
    "+rpush +sadd +zrem +multi +exec +xread +xrevrange"
)


@pytest.fixture
def confined(redis_server: RedisServer) -> Iterator[HostClient]:
    """A client with the rights of one host's agentd and no others."""
    url = redis_server.add_user("agentd", password="secret", rights=AGENTD)
    with HostClient(url) as client:
        yield client


def test_the_rights_of_one_host_are_enough(confined: HostClient, redis_server: RedisServer) -> None:
    host = FakeConsumer(redis_server.client(), HOST)
    ticket = confined.enqueue(Ping(), host=HOST, request_id="same")
    host.answer(FAILED)
    assert ticket.wait(BOUND_S) == FAILED
    assert confined.enqueue(Ping(), host=HOST, request_id="same").wait(0) == FAILED
    again = ticket.retry()
    host.answer(DONE)
    assert again.wait(BOUND_S) == DONE
    assert confined.ticket("same", host=HOST).status() == "finished"
    assert confined.events(host=HOST) == []


def test_the_rights_of_one_host_allow_no_other_host(
    confined: HostClient, redis_server: RedisServer
) -> None:
    with pytest.raises(QueueUnavailable, match="permission") as caught:
        confined.enqueue(Ping(), host="host-b")
    assert not caught.value.may_be_stored
    assert redis_server.client().dbsize() == 0


def test_a_wrong_password_is_not_taken_for_a_stored_request(redis_server: RedisServer) -> None:
    url = redis_server.url.replace("unix://", "unix://nobody:wrong@")
    with HostClient(url) as client, pytest.raises(QueueUnavailable) as caught:
        client.enqueue(Ping(), host=HOST)
    assert not caught.value.may_be_stored
