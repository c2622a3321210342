"""What a drain does next, given its deadline, the guests' sizes and the disk's rate."""

from __future__ import annotations

import msgspec
import pytest

from enqueue.requests import SleepInstance, StartInstance, StopInstance, WakeInstance
from enqueue.results import Done, Failed, StepReport
from worker.drain import policy as plans
from worker.drain.policy import Drain, Guest, Strategy

NOW_MS = 1_800_000_000_000
SIZES = {"i-00000001": 100, "i-00000002": 400, "i-00000003": 200}


def guest(instance_id: str, mem_mib: int, **more: object) -> Guest:
    who = {"tenant_id": "acme", "pool_id": "p", "instance_id": instance_id, "mem_mib": mem_mib}
    return msgspec.convert(who | more, Guest)


def drain(seconds: float, *, rate_mib_s: float = 10.0, strategy: Strategy = "sleep") -> Drain:
    deadline_ms = NOW_MS + int(seconds * 1000)
    made = plans.begun("d1", strategy, now_ms=NOW_MS, deadline_ms=deadline_ms)
    made = msgspec.structs.replace(made, rate_mib_s=rate_mib_s)
    running = [guest(name, mem_mib) for name, mem_mib in SIZES.items()]
    return plans.in_order(plans.with_running(made, running), now_ms=NOW_MS)


def begin(made: Drain, lanes: int, *, now_ms: int = NOW_MS) -> tuple[Drain, list[int]]:
    """The drain with the next ones begun, and their sizes."""
    due = plans.next_guests(made, now_ms=now_ms, lanes=lanes)
    for one in due:
        begun = msgspec.structs.replace(one, request_id=one.instance_id, begun_ms=now_ms)
        made = plans.with_guest(made, begun)
    return made, [one.mem_mib for one in due]


def ended(made: Drain, instance_id: str, outcome: str) -> Drain:
    (one,) = (one for one in made.guests if one.instance_id == instance_id)
    return plans.with_guest(made, msgspec.structs.replace(one, outcome=outcome))


def test_the_largest_goes_first_if_all_fit() -> None:
    made = drain(70.0)
    assert made.order == "largest_first"
    assert begin(made, 3)[1] == [400, 200, 100]


def test_the_smallest_goes_first_if_not_all_fit_and_what_does_not_fit_is_not_begun() -> None:
    made = drain(69.0)
    assert made.order == "smallest_first"
    assert begin(made, 3)[1] == [100, 200]


def test_no_more_are_begun_at_a_time_than_there_are_lanes() -> None:
    made, sizes = begin(drain(100.0), 2)
    assert sizes == [400, 200]
    assert begin(made, 2)[1] == []
    assert begin(ended(made, "i-00000002", plans.SLEPT), 2)[1] == [100]


def test_a_sleep_in_progress_takes_time_from_later_ones() -> None:
    made, _ = begin(drain(70.0), 1)
    late_ms = NOW_MS + 45_000  # the large one is written, 25 s are left
    made = ended(made, "i-00000002", plans.SLEPT)
    made, sizes = begin(made, 1, now_ms=late_ms)
    assert sizes == [200]
    assert begin(made, 2, now_ms=late_ms)[1] == [], "10 s beside 20 s do not fit into 25 s"
    assert begin(made, 2, now_ms=late_ms + 10_000)[1] == [], "10 s and 10 s left, in 15 s"


def test_past_the_deadline_nothing_is_begun_even_without_anything_to_write() -> None:
    made = drain(1.0, strategy="stop")
    assert begin(made, 3, now_ms=NOW_MS + 999)[1] == [400, 200, 100]
    assert begin(made, 3, now_ms=NOW_MS + 1000)[1] == []


def test_a_guest_that_ended_by_itself_is_not_begun() -> None:
    made = plans.with_running(drain(100.0), [guest("i-00000002", 400)])
    assert begin(made, 3)[1] == [400]
    assert [one.outcome for one in made.guests] == [plans.GONE, None, plans.GONE]


def test_a_guest_that_starts_meanwhile_is_put_away_too() -> None:
    late = guest("i-00000004", 50)
    made = plans.with_running(drain(100.0), [late])
    assert late in made.guests


def test_a_guest_that_runs_again_is_put_away_again_but_not_one_that_failed() -> None:
    made, _ = begin(drain(100.0), 3)
    made = ended(ended(made, "i-00000001", plans.SLEPT), "i-00000002", "broken/io_error")
    again = plans.with_running(made, [guest("i-00000001", 100), guest("i-00000002", 400)])
    assert begin(again, 3)[1] == [100]


def test_a_repeated_drain_retries_guests_that_are_not_away() -> None:
    made, _ = begin(drain(100.0), 3)
    for name, outcome in zip(SIZES, ("slept", "transient/no_space", "not_begun"), strict=True):
        made = ended(made, name, outcome)
    again = plans.extended(made, "sleep", deadline_ms=NOW_MS + 200_000)
    assert [one.outcome for one in again.guests] == ["slept", None, None]
    assert again.order is None
    assert again.id == made.id


def test_a_guest_may_drain_as_long_as_its_pool_says_if_there_is_time() -> None:
    made = drain(100.0)
    small, large, _ = made.guests
    patient = plans.request_of(small, made, now_ms=NOW_MS, patience_s=30)
    hurried = plans.request_of(large, made, now_ms=NOW_MS + 50_000, patience_s=30)
    late = plans.request_of(large, made, now_ms=NOW_MS + 99_000, patience_s=30)
    asked = [msgspec.to_builtins(one)["drain_timeout_secs"] for one in (patient, hurried, late)]
    assert isinstance(patient, SleepInstance)
    assert asked == [None, 10, 0]


def test_a_stop_is_brought_back_by_a_start_and_a_sleep_by_a_wake() -> None:
    made = drain(100.0, strategy="stop")
    one = made.guests[0]
    assert isinstance(plans.request_of(one, made, now_ms=NOW_MS, patience_s=0), StopInstance)
    slept = msgspec.structs.replace(one, outcome=plans.SLEPT)
    stopped = msgspec.structs.replace(one, outcome=plans.STOPPED)
    assert isinstance(plans.request_back(slept), WakeInstance)
    assert isinstance(plans.request_back(stopped), StartInstance)


def test_the_rate_is_the_median_of_what_sleeps_have_shown() -> None:
    def slept(mib: int, ms: float) -> Done:
        steps = (
            StepReport(name="guest_paused", ms=1e6, applied=True),
            StepReport(name="image_sealed", ms=ms, applied=True),
        )
        detail = {"image_bytes": mib << 20}
        return Done(op="SleepInstance", changed=True, state="sleeping", steps=steps, detail=detail)

    without = Done(op="SleepInstance", changed=False, state="sleeping")
    assert plans.measured([slept(100, 1000.0), without, slept(30, 100.0), slept(1, 1000.0)]) == 100
    assert plans.measured([without, None]) is None


@pytest.mark.parametrize(
    ("code", "outcome"),
    [("conflict/cancelled", plans.NOT_BEGUN), ("transient/no_space", "transient/no_space")],
)
def test_a_failure_is_reported_by_its_code(code: str, outcome: str) -> None:
    failed = Failed(op="SleepInstance", code=code, failure_class="conflict", message="")
    assert plans.outcome_of(failed) == outcome


def test_a_guest_that_slept_already_was_not_put_away_by_the_drain() -> None:
    unchanged = Done(op="SleepInstance", changed=False, state="sleeping")
    assert plans.outcome_of(unchanged) == plans.UNCHANGED


@pytest.mark.parametrize(
    ("outcome", "status", "later", "left"),
    [
        (plans.SLEPT, "sleeping", None, None),
        (plans.STOPPED, "stopped", None, None),
        (plans.SLEPT, "stopped", None, "it is stopped now"),
        (plans.SLEPT, "sleeping", "r7", "request r7 has decided about it since: it is sleeping"),
        (plans.SLEPT, None, "r7", "it was destroyed since"),
        (None, "running", None, "the drain did not put it away: not_begun"),
        ("lost/memory_lost", "stopped", None, "the drain did not put it away: lost/memory_lost"),
    ],
)
def test_only_guests_put_away_by_the_drain_and_not_changed_since_are_brought_back(
    outcome: str | None, status: str | None, later: str | None, left: str | None
) -> None:
    one = guest("i-00000001", 100, outcome=outcome)
    assert plans.why_left(one, status=status, later=later) == left
