"""N threads that resume stories when what they wait for has come, and one that answers.

A story that waits costs no thread.  While its turn lasts it keeps its keys, also through retries.
"""

from __future__ import annotations

import heapq
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from itertools import count

from worker.scheduling.admission import Admission, IsBarred
from worker.scheduling.turns import Turns
from worker.scheduling.waits import Backoff, ReleaseKeys, ReplyNow, Turn, Wait

log = logging.getLogger("hostd")

BEHIND = 1 << 60  # more than there are tasks


@dataclass(eq=False, slots=True)
class Task:
    """One story; `subject` is that of its turn."""

    story: Iterator[Wait]
    order: int
    subject: object = None
    has_turn: bool = False
    running: bool = False
    gone: bool = False


@dataclass(slots=True)
class _Lane:
    """Tasks that may run now, oldest first."""

    heap: list[tuple[int, Task]] = field(default_factory=list)

    def push(self, task: Task) -> None:
        heapq.heappush(self.heap, (task.order, task))

    def pop(self) -> Task | None:
        while self.heap:
            _, task = heapq.heappop(self.heap)
            if not task.gone:
                return task
        return None


class Executors:
    """Runs stories to their ends."""

    def __init__(
        self,
        threads: int,
        *,
        answering: Callable[[], AbstractContextManager[object]],
        fatal: Callable[[BaseException], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`answering` wraps each batch of answers; `fatal` is told what a story never raises."""
        self._answering = answering
        self._fatal = fatal
        self._clock = clock
        lock = threading.RLock()
        self._state = threading.Condition(lock)  # the executors wait on it
        self._to_answer = threading.Condition(lock)  # the answering thread waits on it
        self._turns: Turns[Task] = Turns()
        self._admission: Admission[Task] = Admission()
        self._ready = _Lane()
        self._answers: list[Task] = []
        self._delayed: list[tuple[float, int, Task]] = []
        self._held: list[tuple[Task, Wait]] | None = None
        self._tasks: set[Task] = set()
        self._numbers = count()
        self._stopping = False
        names = [f"executor-{n}" for n in range(threads)]
        self._threads = [threading.Thread(target=self._execute, name=name) for name in names]
        self._threads.append(threading.Thread(target=self._answer, name="answering"))
        for thread in self._threads:
            thread.daemon = True  # a stop that ran out of time must not hang at exit
            thread.start()

    # ------------------------------------------------------------ taking in

    def submit(self, story: Iterator[Wait], *, behind: bool = False) -> None:
        """Runs the story up to its first wait, on the caller's thread.

        `behind`: what may run at all runs before it.
        """
        task = Task(story, next(self._numbers) + behind * BEHIND)
        wait = next(story, None)
        if wait is None:
            return
        with self._state:
            self._tasks.add(task)
            if isinstance(wait, Turn):
                task.subject = wait.subject
            if self._held is not None:
                self._held.append((task, wait))
            else:
                self._place(task, wait)

    @contextmanager
    def batch(self) -> Iterator[None]:
        """Stories submitted within go on only when the block ends well."""
        self._held = []
        try:
            yield
        except BaseException:
            self._held = None
            raise
        with self._state:
            held, self._held = self._held, None
            for task, wait in held:
                if not task.gone:
                    self._place(task, wait)

    def withdraw(self, wanted: Callable[[object], bool]) -> list[object]:
        """Takes out the tasks that wait, and do not run, whose subject is wanted."""
        with self._state:
            found = [task for task in self._tasks if not task.running and wanted(task.subject)]
            for task in sorted(found, key=lambda task: task.order):
                task.gone = True
                self._let_go(task)
            return [task.subject for task in found]

    # ------------------------------------------------------------ the gate

    def close_admission(self, barred: IsBarred) -> None:
        """What is barred waits outside from now on; what has its turn asks by `bars`."""
        with self._state:
            self._admission.close(barred)

    def open_admission(self) -> None:
        """Nothing is barred; what waited outside gets in line, in its order."""
        with self._state:
            for task, turn in self._admission.open():
                self._place(task, turn)

    def is_barred(self, turn: Turn) -> bool:
        """Whether this turn, asked for now, would wait outside."""
        with self._state:
            return self._admission.is_barred(turn)

    # ------------------------------------------------------------ looking

    def waiting(self) -> list[object]:
        """The subjects of what waits for its turn, or outside the gate."""
        with self._state:
            return [
                task.subject
                for task in self._tasks
                if task in self._admission or (task.has_turn and not self._turns.may_run(task))
            ]

    def running(self) -> list[object]:
        """The subjects of what runs now."""
        with self._state:
            return [task.subject for task in self._tasks if task.running]

    def counts(self) -> tuple[int, int]:
        """How many run now, and how many wait."""
        with self._state:
            running = sum(task.running for task in self._tasks)
            return running, len(self._tasks) - running

    def dead_threads(self) -> list[str]:
        """Names of threads that ended without being asked to."""
        return [thread.name for thread in self._threads if not thread.is_alive()]

    def idle(self) -> bool:
        """Whether nothing is unfinished."""
        with self._state:
            return not self._tasks

    def stop(self, timeout_s: float) -> bool:
        """Lets what runs end, starts nothing more; whether all ended within the timeout."""
        with self._state:
            self._stopping = True
            self._state.notify_all()
            self._to_answer.notify()
        deadline = self._clock() + timeout_s
        for thread in self._threads:
            thread.join(max(0.0, deadline - self._clock()))
        return not any(thread.is_alive() for thread in self._threads)

    # ------------------------------------------------------------ moving tasks (lock held)

    def _place(self, task: Task, wait: Wait) -> None:
        match wait:
            case ReplyNow():
                self._answers.append(task)
                self._to_answer.notify()
            case Turn():
                self._get_in_line(task, wait)
            case ReleaseKeys(keys):
                for key in keys:
                    self._may_go(self._turns.release(task, key))
                self._may_go([task])
            case Backoff(due_s):
                heapq.heappush(self._delayed, (due_s, task.order, task))
                self._state.notify_all()  # each waits no longer than until the first of these

    def _get_in_line(self, task: Task, turn: Turn) -> None:
        self._give_up_turn(task)
        task.subject = turn.subject
        if self._admission.park(task, turn):
            return
        task.has_turn = True
        if self._turns.admit(task, turn.keys):
            self._may_go([task])

    def _let_go(self, task: Task) -> None:
        self._tasks.discard(task)
        self._admission.remove(task)
        self._give_up_turn(task)

    def _give_up_turn(self, task: Task) -> None:
        if task.has_turn:
            task.has_turn = False
            self._may_go(self._turns.finish(task))

    def _may_go(self, tasks: list[Task]) -> None:
        for task in tasks:
            self._ready.push(task)
        self._state.notify(len(tasks))

    def _next_ready(self) -> Task | None:
        """Waits for a task whose turn and time have come; None when stopping."""
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
                self._let_go(task)
            else:
                self._place(task, wait)
