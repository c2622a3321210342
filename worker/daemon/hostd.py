"""`hostd run`: serves the host's queue from start to stop; `worker.wiring` builds its parts."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from http.server import ThreadingHTTPServer
from typing import Final

from enqueue.results import Pong
from worker.config import Config, version
from worker.daemon import startup
from worker.daemon.clock_sync import await_clock
from worker.daemon.deliver import refuse, submit
from worker.daemon.gauges import Gauges
from worker.daemon.housekeeping import Housekeeping
from worker.daemon.http import LiveGauges, listening_socket, serve
from worker.daemon.signals import call_on_stop
from worker.daemon.vmm_watch import VmmWatch
from worker.errors import HostdError, LedgerError, StartupError
from worker.ledger.database import is_damage, unusable_ledger
from worker.ledger.identity import write_marker
from worker.linux import libc, machine
from worker.model.layout import Layout
from worker.model.names import InstanceRef
from worker.protocol.delivery import Delivery
from worker.request.in_flight import InFlight
from worker.request.reconcile import reconcile_one
from worker.scheduling.locks import host_lock
from worker.wiring import BOOT_ID, build_parts, build_policy

log = logging.getLogger("hostd")

STOP_SPARE_S: Final = 10.0  # after [worker] stop_timeout_s, for housekeeping and the sweep


class Hostd:
    """One running hostd.  Everything it opened is in `_opened` and closed with it."""

    def __init__(self, config: Config) -> None:
        """Builds all parts; nothing is taken from the queue before `run`.

        Raises:
            StartupError, ConfigError: a part cannot be built; the message names it and the way out.
        """
        self.config = config
        self._opened = ExitStack()
        self._error: BaseException | None = None
        self._closed = False
        try:
            self._build(config)
        except BaseException:
            self._opened.close()
            raise

    def _build(self, config: Config) -> None:
        if os.geteuid() != 0:
            raise StartupError("hostd run needs root: it makes devices, mounts and control groups")
        libc.limit_arenas(2)
        policy = build_policy(config)
        make_directories(config)
        self._opened.enter_context(host_lock(config.paths.runtime))
        self._listening = listening_socket(config.metrics.listen) if config.metrics.listen else None
        if self._listening is not None:
            self._opened.callback(self._listening.close)
        self.parts = parts = build_parts(config, policy, self, self._opened)
        self.context, self.executors = parts.context, parts.context.executors
        self.ledger, self._version = parts.context.ledger, version()
        self._watch = VmmWatch(self.context.host.vmm, self._reconcile_ended)
        self._opened.callback(self._watch.close)
        metrics = self.context.metrics
        metrics.build.info({"version": self._version, "firecracker": parts.firecracker_version})
        gauges = Gauges(self.executors, self.ledger, parts.queue_depth)
        metrics.registry.register(LiveGauges(gauges.read))

    # ------------------------------------------------------------ run

    def run(self) -> None:
        """Serves until SIGTERM or SIGINT; running requests finish, waiting ones stay queued.

        Raises:
            StartupError: something necessary failed; the message names it.
        """
        with call_on_stop(self.stop):
            self._serve_queue()
        if is_damage(self._error):
            raise unusable_ledger(self.config.paths.ledger, self._error) from self._error
        if self._error is not None:
            raise StartupError(f"hostd had to stop: {self._error}") from self._error

    def _serve_queue(self) -> None:
        worker, server = self.parts.worker, self._serve_http()
        self._recover()
        helpers = (
            self._thread("housekeeping", self._housekeeping().run),
            self._thread("sweep", lambda: self.parts.sweeper.run(worker.stopping)),
        )
        await_clock(
            synchronized=machine.clock_is_synchronized,
            uptime_s=machine.uptime_s,
            pause=worker.stopping.wait,
        )
        try:
            worker.work()
        except LedgerError as error:
            self.fail(error)
        finally:
            self._finish_requests()
            if server is not None:
                server.shutdown()
                server.server_close()
            until = time.monotonic() + STOP_SPARE_S
            for thread in helpers:
                thread.join(max(0.0, until - time.monotonic()))
            self._close()

    def _recover(self) -> None:
        """Continues where the last hostd stopped, before new work is taken."""
        drain, ctx = self.parts.drain, self.context
        drain.resume()
        published, resumed = startup.publish_decided(ctx), startup.resume_unfinished(ctx)
        startup.retry_sleeps(ctx)
        startup.restore_image_size(ctx)
        startup.reconcile_all(ctx, rebooted=self.parts.rebooted)
        drain.step()
        if published or resumed:
            log.info("recovered: %d results published, %d requests resumed", published, resumed)

    def _finish_requests(self) -> None:
        """Waits for running requests until the timeout, then publishes what is decided."""
        try:
            if not self.executors.stop(self.config.worker.stop_timeout_s):
                log.warning("a request still runs; the next start resumes it")
            self.parts.publisher.flush()
        except LedgerError as error:
            self.fail(error)

    def _close(self) -> None:
        """Closes everything; a request that still runs ends with the process."""
        self._write_marker()
        try:
            self._uncount_running()  # last, so that no attempt begins after it
        except LedgerError as error:
            self.fail(error)
        self._closed = True
        self._opened.close()

    def _uncount_running(self) -> None:
        """An attempt cut short by a shutdown does not count, and makes no request a suspect."""
        for in_flight in self.executors.running():
            if isinstance(in_flight, InFlight):
                self.ledger.requests.uncount_attempt(in_flight.entry.request_id)

    def _thread(self, name: str, run: Callable[[], None]) -> threading.Thread:
        def guarded() -> None:
            try:
                run()
            except LedgerError as error:
                self.fail(error)

        thread = threading.Thread(target=guarded, name=name, daemon=True)
        thread.start()
        return thread

    # ------------------------------------------------------------ housekeeping

    def _housekeeping(self) -> Housekeeping:
        parts = self.parts
        return Housekeeping(
            worker=parts.worker,
            executors=self.executors,
            publisher=parts.publisher,
            ledger=self.ledger,
            retention_days=self.config.ledger.retention_days,
            claim=parts.refresh_claim,
            record_boot=self._record_boot,
            trim=self.context.host.vmm.trim_logs,
            write_marker=self._write_marker,
            drain=parts.drain.step,
        )

    def _record_boot(self) -> None:
        """Records this boot's id once every instance has been reconciled."""
        boot_id = self.parts.boot_id
        if not self.context.unreconciled and self.ledger.meta.get(BOOT_ID) != boot_id:
            self.ledger.meta.set(BOOT_ID, boot_id)

    def _write_marker(self) -> None:
        try:
            write_marker(self.ledger, Layout(self.config.paths.state))
        except (HostdError, StartupError, LedgerError) as error:
            log.warning("cannot write the ledger's marker: %s", error)

    # ------------------------------------------------------------ called by the parts

    def deliver(self, deliveries: Sequence[Delivery]) -> None:
        """Submits a batch of jobs in one ledger transaction."""
        with self.executors.batch(), self.ledger.transaction():
            for delivery in deliveries:
                submit(delivery, self.context)

    def refuse(self, delivery: Delivery, reason: str) -> None:
        """Quarantines a job that cannot be read."""
        refuse(delivery, reason, self.context)

    def watch(self, ref: InstanceRef) -> None:
        """Watches the instance's VMM, if one lives."""
        self._watch.watch(ref)

    def _reconcile_ended(self, ref: InstanceRef, how: str) -> None:
        reconcile_one(ref, how, self.context)

    def stop(self) -> None:
        """Makes `run` return."""
        self.parts.worker.stopping.set()

    def fail(self, error: BaseException) -> None:
        """Makes `run` raise because of this error."""
        if self._closed:
            return  # a request that still ran has used the closed ledger
        self._error = error
        self.stop()

    def pong(self) -> Pong:
        """The answer to a Ping."""
        return Pong(
            host=self.config.host,
            version=self._version,
            boot_id=self.parts.boot_id,
            uptime_s=round(machine.uptime_s(), 3),
            firecracker_version=self.parts.firecracker_version,
            queue_depth=max(0, sum(self.executors.counts()) - 1),  # this Ping apart
        )

    # ------------------------------------------------------------ HTTP

    def _serve_http(self) -> ThreadingHTTPServer | None:
        if self._listening is None:
            return None
        registry = self.context.metrics.registry
        return serve(self._listening, registry, healthy=self._healthy, ready=self._ready)

    def _healthy(self) -> tuple[bool, str]:
        dead = self.executors.dead_threads()
        return not dead, f"dead threads: {', '.join(dead)}" if dead else "ok"

    def _ready(self) -> tuple[bool, str]:
        ready = self.parts.worker.connected.is_set()
        return ready, "ready" if ready else "Redis is away, or hostd is still starting"


def make_directories(config: Config) -> None:
    """Makes the state and the runtime directory.

    Raises:
        StartupError: one cannot be made.
    """
    for key in ("state", "runtime"):
        path = getattr(config.paths, key)
        try:
            path.mkdir(parents=True, exist_ok=True, mode=0o755)
        except OSError as error:
            raise StartupError(f"[paths] {key} = {path}: {error.strerror}") from error
