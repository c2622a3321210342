"""Tables are aligned, fit a terminal, and keep ids whole where they can."""

from __future__ import annotations

import pytest

from enqueue.tables import print_table, table_lines

TITLES = ("request", "outcome", "ms")
ROWS = (("r-1", "done", "7"), ("r-22", "the guest did not answer", "1200"))


def test_columns_are_as_wide_as_their_content_and_numbers_are_at_the_right() -> None:
    assert list(table_lines(TITLES, ROWS, right=["ms"])) == [
        "request  outcome                     ms",
        "r-1      done                         7",
        "r-22     the guest did not answer  1200",
    ]


def test_long_cells_are_wrapped_between_words_at_the_terminals_width() -> None:
    assert list(table_lines(TITLES, ROWS, right=["ms"], width=33)) == [
        "request  outcome               ms",
        "r-1      done                   7",
        "r-22     the guest did not   1200",
        "         answer",
    ]


def test_an_id_is_broken_only_if_nothing_else_gives_room() -> None:
    rows = [("f3a1-77c2", "no room on the disk")]
    assert list(table_lines(("id", "why"), rows, width=16)) == [
        "id         why",
        "f3a1-77c2  no",
        "           room",
        "           on",
        "           the",
        "           disk",
    ]
    assert list(table_lines(("id", "why"), rows, width=11))[1].startswith("f3a1")
    assert max(map(len, table_lines(("id", "why"), rows, width=11))) <= 11


def test_titles_are_never_cut() -> None:
    assert next(table_lines(TITLES, ROWS, width=5)) == "request  outcome    ms".replace(
        "    ", "  "
    )


def test_control_characters_do_not_reach_the_terminal() -> None:
    assert list(table_lines(["why"], [["a\x1b[2Jb\nc"]])) == ["why", "a [2Jb c"]


def test_elsewhere_than_on_a_terminal_rows_are_whole_and_plain(
    capsys: pytest.CaptureFixture[str],
) -> None:
    print_table(["why"], [["word " * 100 + "end"]])
    title, row = capsys.readouterr().out.splitlines()
    assert title == "why"
    assert row.endswith("end")
