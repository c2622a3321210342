"""`python -m worker.dashboard`: hostd's queues in a browser, at http://127.0.0.1:9181/ by default.

Exit codes: 0 stopped by a signal, 1 cannot listen or rq-dashboard is missing, 2 usage, 3 Redis
unreachable.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from collections.abc import Sequence

from redis import Redis
from redis.exceptions import RedisError

from worker.config import RedisConfig
from worker.dashboard.serve import listening_socket, serve, shown_address
from worker.errors import ConfigError, StartupError
from worker.queue.connection import connect

ENDED, FAILED, USAGE, UNREACHABLE = 0, 1, 2, 3


def main(argv: Sequence[str] | None = None) -> int:
    """Serves until SIGTERM or SIGINT; the exit code."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    options = _parser().parse_args(argv)
    try:
        return _run(options)
    except ConfigError as error:
        return _print_error(error, USAGE)
    except StartupError as error:
        return _print_error(error, FAILED)
    except RedisError as error:
        return _print_error(f"Redis at {options.shown} does not answer: {error}", UNREACHABLE)
    except ImportError as error:
        return _print_error(f"{error}; pip install 'hostd[dashboard]'", FAILED)


def _run(options: argparse.Namespace) -> int:
    from worker.dashboard.app import make_app, without_password

    options.shown = without_password(options.redis)
    config = RedisConfig(url=options.redis, password_file=options.password_file, ca=options.ca)
    redis: Redis = connect(config)
    redis.ping()
    app = make_app(
        redis,
        shown_url=options.redis,
        prefix=options.url_prefix,
        names=options.name,
        allow_delete=options.allow_delete,
    )
    with listening_socket(options.listen) as listening:
        print(f"hostd dashboard: {shown_address(listening)} shows {options.shown}", flush=True)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(ENDED))
        serve(app, listening)
    return ENDED


def _print_error(what: object, code: int) -> int:
    for line in str(what).splitlines():
        print(f"hostd dashboard: {line}", file=sys.stderr)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m worker.dashboard", description=__doc__)
    add = parser.add_argument
    url = os.environ.get("HOSTD_REDIS__URL", RedisConfig().url)
    add("--redis", default=url, metavar="URL", help="default: HOSTD_REDIS__URL, or %(default)s")
    password_file = os.environ.get("HOSTD_REDIS__PASSWORD_FILE", "")
    add(
        "--password-file",
        default=password_file,
        metavar="FILE",
        help="every user of the machine can read a password in the URL",
    )
    add("--ca", default=os.environ.get("HOSTD_REDIS__CA", ""), metavar="FILE", help="for rediss://")
    add("--listen", default="127.0.0.1:9181", help="address:port, or fd:N for an open socket")
    add("--url-prefix", default="/", metavar="PATH", help="the path under which a proxy serves it")
    add("--name", action="append", default=[], help="a host name under which a proxy serves it")
    add("--allow-delete", action="store_true", help="also delete jobs and empty queues")
    return parser


if __name__ == "__main__":
    sys.exit(main())
