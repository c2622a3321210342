"""rq-dashboard 0.9.0 on rq 3.0 with everything that acts on stored bytes taken out.

Replaced by name, hence the exact pin of rq-dashboard: its pickle, and the two reads by which one
bad job makes a whole page fail or a look at a page change the queue.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from redis import Redis
from redis.exceptions import RedisError
from rq import Queue, Worker, serializers
from rq.exceptions import NoSuchJobError
from rq.job import Job
from rq.results import Result
from rq.utils import as_text

from worker.queue.serializer import MsgspecSerializer

T = TypeVar("T")


def disarm() -> Any:
    """The module `rq_dashboard.web`, inert.

    Raises:
        ImportError: rq-dashboard is not installed.
    """
    # rq resolves a missing serializer to PickleSerializer at each use, and "pickle" by alias;
    # DefaultSerializer is bound when rq_dashboard.web is first imported.
    serializers.PickleSerializer = serializers.DefaultSerializer = MsgspecSerializer  # type: ignore[misc, assignment]  # replaced on purpose
    serializers.SERIALIZER_ALIASES["pickle"] = MsgspecSerializer
    from rq_dashboard import web

    web.config.serializer = MsgspecSerializer
    web.Job = ReadableJob
    web.Queue = ReadableQueue
    web.Worker = ReadableWorker
    web.serialize_current_job = _current_job
    return web


def _readable(read: Callable[[], T], otherwise: Callable[[str], T]) -> T:
    try:
        return read()
    except (RedisError, NoSuchJobError):
        raise
    except Exception as error:  # noqa: BLE001  whatever the bytes of a stranger bring up
        return otherwise(f"unreadable: {type(error).__name__}: {error}")


class ReadableJob(Job):
    """A job of which a part that cannot be read says so, instead of failing the page."""

    @classmethod
    def fetch(cls, id: str, connection: Redis | None = None, serializer: Any = None) -> Job:
        """The job; one with a broken hash has only its id and a description."""

        def broken(why: str) -> Job:
            job = cls(id, connection=connection, serializer=serializer)
            job.description = why
            return job

        return _readable(lambda: super(ReadableJob, cls).fetch(id, connection, serializer), broken)

    @property
    def dependency_ids(self) -> list[bytes]:  # type: ignore[override]  # what the page decodes
        """As the page expects them: rq 3.0 has text where rq-dashboard 0.9.0 decodes bytes."""
        return [id_.encode() for id_ in self._dependency_ids]

    def latest_result(self, timeout: int = 0) -> Result | None:
        """The last result, or a failed one that says why it cannot be read."""

        def broken(why: str) -> Result:
            return Result(self.id, Result.Type.FAILED, self.connection, exc_string=why)

        return _readable(lambda: super(ReadableJob, self).latest_result(timeout), broken)

    def return_value(self, refresh: bool = False) -> Any:
        """The result's value: a failed request's too, since hostd answers in JSON either way."""
        result = self.latest_result()
        if result is not None:
            return result.return_value
        return _readable(lambda: super(ReadableJob, self).return_value(refresh), str)

    def get_status(self, refresh: bool = True) -> Any:
        """RQ's status, or why there is none."""
        return _readable(lambda: super(ReadableJob, self).get_status(refresh), str)

    def get_meta(self, refresh: bool = True) -> Any:
        """The metadata, or why it cannot be read."""
        return _readable(lambda: super(ReadableJob, self).get_meta(refresh), str)


class ReadableQueue(Queue):
    """A queue that stays as it is when somebody looks at it."""

    job_class = ReadableJob

    @classmethod
    def all(cls, connection: Redis, *_: Any, **__: Any) -> list[Queue]:
        """Every registered queue whose key is one; anybody may add to that set."""
        prefix = cls.redis_queue_namespace_prefix
        members: Any = connection.smembers(cls.redis_queues_keys)
        named = sorted(member.decode("utf-8", "replace") for member in members)
        return [
            cls(key.removeprefix(prefix), connection=connection)
            for key in named
            if key.startswith(prefix) and len(key) > len(prefix)
        ]

    def fetch_job(self, job_id: str) -> Job | None:
        """The job, or a line that says it is gone; stock RQ would take it off the queue."""
        try:
            return self.job_class.fetch(
                as_text(job_id), connection=self.connection, serializer=self.serializer
            )
        except NoSuchJobError:
            job = self.job_class(job_id, connection=self.connection, serializer=self.serializer)
            job.description = "gone: Redis holds no such job, or one without data"
            return job


class ReadableWorker(Worker):
    """A host as stock tools see it."""

    def get_current_job(self) -> Job | None:
        """What it runs; a job that cannot be read says so."""
        if self.execution is None:
            return None
        return ReadableJob.fetch(self.execution.job_id, self.connection)


def _current_job(job: Job | None) -> Any:
    """As rq-dashboard shows a busy worker's job, without decoding the call."""
    if job is None:
        return "idle"
    created = job.created_at.isoformat()
    text = job.description or job.id
    return {"job_id": job.id, "description": text, "created_at": created, "call_string": text}
