"""Kernel locks: exclusive, shared, fair, and released when their holder dies."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from worker.errors import Transient
from worker.scheduling.locks import Locks

HOLD = """
import sys, time
from pathlib import Path
from worker.scheduling.locks import Locks
locks = Locks(Path(sys.argv[1]), timeout_s=5)
with locks.instance("t", "i-1", request_id="other"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_locked_instance_times_out_and_names_its_holder(tmp_path: Path) -> None:
    locks = Locks(tmp_path, timeout_s=0.05)
    with (
        locks.instance("t", "i-1", request_id="first"),
        pytest.raises(Transient, match="first") as caught,
        locks.instance("t", "i-1", request_id="second"),
    ):
        pass
    assert caught.value.code == "transient/lock_timeout"


def test_instances_share_their_tenant_but_a_network_operation_does_not(
    tmp_path: Path,
) -> None:
    locks = Locks(tmp_path, timeout_s=0.05)
    with locks.instance("t", "i-1", request_id="a"), locks.instance("t", "i-2", request_id="b"):
        with pytest.raises(Transient), locks.network("t", request_id="c"):
            pass
        with locks.network("other", request_id="d"):
            pass
    with locks.network("t", request_id="c"):
        pass


def test_killing_the_holder_releases_its_lock(tmp_path: Path) -> None:
    other = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert other.stdout is not None
    assert other.stdout.readline() == "held\n"
    locks = Locks(tmp_path, timeout_s=0.05)
    holder = locks.holder("instance-i-1")
    assert holder is not None
    assert (holder.pid, holder.request_id) == (other.pid, "other")
    with pytest.raises(Transient), locks.instance("t", "i-1", request_id="mine"):
        pass
    other.send_signal(signal.SIGKILL)
    other.wait()
    other.stdout.close()
    with locks.instance("t", "i-1", request_id="mine"):
        pass
    assert locks.holder("instance-i-1") is None


def test_an_exclusive_waiter_is_not_starved_by_sharers_that_overlap(tmp_path: Path) -> None:
    locks = Locks(tmp_path, timeout_s=10)
    stop = threading.Event()
    entered = threading.Semaphore(0)

    def share(number: int) -> None:
        while not stop.is_set():
            with locks.instance("t", f"i-{number}", request_id="s"):
                entered.release()
                time.sleep(0.02)

    sharers = [threading.Thread(target=share, args=(number,)) for number in range(3)]
    for sharer in sharers:
        sharer.start()
    for _ in range(6):
        entered.acquire()
    try:
        with locks.network("t", request_id="x") as waited_s:
            assert waited_s < 10
    finally:
        stop.set()
        for sharer in sharers:
            sharer.join()
