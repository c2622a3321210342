"""The Flask application: rq-dashboard's pages, a health check, and errors of one line."""

from __future__ import annotations

import logging
from collections.abc import Collection
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

from flask import Flask, Response, redirect, request, url_for
from redis import Redis
from redis.exceptions import RedisError
from rq.exceptions import InvalidJobOperation, NoSuchJobError
from werkzeug.exceptions import HTTPException
from werkzeug.wrappers import Response as AnyResponse

from enqueue.keys import HostKeys
from worker.dashboard import guard, inert
from worker.dashboard.pages import TextTemplates

log = logging.getLogger("hostd.dashboard")


def make_app(
    redis: Redis, *, shown_url: str, prefix: str, names: Collection[str], allow_delete: bool
) -> Flask:
    """The application for one Redis; one per process, since rq-dashboard's blueprint is global.

    Raises:
        ImportError: rq-dashboard is not installed.
    """
    web = inert.disarm()
    blueprint = web.blueprint
    # rq-dashboard would connect for each request, without timeouts; threads can share `redis`.
    web.from_url = lambda *_, **__: (None, redis)
    blueprint.jinja_loader = TextTemplates(f"{blueprint.root_path}/{blueprint.template_folder}")
    app = Flask(__name__, static_folder=blueprint.static_folder)
    app.redis_conn = redis  # type: ignore[attr-defined]  # where rq-dashboard looks
    app.config["RQ_DASHBOARD_REDIS_URL"] = (without_password(shown_url),)
    app.config["RQ_DASHBOARD_DISABLE_DELETE"] = not allow_delete
    guard.install(app, names=names)
    app.register_blueprint(blueprint, url_prefix=prefix.rstrip("/") or None)
    _add_health(app, redis)
    _add_first_queue(app, web)
    app.register_error_handler(Exception, _failed)
    return app


def without_password(url: str) -> str:
    """The URL without user and password."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _add_health(app: Flask, redis: Redis) -> None:
    @app.get("/healthz")
    def healthz() -> Response:
        redis.ping()
        return Response("ok\n", mimetype="text/plain")


def _add_first_queue(app: Flask, web: Any) -> None:
    """Makes the tab "Jobs" open a host's queue, not RQ's `default`, which no host uses."""

    @app.before_request
    def jobs_of_a_host() -> AnyResponse | None:
        arguments = request.view_args or {}
        if request.endpoint != "rq_dashboard.jobs_overview" or arguments.get("queue_name"):
            return None
        prefix = HostKeys("").queue_name
        for queue in web.Queue.all(connection=app.redis_conn):  # type: ignore[attr-defined]  # see above
            if queue.name.startswith(prefix):
                return redirect(
                    url_for(request.endpoint, **{**arguments, "queue_name": queue.name})
                )
        return None


def _failed(error: Exception) -> Response | HTTPException:
    match error:
        case HTTPException():
            return error
        case NoSuchJobError():
            return _line(HTTPStatus.NOT_FOUND, "no such job, or it has expired")
        case InvalidJobOperation():
            return _line(HTTPStatus.CONFLICT, "the job is no longer in the failed registry")
        case LookupError():
            return _line(HTTPStatus.NOT_FOUND, str(error))
        case RedisError():
            return _line(HTTPStatus.SERVICE_UNAVAILABLE, f"Redis does not answer: {error}")
        case _:
            log.exception("%s %s", request.method, request.path)
            return _line(HTTPStatus.INTERNAL_SERVER_ERROR, f"cannot be shown: {error}")


def _line(status: HTTPStatus, text: str) -> Response:
    return Response(f"{text}\n", status=status, mimetype="text/plain")
