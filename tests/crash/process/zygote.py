"""Forks hostd processes with all modules loaded: each is a real process that starts at once.

Each line on standard input is a call: `{"run": ORDER}` returns the pid, `{"wait": PID}` the exit
status in the form of `os.waitstatus_to_exitcode`.
"""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path

import msgspec

from tests.crash.process.entry import Order, run


class Call(msgspec.Struct, frozen=True):
    """One line of the input."""

    run: Order | None = None
    wait: int = 0
    output: str = os.devnull


def serve() -> None:
    """Serves until standard input ends."""
    for line in sys.stdin.buffer:
        call = msgspec.json.decode(line, type=Call)
        if call.run is None:
            answer = os.waitstatus_to_exitcode(os.waitpid(call.wait, 0)[1])
        else:
            answer = _forked(call.run, Path(call.output))
        sys.stdout.write(f"{answer}\n")
        sys.stdout.flush()


def _forked(order: Order, output: Path) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        os.setsid()
        nothing = os.open(os.devnull, os.O_RDONLY)
        log = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        for fd, standard in ((nothing, 0), (log, 1), (log, 2)):
            os.dup2(fd, standard)
        code = run(order)
    except BaseException:
        traceback.print_exc()
        raise
    finally:
        sys.stderr.flush()
        os._exit(code)  # a child never returns


if __name__ == "__main__":
    serve()
