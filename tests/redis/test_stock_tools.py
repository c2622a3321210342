"""RQ's own tools work with what the client stores."""

from __future__ import annotations

import subprocess
import sys

import pytest
from rq.queue import Queue
from rq.registry import FailedJobRegistry
from rq.results import Result as RqResult
from rq.serializers import JSONSerializer

from enqueue import HostClient
from enqueue.results import Failed
from tests.fixtures.fake_consumer import DONE, FAILED, FakeConsumer
from tests.fixtures.jobs import BOUND_S, HOST, KEYS, START, STOP, queued, stock_job
from tests.fixtures.redis import RedisServer

pytestmark = pytest.mark.redis


def test_a_job_failed_by_a_stock_tool_has_a_readable_result(
    host_client: HostClient, redis_server: RedisServer
) -> None:
    ticket = host_client.enqueue(START, host=HOST)
    job = stock_job(ticket.job_id, redis_server)
    RqResult.create_failure(job, 500, "Traceback\nAbandonedJobError: left")
    result = ticket.wait(BOUND_S)
    assert isinstance(result, Failed)
    assert result.code == "broken/no_result"
    assert "AbandonedJobError: left" in result.message


def test_stock_rq_reads_the_job(host_client: HostClient, redis_server: RedisServer) -> None:
    ticket = host_client.enqueue(START, host=HOST)
    job = stock_job(ticket.job_id, redis_server)
    assert job.func_name == "hostd.execute"
    assert job.args[0]["body"]["request"]["op"] == "StartInstance"
    assert job.description == "StartInstance acme/workers/i-1a2b3c4d"
    assert job.get_status() == "queued"
    assert job.origin == KEYS.queue_name
    assert job.enqueued_at is not None
    assert job.success_callback is None
    queue = Queue(KEYS.queue_name, connection=redis_server.client(), serializer=JSONSerializer)
    assert queue.job_ids == [ticket.job_id]
    assert Queue.all(connection=redis_server.client()) == [queue]


def test_a_stock_requeue_keeps_the_request_and_its_ticket(
    host_client: HostClient, redis_server: RedisServer, fake_consumer: FakeConsumer
) -> None:
    ticket = host_client.enqueue(START, host=HOST, request_id="same")
    fake_consumer.answer(FAILED)
    registry = FailedJobRegistry(
        KEYS.queue_name, connection=redis_server.client(), serializer=JSONSerializer
    )
    registry.requeue(ticket.job_id)
    again = host_client.enqueue(START, host=HOST, request_id="same")
    assert queued(redis_server) == [b"host-a_same"]
    fake_consumer.answer(DONE)
    assert again.wait(BOUND_S) == DONE
    assert host_client.ticket("same", host=HOST).request == START


def test_rq_info_counts_the_jobs(host_client: HostClient, redis_server: RedisServer) -> None:
    host_client.enqueue_many([START, STOP], host=HOST)
    url = f"unix://{redis_server.socket}"
    rq = [sys.executable, "-m", "rq.cli", "info", "--raw", "--url", url]
    shown = subprocess.run(rq, capture_output=True, text=True, check=True, timeout=BOUND_S)
    assert "queue hostd:host-a 2" in shown.stdout
