"""What a contributor reads is so: floors, threads, words, excerpts and decisions."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import yaml

from tests.unit.test_documents import ROOT

ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text()
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()
DECISIONS = sorted((ROOT / "docs" / "adr").glob("*.md"))
OTHER_PROGRAMS = {"simulator", "demo", "dashboard"}
EXCERPT = re.compile(r"From `(?P<path>[\w./]+)`:\n+```py\n(?P<text>.*?)^```$", re.M | re.S)


def rows(text: str, heading: str) -> list[list[str]]:
    """The cells of the first table below a heading."""
    below = text.split(f"\n## {heading}\n", 1)[1]
    table = below[below.index("\n|") :].split("\n\n")[0].strip().splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table[2:]]


def test_the_floors_are_those_of_the_import_rules() -> None:
    rules = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    (layers,) = [
        contract["layers"]
        for contract in rules["contracts"]
        if contract["type"] == "layers" and contract["containers"] == ["worker"]
    ]
    floors = [re.findall(r"`(\w+)`", cells[0]) for cells in rows(ARCHITECTURE, "The floors")]
    assert floors == [layer.split(" | ") for layer in layers]


def test_every_thread_of_hostd_is_in_the_table() -> None:
    known = {cells[0].strip("`") for cells in rows(ARCHITECTURE, "Threads")}
    rooms = [path for path in (ROOT / "worker").iterdir() if path.name not in OTHER_PROGRAMS]
    sources = [path for room in rooms for path in room.rglob("*.py")]
    starting = {str(path.relative_to(ROOT)) for path in sources if "Thread(" in path.read_text()}
    named = {cells[1].strip("`") for cells in rows(ARCHITECTURE, "Threads")}
    assert starting - {"worker/daemon/hostd.py"} <= named
    hostd = (ROOT / "worker" / "daemon" / "hostd.py").read_text()
    assert set(re.findall(r'_thread\("(\w+)"', hostd)) <= known
    for path in sources:
        assert set(re.findall(r'Thread\(.*name="(\w+)"', path.read_text())) <= known


def test_each_word_of_the_glossary_occurs_once_in_order_and_lives_somewhere() -> None:
    table = rows("\n## Words\n" + (ROOT / "docs" / "glossary.md").read_text(), "Words")
    words = [cells[0] for cells in table]
    assert words == sorted(set(words), key=lambda word: (word.lower().replace("-", " "), word))
    for word, meaning, module in table:
        assert meaning.endswith("."), word
        assert (ROOT / module.strip("`")).exists(), word


def test_excerpts_in_the_contributors_guide_are_in_the_named_files() -> None:
    excerpts = list(EXCERPT.finditer(CONTRIBUTING))
    assert len(excerpts) == CONTRIBUTING.count("```py\n")
    for excerpt in excerpts:
        assert excerpt["text"] in (ROOT / excerpt["path"]).read_text(), excerpt["path"]


@pytest.mark.parametrize("decision", DECISIONS, ids=[path.stem for path in DECISIONS])
def test_a_decision_has_the_form_of_all_and_is_in_the_index(decision: Path) -> None:
    text = decision.read_text()
    number, title = re.match(r"# (\d{4}): ([A-Z].*)\n\n", text).groups()  # type: ignore[union-attr]
    assert decision.name.startswith(f"{number}-")
    headings = re.findall(r"^#+ .*$", text, re.M)
    assert headings[1:] == ["## Context", "## Decision", "## Consequences"]
    index = (ROOT / "docs" / "README.md").read_text()
    assert f"| [{number}](adr/{decision.name}) | {title} |\n" in index


def test_decisions_are_numbered_in_one_row() -> None:
    assert [int(path.name[:4]) for path in DECISIONS] == list(range(1, len(DECISIONS) + 1))


def test_the_hooks_before_a_commit_run_what_make_check_runs() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    makefile = (ROOT / "Makefile").read_text().replace("$(PYTEST)", "$(BIN)/python -m pytest")
    check = makefile.split("\ncheck:")[1].split("\n\n")[0].replace("$(BIN)", ".venv/bin")
    commands = re.findall(r"\.venv/bin/[^&>|\n]*[^&>|\s]", check)
    assert [hook["entry"] for hook in hooks] == commands
