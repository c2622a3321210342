"""The workers to compare hostd with, each a process: `python -m bench.stock KIND URL`.

`rq` is RQ's SimpleWorker with a job that does nothing; `bare` moves an id and writes an answer, the
minimum of a queue with at-least-once delivery in redis-py.
"""

from __future__ import annotations

import logging
import sys
from typing import Final

from redis import Redis
from rq import Queue, SimpleWorker

QUEUE: Final = "stock"
BARE: Final = "bare"
BARE_TAKEN: Final = "bare:taken"
WAIT_S: Final = 30


def nothing() -> None:
    """The job of SimpleWorker."""


def answers_of(id_: str) -> str:
    """The stream to which the bare loop writes a job's answer."""
    return f"bare:{id_}"


def serve_rq(redis: Redis) -> None:
    """Runs RQ's SimpleWorker for ever, without log lines."""
    logging.getLogger("rq.worker").setLevel(logging.ERROR)
    queue = Queue(QUEUE, connection=redis)
    SimpleWorker([queue], connection=redis).work(logging_level="ERROR")


def serve_bare(redis: Redis) -> None:
    """Runs BLMOVE, then one MULTI with the answer, for ever."""
    while True:
        id_ = redis.blmove(BARE, BARE_TAKEN, WAIT_S)
        if not isinstance(id_, str):
            continue
        with redis.pipeline(transaction=True) as pipe:
            pipe.xadd(answers_of(id_), {"done": "1"})
            pipe.lrem(BARE_TAKEN, 0, id_)
            pipe.execute()


if __name__ == "__main__":
    kind, url = sys.argv[1:]
    serve = {"rq": serve_rq, "bare": serve_bare}[kind]
    with Redis.from_url(url, socket_timeout=600, decode_responses=kind == "bare") as connection:
        serve(connection)
