"""Which requests are served: only this site's own pages may make a browser change anything."""

from __future__ import annotations

import secrets
from collections.abc import Collection
from http import HTTPStatus
from ipaddress import ip_address
from typing import Final
from urllib.parse import urlsplit

from flask import Flask, Response, g, request

from worker.dashboard.pages import POLICY

READING: Final = frozenset({"GET", "HEAD", "OPTIONS"})
CHANGES_ON_GET: Final = "rq_dashboard.requeue_all"
COMPACTS: Final = "rq_dashboard.compact_queue"
HEADERS: Final = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


def install(app: Flask, *, names: Collection[str]) -> None:
    """Makes `app` check its requests and send security headers.

    `names` are host names under which a proxy serves it; addresses and `localhost` are valid.
    """

    @app.before_request
    def check() -> Response | None:
        g.nonce = secrets.token_urlsafe(16)
        return refusal(frozenset(names))

    @app.after_request
    def protect(response: Response) -> Response:
        response.headers.update(HEADERS)
        policy = POLICY.format(nonce=g.get("nonce", ""))
        response.headers["Content-Security-Policy"] = policy
        return response


def refusal(names: Collection[str]) -> Response | None:
    """The refusal of the current request, or None if it is served."""
    if not addressed_here(request.host, names):
        why = f"this dashboard is not {request.host}; see --name\n"
        return _plain(HTTPStatus.MISDIRECTED_REQUEST, why)
    if request.endpoint == COMPACTS:
        why = "compacting is not atomic and may lose requests; hostd itself refuses dead ids\n"
        return _plain(HTTPStatus.FORBIDDEN, why)
    if request.method in READING:
        if request.endpoint == CHANGES_ON_GET and request.method != "OPTIONS":
            refused = _plain(HTTPStatus.METHOD_NOT_ALLOWED, "requeueing needs a POST\n")
            refused.headers["Allow"] = "POST"
            return refused
        return None
    if not same_origin():
        return _plain(HTTPStatus.FORBIDDEN, "another site may not change anything here\n")
    return None


def same_origin() -> bool:
    """Whether the current request comes from a page of this site, or from no browser at all.

    Every browser sends at least one of the three headers with a POST that another site caused
    (Fetch Metadata; RFC 6454, section 7).
    """
    site = request.headers.get("Sec-Fetch-Site")
    if site is not None:
        return site == "same-origin"
    source = request.headers.get("Origin", request.headers.get("Referer"))
    return source is None or urlsplit(source).netloc == request.host


def addressed_here(host: str, names: Collection[str]) -> bool:
    """Whether `host`, of the Host header, is this site's.

    With any name allowed, an attacker could point his own name at 127.0.0.1 and his page would be
    same-origin (DNS rebinding).  An address cannot be redirected that way.
    """
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    if name == "localhost" or name in names:
        return True
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


def _plain(status: HTTPStatus, text: str) -> Response:
    return Response(text, status=status, mimetype="text/plain")
