"""A pool of threads that resume stories when what they wait for has come, and one that replies.

A waiting story uses no thread.  A story keeps the keys of its turn until it ends, also between its
attempts.
"""

from __future__ import annotations

import heapq
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from itertools import count
from typing import Final

from worker.scheduling.admission import Admission, IsBarred
from worker.scheduling.tasks import ReadyQueue, Task
from worker.scheduling.turns import Turns
from worker.scheduling.waits import Backoff, ReleaseKeys, ReplyNow, Turn, Wait

log = logging.getLogger("hostd")

BEHIND: Final = 1 << 60  # larger than the number of any task


class Executors:
    """Runs stories to their ends.  Methods may be called from any thread."""

    def __init__(
        self,
        threads: int,
        *,
        answering: Callable[[], AbstractContextManager[object]],
        fatal: Callable[[BaseException], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Starts the threads.

        `answering` is a context manager around each batch of replies.  `fatal(error)` is called if
        a story raises: that is a bug, and the process must stop.
        """
        self._answering = answering
        self._fatal = fatal
        self._clock = clock
        lock = threading.RLock()
        self._state = threading.Condition(lock)  # the executors wait on it
        self._to_answer = threading.Condition(lock)  # the answering thread waits on it
        self._turns: Turns[Task] = Turns()
        self._admission: Admission[Task] = Admission()
        self._ready = ReadyQueue()
        self._answers: list[Task] = []
        self._delayed: list[tuple[float, int, Task]] = []
        self._batch: list[tuple[Task, Wait]] | None = None
        self._tasks: set[Task] = set()
        self._numbers = count()
        self._stopping = False
        names = [f"executor-{n}" for n in range(threads)]
        self._threads = [threading.Thread(target=self._execute, name=name) for name in names]
        self._threads.append(threading.Thread(target=self._answer, name="answering"))
        for thread in self._threads:
            thread.daemon = True  # a stop that ran out of time must not hang at exit
            thread.start()

    # ------------------------------------------------------------ submit, withdraw

    def submit(self, story: Iterator[Wait], *, behind: bool = False) -> None:
        """Runs the story up to its first wait, on the caller's thread.

        With `behind`, every other story that may run is run before it.
        """
        task = Task(story, next(self._numbers) + behind * BEHIND)
        wait = next(story, None)
        if wait is None:
            return
        with self._state:
            self._tasks.add(task)
            if isinstance(wait, Turn):
                task.in_flight = wait.in_flight
            if self._batch is not None:
                self._batch.append((task, wait))
            else:
                self._schedule(task, wait)

    @contextmanager
    def batch(self) -> Iterator[None]:
        """Stories submitted in this block continue only if the block does not raise."""
        self._batch = []
        try:
            yield
        except BaseException:
            self._batch = None
            raise
        with self._state:
            batch, self._batch = self._batch, None
            for task, wait in batch:
                if not task.removed:
                    self._schedule(task, wait)

    def withdraw(self, wanted: Callable[[object], bool]) -> list[object]:
        """Removes the waiting tasks whose `in_flight` is wanted, and returns their `in_flight`."""
        with self._state:
            found = [task for task in self._tasks if not task.running and wanted(task.in_flight)]
            for task in sorted(found, key=lambda task: task.number):
                task.removed = True
                self._remove(task)
            return [task.in_flight for task in found]

    # ------------------------------------------------------------ admission

    def close_admission(self, barred: IsBarred) -> None:
        """Barred turns are parked from now on; a story that has its turn asks `is_barred`."""
        with self._state:
            self._admission.close(barred)

    def open_admission(self) -> None:
        """Nothing is barred; parked turns join the queue in the order in which they came."""
        with self._state:
            for task, turn in self._admission.open():
                self._schedule(task, turn)

    def is_barred(self, turn: Turn) -> bool:
        """Whether this turn would be parked if it was requested now."""
        with self._state:
            return self._admission.is_barred(turn)

    # ------------------------------------------------------------ observe

    def waiting(self) -> list[object]:
        """The `in_flight` of each task that waits for its turn, or is parked."""
        with self._state:
            return [
                task.in_flight
                for task in self._tasks
                if task in self._admission or (task.has_turn and not self._turns.may_run(task))
            ]

    def running(self) -> list[object]:
        """The `in_flight` of each task that runs now."""
        with self._state:
            return [task.in_flight for task in self._tasks if task.running]

    def counts(self) -> tuple[int, int]:
        """How many tasks run now, and how many wait."""
        with self._state:
            running = sum(task.running for task in self._tasks)
            return running, len(self._tasks) - running

    def dead_threads(self) -> list[str]:
        """Names of threads that ended before `stop` was called."""
        return [thread.name for thread in self._threads if not thread.is_alive()]

    def idle(self) -> bool:
        """Whether every story has ended."""
        with self._state:
            return not self._tasks

    def stop(self, timeout_s: float) -> bool:
        """Lets running stories reach their next wait and starts no other.

        Returns whether all threads ended within the timeout.
        """
        with self._state:
            self._stopping = True
            self._state.notify_all()
            self._to_answer.notify()
        deadline = self._clock() + timeout_s
        for thread in self._threads:
            thread.join(max(0.0, deadline - self._clock()))
        return not any(thread.is_alive() for thread in self._threads)

    # ------------------------------------------------------------ schedule (lock held)

    def _schedule(self, task: Task, wait: Wait) -> None:
        match wait:
            case ReplyNow():
                self._answers.append(task)
                self._to_answer.notify()
            case Turn():
                self._request_turn(task, wait)
            case ReleaseKeys(keys):
                for key in keys:
                    self._make_ready(self._turns.release(task, key))
                self._make_ready([task])
            case Backoff(due_s):
                heapq.heappush(self._delayed, (due_s, task.number, task))
                self._state.notify_all()  # each waits no longer than until the first of these

    def _request_turn(self, task: Task, turn: Turn) -> None:
        self._end_turn(task)
        task.in_flight = turn.in_flight
        if self._admission.park(task, turn):
            return
        task.has_turn = True
        if self._turns.admit(task, turn.keys):
            self._make_ready([task])

    def _remove(self, task: Task) -> None:
        self._tasks.discard(task)
        self._admission.remove(task)
        self._end_turn(task)

    def _end_turn(self, task: Task) -> None:
        if task.has_turn:
            task.has_turn = False
            self._make_ready(self._turns.finish(task))

    def _make_ready(self, tasks: list[Task]) -> None:
        for task in tasks:
            self._ready.push(task)
        self._state.notify(len(tasks))

    def _next_ready(self) -> Task | None:
        """Waits for a task that may run; None when stopping."""
        with self._state:
            while not self._stopping:
                now = self._clock()
                while self._delayed and self._delayed[0][0] <= now:
                    self._ready.push(heapq.heappop(self._delayed)[2])
                task = self._ready.pop()
                if task is not None:
                    task.running = True
                    return task
                self._state.wait(self._delayed[0][0] - now if self._delayed else None)
            return None

    def _next_answers(self) -> list[Task]:
        with self._state:
            while not self._answers and not self._stopping:
                self._to_answer.wait()
            tasks, self._answers = self._answers, []
            for task in tasks:
                task.running = True
            return tasks

    # ------------------------------------------------------------ threads

    def _execute(self) -> None:
        while (task := self._next_ready()) is not None:
            self._resume(task)

    def _answer(self) -> None:
        while tasks := self._next_answers():
            try:
                with self._answering():
                    for task in tasks:
                        self._resume(task)
            except BaseException as error:  # noqa: BLE001  reported; the process ends
                self._fatal(error)

    def _resume(self, task: Task) -> None:
        try:
            wait = next(task.story, None)
        except BaseException as error:
            log.critical("a story raised", exc_info=error)
            self._fatal(error)
            return
        with self._state:
            task.running = False
            if wait is None:
                self._remove(task)
            else:
                self._schedule(task, wait)
