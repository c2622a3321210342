"""Times and durations as text."""

from __future__ import annotations

import time

import pytest

from enqueue.times import Clock, format_iso, format_rq, format_utc, parse_duration, parse_time

NOW_MS = 1_800_000_000_123


def test_a_clock_counts_whole_milliseconds() -> None:
    assert Clock(wall=lambda: 1.9999).now_ms() == 1999


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("90s", 90), ("15m", 900), ("2h", 7200), ("7d", 604_800)]
)
def test_a_duration_is_in_seconds(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "s", "-1s", "1.5h", "1 h", "2w", "90s\n"])
def test_anything_else_is_not_a_duration(text: str) -> None:
    with pytest.raises(ValueError, match="is not a valid duration"):
        parse_duration(text)


@pytest.mark.parametrize(
    "text",
    ["2027-01-15T08:00:00.123Z", "2027-01-15 08:00:00.123", "2027-01-15T13:00:00.123+05:00"],
)
def test_a_time_without_a_zone_is_utc(text: str) -> None:
    assert parse_time(text) == NOW_MS


def test_an_age_counts_back_from_now() -> None:
    assert parse_time("90m") == pytest.approx((time.time() - 5400) * 1000, abs=5000)


@pytest.mark.parametrize("text", ["", "90", "soon", "2w"])
def test_anything_else_is_neither_a_time_nor_an_age(text: str) -> None:
    with pytest.raises(ValueError, match="is neither a time"):
        parse_time(text)


def test_each_reader_has_its_format() -> None:
    assert format_utc(NOW_MS) == "2027-01-15 08:00:00"
    assert format_utc(None) == "-"
    assert format_iso(NOW_MS) == "2027-01-15T08:00:00Z"
    assert format_rq(NOW_MS) == "2027-01-15T08:00:00.123000Z"
