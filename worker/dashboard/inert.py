"""rq-dashboard 0.9.0 on rq 3.0, without everything that executes stored bytes.

Names in rq-dashboard are replaced, so its version is pinned exactly: its pickle, and two reads, of
which one lets a bad job break a whole page and the other changes the queue when a page is viewed.
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
    except Exception as error:  # noqa: BLE001  untrusted bytes can raise anything
        return otherwise(f"unreadable: {type(error).__name__}: {error}")


class ReadableJob(Job):
    """A job whose unreadable parts show the reason, instead of breaking the page."""

    @classmethod
    def fetch(cls, id: str, connection: Redis | None = None, serializer: Any = None) -> Job:
        """The job; with an unreadable hash, only its id and the reason as its description."""

        def broken(why: str) -> Job:
            job = cls(id, connection=connection, serializer=serializer)
            job.description = why
            return job

        return _readable(lambda: super(ReadableJob, cls).fetch(id, connection, serializer), broken)

    @property
    def dependency_ids(self) -> list[bytes]:  # type: ignore[override]  # what the page decodes
        """The ids as bytes, which rq-dashboard 0.9.0 decodes; rq 3.0 has text."""
        return [id_.encode() for id_ in self._dependency_ids]

    def latest_result(self, timeout: int = 0) -> Result | None:
        """The last result; if unreadable, a failed one with the reason."""

        def broken(why: str) -> Result:
            return Result(self.id, Result.Type.FAILED, self.connection, exc_string=why)

        return _readable(lambda: super(ReadableJob, self).latest_result(timeout), broken)

    def return_value(self, refresh: bool = False) -> Any:
        """The result's value, also of a failed request: hostd's failures are JSON, too."""
        result = self.latest_result()
        if result is not None:
            return result.return_value
        return _readable(lambda: super(ReadableJob, self).return_value(refresh), str)

    def get_status(self, refresh: bool = True) -> Any:
        """RQ's status, or why it cannot be read."""
        return _readable(lambda: super(ReadableJob, self).get_status(refresh), str)

    def get_meta(self, refresh: bool = True) -> Any:
        """The metadata, or why it cannot be read."""
        return _readable(lambda: super(ReadableJob, self).get_meta(refresh), str)


class ReadableQueue(Queue):
    """A queue that viewing does not change."""

    job_class = ReadableJob

    @classmethod
    def all(cls, connection: Redis, *_: Any, **__: Any) -> list[Queue]:
        """Every registered queue with a valid key; any client may add to that set."""
        prefix = cls.redis_queue_namespace_prefix
        members: Any = connection.smembers(cls.redis_queues_keys)
        named = sorted(member.decode("utf-8", "replace") for member in members)
        return [
            cls(key.removeprefix(prefix), connection=connection)
            for key in named
            if key.startswith(prefix) and len(key) > len(prefix)
        ]

    def fetch_job(self, job_id: str) -> Job | None:
        """The job, or a line that it is gone; stock RQ would remove it from the queue."""
        try:
            return self.job_class.fetch(
                as_text(job_id), connection=self.connection, serializer=self.serializer
            )
        except NoSuchJobError:
            job = self.job_class(job_id, connection=self.connection, serializer=self.serializer)
            job.description = "gone: Redis has no such job, or one without data"
            return job


class ReadableWorker(Worker):
    """A host, as stock tools see it."""

    def get_current_job(self) -> Job | None:
        """The job it runs; an unreadable one shows the reason."""
        if self.execution is None:
            return None
        return ReadableJob.fetch(self.execution.job_id, self.connection)


def _current_job(job: Job | None) -> Any:
    """A busy worker's job in rq-dashboard's form, without decoding the call."""
    if job is None:
        return "idle"
    created = job.created_at.isoformat()
    text = job.description or job.id
    return {"job_id": job.id, "description": text, "created_at": created, "call_string": text}
