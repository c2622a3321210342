"""docs/runbook.md has an entry for each error code and each alert, and none for others."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from enqueue.results import FailureClass
from worker.errors import Broken, Conflict, HostdError, Lost, Rejected, Transient

ROOT = Path(__file__).parents[2]
RUNBOOK = ROOT / "docs" / "runbook.md"
ALERTS = ROOT / "deploy" / "prometheus" / "hostd.rules.yml"
CLASSES: dict[str, str] = {
    error.__name__: error.failure_class for error in (Rejected, Conflict, Transient, Lost, Broken)
}
CODE = re.compile(r"(rejected|conflict|transient|lost|broken)/[a-z_0-9]+")
HEADING = re.compile(r"^### `?(?P<name>[A-Za-z_/0-9]+)`?$", re.MULTILINE)


def sources(package: str) -> Iterator[tuple[Path, ast.Module]]:
    for path in sorted((ROOT / package).rglob("*.py")):
        yield path, ast.parse(path.read_text(), filename=str(path))


def error_classes() -> dict[str, str]:
    """Names under which an error of a class is raised: the five, and those derived from them."""
    known = dict(CLASSES)
    nodes = [node for _, tree in sources("worker") for node in ast.walk(tree)]
    for node in nodes:
        if isinstance(node, ast.ClassDef):
            for base in node.bases:
                if isinstance(base, ast.Name) and base.id in known:
                    known[node.name] = known[base.id]
    return known


def raised() -> dict[str, list[str]]:
    """Code to the places that raise it.  A code that is no literal cannot be found: refused."""
    known = error_classes()
    found: dict[str, list[str]] = {}
    for path, tree in sources("worker"):
        for node in ast.walk(tree):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
                continue
            if node.func.id not in known:
                continue
            where = f"{path.relative_to(ROOT)}:{node.lineno}"
            code = node.args[0] if node.args else None
            assert isinstance(code, ast.Constant), f"{where}: write the code as a literal"
            assert isinstance(code.value, str), where
            found.setdefault(f"{known[node.func.id]}/{code.value}", []).append(where)
    return found


def made_by_the_client() -> set[str]:
    """Whole codes that agentd's side makes by itself."""
    return {
        node.value.value
        for _, tree in sources("enqueue")
        for node in ast.walk(tree)
        if isinstance(node, ast.keyword)
        and node.arg == "code"
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    }


def headings() -> list[str]:
    return [match["name"] for match in HEADING.finditer(RUNBOOK.read_text())]


def entry(name: str) -> str:
    """What stands under a heading."""
    text = RUNBOOK.read_text()
    found = re.search(rf"^### `?{re.escape(name)}`?\n(.*?)(?=^##|\Z)", text, re.M | re.S)
    assert found, f"docs/runbook.md has no entry for {name}"
    return found[1]


CODES = sorted({*raised(), *made_by_the_client()})


def test_the_classes_are_those_of_results() -> None:
    assert set(CLASSES.values()) == set(FailureClass.__args__)  # type: ignore[attr-defined]  # typing has no public way
    assert set(CLASSES) == {error.__name__ for error in HostdError.__subclasses__()}


@pytest.mark.parametrize("code", CODES)
def test_a_code_has_an_entry_that_says_what_to_do(code: str) -> None:
    said = entry(code)
    for part in ("Meaning:", "hostd:", "Do:"):
        assert part in said, f"the entry of {code} has no line {part!r}"


def test_each_entry_is_for_a_code_that_is_raised() -> None:
    stale = {name for name in headings() if CODE.fullmatch(name)} - set(CODES)
    assert not stale


def test_no_entry_exists_twice() -> None:
    names = headings()
    assert sorted(names) == sorted(set(names))


def test_codes_named_anywhere_in_the_documents_exist() -> None:
    for path in (ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")):
        named = {match[0] for match in CODE.finditer(path.read_text())}
        assert named <= set(CODES), f"{path.relative_to(ROOT)} names codes that nobody raises"


@pytest.mark.skipif(not ALERTS.exists(), reason="there are no alerts")
def test_alerts_and_their_entries_are_the_same() -> None:
    rules = yaml.safe_load(ALERTS.read_text())
    alerts = {
        rule["alert"]: rule
        for group in rules["groups"]
        for rule in group["rules"]
        if "alert" in rule
    }
    assert set(alerts) == {name for name in headings() if "/" not in name}
    for alert, rule in alerts.items():
        assert "Do:" in entry(alert), f"the entry of {alert} does not say what to do"
        assert rule["annotations"]["runbook"] == f"docs/runbook.md#{alert.lower()}"
