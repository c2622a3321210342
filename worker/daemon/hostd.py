"""`hostd run`: everything built, running, and closed again."""

from __future__ import annotations

import logging
import os
import random
import sqlite3
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from http.server import ThreadingHTTPServer
from typing import Final

from enqueue.keys import HostKeys
from enqueue.results import Pong
from enqueue.times import Clock
from worker.config import Config, version
from worker.daemon import startup as recover
from worker.daemon.clock_sync import await_clock
from worker.daemon.deliver import refuse, submit
from worker.daemon.gauges import Gauges
from worker.daemon.housekeeping import Housekeeping
from worker.daemon.http import LiveGauges, listening_socket, serve
from worker.daemon.signals import call_on_stop
from worker.daemon.vmm_watch import VmmWatch
from worker.drain.controller import DrainController
from worker.errors import HostdError, StartupError
from worker.ledger.database import unusable_ledger
from worker.ledger.identity import open_ledger, write_marker
from worker.linux import machine
from worker.model.layout import Layout
from worker.model.names import InstanceRef
from worker.protocol.delivery import Delivery
from worker.protocol.metrics import Metrics
from worker.protocol.verification import Policy
from worker.queue import connection as redis_host
from worker.queue.consumer import BLOCK_S, HostWorker
from worker.queue.publisher import RedisPublisher
from worker.request.context import Context
from worker.request.in_flight import InFlight
from worker.request.reconcile import reconcile_one
from worker.scheduling.executors import Executors
from worker.scheduling.locks import Locks, host_lock
from worker.scheduling.suspects import suspects_at_start
from worker.sweep.history import SweepHistory
from worker.sweep.state_guard import is_same_state
from worker.sweep.sweeper import Sweeper
from worker.wiring import build_host, build_policy, build_settings

log = logging.getLogger("hostd")

STOP_SPARE_S: Final = 10.0  # beside [worker] stop_timeout_s, for what is no request
BOOT_ID: Final = "boot_id"  # of the boot in which every instance was last settled


class Hostd:
    """One running hostd.  Everything it opened is in `_open` and closed with it."""

    def __init__(self, config: Config) -> None:
        """Builds all parts; nothing is taken from the queue before `run`.

        Raises:
            StartupError, ConfigError: a part cannot be had; the message names it and the way out.
        """
        self.config = config
        self._open = ExitStack()
        self._fatal: BaseException | None = None
        self._closed = False
        try:
            self._build(config)
        except BaseException:
            self._open.close()
            raise

    def _build(self, config: Config) -> None:
        if os.geteuid() != 0:
            raise StartupError("hostd run needs root: it makes devices, mounts and control groups")
        policy = build_policy(config)
        make_directories(config)
        self._open.enter_context(host_lock(config.paths.runtime))
        self._listening = listening_socket(config.metrics.listen) if config.metrics.listen else None
        if self._listening is not None:
            self._open.callback(self._listening.close)
        self._redis = redis_host.connect(config.redis)
        self._open.callback(self._redis.close)
        redis_host.check(self._redis, config.redis)
        self._keys = HostKeys(config.host)
        self._owner = redis_host.Owner(
            machine_id=machine.machine_id(), runtime=str(config.paths.runtime), pid=os.getpid()
        )
        redis_host.check_owner(self._redis, self._keys, self._owner)
        self.host = build_host(config, self._open)
        self._layout = Layout(config.paths.state)
        self._firecracker_version = self.host.vmm.version()
        self._version, self._boot_id = version(), machine.boot_id()
        self.ledger = open_ledger(
            config.paths.ledger,
            self.host,
            self._layout,
            now_ms=int(time.time() * 1000),
        )
        self._open.callback(self.ledger.close)
        redis_host.claim(self._redis, self._keys, self._owner)
        self.publisher = RedisPublisher(
            self._redis,
            self.ledger,
            self._keys,
            config.worker,
            worker_name=self._worker_name,
            wall=time.time,
        )
        self.executors = Executors(
            config.worker.threads, answering=self.publisher.batch, fatal=self._die
        )
        self.watch = VmmWatch(self.host.vmm, self._vmm_ended)
        self._open.callback(self.watch.close)
        self._rebooted = self.ledger.noted(BOOT_ID) not in (None, self._boot_id)
        self.context = self._context(config, policy)
        self.draining = DrainController(self.context, rebooted=self._rebooted)
        taking = redis_host.connect(config.redis, extra_timeout_s=BLOCK_S)
        self._open.callback(taking.close)
        self.worker = HostWorker(
            taking,
            self._keys,
            name=self._worker_name,
            deliver=self._deliver,
            refuse=lambda delivery, reason: refuse(delivery, reason, self.context),
            room=lambda: config.worker.queue_limit - sum(self.executors.counts()),
            arrived=self.publisher.flush,
            paused=self.publisher.paused,
        )

    @property
    def _worker_name(self) -> str:
        return f"{self.config.host}_{machine.machine_id()[:8]}"

    def _context(self, config: Config, policy: Policy) -> Context:
        metrics = Metrics()
        metrics.build.info({"version": version(), "firecracker": self._firecracker_version})
        gauges = Gauges(self.executors, self.ledger, self._redis, self._keys)
        metrics.registry.register(LiveGauges(gauges.read))
        return Context(
            config=config,
            settings=build_settings(config),
            policy=policy,
            host=self.host,
            ledger=self.ledger,
            locks=Locks(config.paths.runtime / "lock", timeout_s=config.worker.lock_timeout_s),
            publisher=self.publisher,
            executors=self.executors,
            metrics=metrics,
            clock=Clock(),
            pong=self._pong,
            random=random.random,
            suspects=suspects_at_start(self.ledger),
            watch=self.watch.look,
        )

    # ------------------------------------------------------------ running

    def run(self) -> None:
        """Serves until SIGTERM or SIGINT; what runs then is let end, what waits stays queued.

        Raises:
            StartupError: something that it cannot go on without failed; it says what.
        """
        with call_on_stop(self.stop):
            self._serve_queue()
        if type(self._fatal) is sqlite3.DatabaseError:  # not of a kind that passes, as a full disk
            raise unusable_ledger(self.config.paths.ledger, self._fatal) from self._fatal
        if self._fatal is not None:
            raise StartupError(f"hostd had to stop: {self._fatal}") from self._fatal

    def _serve_queue(self) -> None:
        server = self._serve()
        self.draining.resume()
        told, again = recover.publish_decided(self.context), recover.resume_unfinished(self.context)
        recover.retry_sleeps(self.context)
        recover.reconcile_all(self.context, rebooted=self._rebooted)
        self.draining.look()
        if told or again:
            log.info("recovered: %d results told again, %d requests taken up again", told, again)
        keeper = threading.Thread(target=self._keep_house, name="housekeeping", daemon=True)
        keeper.start()
        sweeping = threading.Thread(
            target=self._sweeper().run, args=(self.worker.stopping,), name="sweep", daemon=True
        )
        sweeping.start()
        await_clock(
            synchronized=machine.clock_is_synchronized,
            uptime_s=machine.uptime_s,
            pause=self.worker.stopping.wait,
        )
        try:
            self.worker.work()
        except sqlite3.Error as error:
            self._die(error)
        finally:
            self._let_end()
            if server is not None:
                server.shutdown()
                server.server_close()
            until = time.monotonic() + STOP_SPARE_S
            for thread in (keeper, sweeping):
                thread.join(max(0.0, until - time.monotonic()))
            self._close()

    def _let_end(self) -> None:
        """What runs has ended, or its time is over; what is decided is told."""
        try:
            if not self.executors.stop(self.config.worker.stop_timeout_s):
                log.warning("a request still runs; it is taken up again at the next start")
            self.publisher.flush()
        except sqlite3.Error as error:
            self._die(error)

    def _close(self) -> None:
        """Nothing is written any more; what still runs dies with the process."""
        self._mark()
        try:
            self._leave_running()  # last, so that no attempt begins behind its back
        except sqlite3.Error as error:
            self._die(error)
        self._closed = True
        self._open.close()

    def _keep_house(self) -> None:
        try:
            self._housekeeping().run()
        except sqlite3.Error as error:
            self._die(error)

    def _leave_running(self) -> None:
        """A shutdown burns no attempt, and makes nobody a suspect."""
        for subject in self.executors.running():
            if isinstance(subject, InFlight):
                self.ledger.unattempted(subject.entry.request_id)

    def _vmm_ended(self, ref: InstanceRef, how: str) -> None:
        reconcile_one(ref, how, self.context)

    def _housekeeping(self) -> Housekeeping:
        return Housekeeping(
            worker=self.worker,
            executors=self.executors,
            publisher=self.publisher,
            ledger=self.ledger,
            retention_days=self.config.ledger.retention_days,
            claim=lambda: redis_host.refresh(self._redis, self._keys, self._owner),
            settled=self._settled,
            trim=self.host.vmm.trim_logs,
            mark=self._mark,
            drain=self.draining.look,
        )

    def _sweeper(self) -> Sweeper:
        boot_id = self._boot_id
        return Sweeper(
            self.context,
            SweepHistory.of(self.config, boot_id=boot_id),
            same_state=lambda: is_same_state(self.ledger, self._layout, boot_id=boot_id),
        )

    def _settled(self) -> None:
        """Once every instance was looked at, this boot is the one that is known."""
        if not self.context.unreconciled and self.ledger.noted(BOOT_ID) != self._boot_id:
            self.ledger.put_note(BOOT_ID, self._boot_id)

    def _mark(self) -> None:
        try:
            write_marker(self.ledger, self._layout)
        except (HostdError, StartupError, sqlite3.Error) as error:
            log.warning("the ledger's marker: %s", error)

    def stop(self) -> None:
        """Asks `run` to return."""
        self.worker.stopping.set()

    def _die(self, error: BaseException) -> None:
        if self._closed:
            return  # the ledger was closed under what is left running
        self._fatal = error
        self.stop()

    def _deliver(self, deliveries: Sequence[Delivery]) -> None:
        with self.executors.batch(), self.ledger.transaction():
            for delivery in deliveries:
                submit(delivery, self.context)

    # ------------------------------------------------------------ seen from outside

    def _serve(self) -> ThreadingHTTPServer | None:
        if self._listening is None:
            return None
        registry = self.context.metrics.registry
        return serve(self._listening, registry, healthy=self._healthy, ready=self._ready)

    def _healthy(self) -> tuple[bool, str]:
        dead = self.executors.dead_threads()
        return not dead, f"dead threads: {', '.join(dead)}" if dead else "ok"

    def _ready(self) -> tuple[bool, str]:
        ready = self.worker.connected.is_set()
        return ready, "ready" if ready else "Redis is away, or hostd is still starting"

    def _pong(self) -> Pong:
        return Pong(
            host=self.config.host,
            version=self._version,
            boot_id=self._boot_id,
            uptime_s=round(machine.uptime_s(), 3),
            firecracker_version=self._firecracker_version,
            queue_depth=max(0, sum(self.executors.counts()) - 1),  # this Ping apart
        )


def make_directories(config: Config) -> None:
    """The state and the runtime directory exist.

    Raises:
        StartupError: one cannot be made.
    """
    for key in ("state", "runtime"):
        path = getattr(config.paths, key)
        try:
            path.mkdir(parents=True, exist_ok=True, mode=0o755)
        except OSError as error:
            raise StartupError(f"[paths] {key} = {path}: {error.strerror}") from error
