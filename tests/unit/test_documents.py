"""What the documents say of this repository is so: paths, links, examples, commands."""

from __future__ import annotations

import ast
import importlib
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from prometheus_client.metrics import MetricWrapperBase

from enqueue.hostctl import cli as hostctl
from enqueue.requests import REQUEST_TYPES
from tests.unit.test_table import TABLE
from worker import cli as hostd
from worker.plans import destroy, sleep, start, stop, wake
from worker.plans.action import UNCHANGED, Action
from worker.protocol.metrics import Metrics

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "deploy").rglob("*.md")],
)
LINK = re.compile(r"\[[^\]]*\]\((?P<target>[^)\s]+)\)")
FENCE = re.compile(r"^```(?P<kind>\w*)\n(?P<text>.*?)^```$", re.M | re.S)
# A path of this repository in running text: `worker/job.py`, `tests/unit/`, `Makefile`.
NAMED = re.compile(
    r"`(?P<path>(?:enqueue|worker|tests|docs|deploy|bench)/[\w./-]*|Makefile|pyproject\.toml)`"
)
PATH = re.compile(r"(?<![\w/.-])(?P<path>(?:enqueue|worker|tests|docs|deploy|bench)/[\w./-]*[\w/])")
SUFFIXES = {".py", ".md", ".toml", ".lua", ".yml", ".conf", ".service"}
PLAIN = {"Makefile", "Dockerfile"}
IGNORED = {".venv", ".git", "build"}
# Documents of Firecracker's repository, which comments give as the source of a fact.
OF_FIRECRACKER = {"docs/vsock.md", "docs/snapshotting/versioning.md"}
HEADING = re.compile(r"^#{1,6} (?P<text>.+)$", re.M)

documents = pytest.mark.parametrize(
    "document", DOCUMENTS, ids=[str(path.relative_to(ROOT)) for path in DOCUMENTS]
)


def without_code(text: str) -> str:
    return re.sub(r"`[^`\n]+`", "", FENCE.sub("", text))


def anchors(path: Path) -> set[str]:
    """A heading's anchor as GitHub makes it."""
    titles = (match["text"] for match in HEADING.finditer(FENCE.sub("", path.read_text())))
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@documents
def test_links_have_a_target(document: Path) -> None:
    for match in LINK.finditer(without_code(document.read_text())):
        target, _, anchor = match["target"].partition("#")
        if re.match(r"[a-z]+:", target):
            continue
        path = (document.parent / target).resolve() if target else document
        assert path.exists(), f"{document.name} links to {match['target']}"
        if anchor:
            assert anchor in anchors(path), f"{document.name} links to {match['target']}"


@documents
def test_named_paths_exist(document: Path) -> None:
    missing = [
        match["path"]
        for match in NAMED.finditer(document.read_text())
        if not (ROOT / match["path"]).exists()
    ]
    assert not missing


def test_sources_and_documents_name_no_file_that_is_gone() -> None:
    kept = [path for path in ROOT.rglob("*") if path.suffix in SUFFIXES or path.name in PLAIN]
    sources = [path for path in kept if not IGNORED & set(path.relative_to(ROOT).parts)]
    assert len(sources) > 300
    gone = [
        f"{path.relative_to(ROOT)} names {match['path']}"
        for path in sources
        for match in PATH.finditer(path.read_text())
        if match["path"] not in OF_FIRECRACKER and not (ROOT / match["path"]).exists()
    ]
    assert not gone


def code_blocks(kind: str) -> Iterator[tuple[str, str]]:
    for path in DOCUMENTS:
        for match in FENCE.finditer(path.read_text()):
            if match["kind"] == kind:
                yield str(path.relative_to(ROOT)), match["text"]


def test_python_examples_compile_and_their_imports_resolve() -> None:
    blocks = list(code_blocks("python"))
    assert any(name == "README.md" for name, _ in blocks)
    for name, text in blocks:
        for node in ast.walk(ast.parse(text, filename=name)):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    importlib.import_module(alias.name)
            elif isinstance(node, ast.ImportFrom):
                module = importlib.import_module(node.module or "")
                for alias in node.names:
                    assert hasattr(module, alias.name), f"{name}: {node.module}.{alias.name}"


def commands(program: str) -> list[list[str]]:
    """The command lines of a program in the documents' shell examples."""
    found = []
    for _, text in code_blocks("sh"):
        for line in text.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            while words and (words[0] == "sudo" or re.match(r"[A-Z_]+=", words[0])):
                words = words[1:]
            if words and Path(words[0]).name == program:
                found.append(words[1:])
    return found


programs = pytest.mark.parametrize("program", [hostctl.main, hostd.main], ids=["hostctl", "hostd"])


@programs
def test_example_commands_are_understood(program: click.Group) -> None:
    examples = commands(str(program.name))
    assert examples
    for words in examples:
        understand(program, words)


def understand(
    command: click.Command, words: list[str], outer: click.Context | None = None
) -> None:
    """Raises: click.UsageError."""
    name = command.name
    with command.make_context(name, list(words), parent=outer) as ctx:
        if isinstance(command, click.Group):
            _, inner, rest = command.resolve_command(ctx, [*ctx._protected_args, *ctx.args])
            assert inner is not None
            understand(inner, rest, ctx)


@programs
def test_commands_that_the_readme_calls_missing_are_missing(program: click.Group) -> None:
    section = (ROOT / "README.md").read_text().split("\n## Not there yet\n")[1].split("\n## ")[0]
    missing = re.findall(rf"`{program.name} ([a-z]+)`", section)
    assert program.commands
    assert not program.commands.keys() & set(missing), "take them off the list in README.md"


def test_example_make_targets_exist() -> None:
    text = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z]+):", text, re.M))
    for words in commands("make"):
        assert targets.issuperset(word for word in words if "=" not in word)


def test_sources_name_anchors_that_the_documents_have() -> None:
    for package in ("enqueue", "worker"):
        for path in (ROOT / package).rglob("*.py"):
            for name, anchor in re.findall(r"(docs/[\w/]+\.md)#([\w-]+)", path.read_text()):
                assert anchor in anchors(ROOT / name), f"{path} points to {name}#{anchor}"


def test_documents_name_no_path_of_one_machine() -> None:
    for path in DOCUMENTS:
        assert not re.search(r"(?<![\w.])/(?:tmp|root)/", path.read_text()), path


# ---------------------------------------------------------------- protocol.md


def table_rows(title: str) -> list[list[str]]:
    """The cells of the first table below a heading of protocol.md."""
    text = (ROOT / "docs" / "protocol.md").read_text()
    below = text.split(f" {title}\n", 1)[1]
    table = below[below.index("\n|") :].split("\n\n")[0].strip().splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table[2:]]


WORDS: dict[Action, tuple[str, ...]] = {
    UNCHANGED: ("unchanged",),
    start.BOOT: ("boots",),
    start.RESUME: ("resumes",),
    stop.STOP: ("stops", "discards the image"),
    sleep.SLEEP: ("sleeps",),
    wake.WAKE: ("wakes",),
    destroy.DESTROY: ("destroys",),
}


def test_the_table_of_operations_by_status_is_that_of_the_code() -> None:
    # Its columns: start, stop, sleep, wake, destroy, as in the unit test of the actions.
    rows = {cells[0]: cells[1:] for cells in table_rows("Operation by status")}
    assert set(rows) == {status or "(no instance.json)" for status in TABLE}
    for status, (_, actions) in TABLE.items():
        cells = rows[status or "(no instance.json)"]
        for cell, action in zip(cells, actions, strict=True):
            expected = (f"`{action}`",) if isinstance(action, str) else WORDS[action]
            assert cell.startswith(expected), (status, cell, action)


def test_the_metrics_are_those_of_the_code() -> None:
    said = {cells[0].strip("`") for cells in table_rows("Metrics")}
    families = {
        (sample.name, frozenset(metric._labelnames))
        for metric in vars(Metrics()).values()
        if isinstance(metric, MetricWrapperBase)
        for sample in metric.describe()
    }
    exposed = {name for name, _ in families}
    source = (ROOT / "worker" / "daemon" / "gauges.py").read_text()
    exposed |= set(re.findall(r'"(hostd_[a-z_]+)"', source))
    plain = {re.sub(r"(_total|_info)?(\{.*\})?$", "", name) for name in said}
    assert plain == exposed
    for name, labels in families:
        (row,) = [one for one in said if re.match(rf"{name}(_total|_info)?(\{{|$)", one)]
        found = re.search(r"\{(.*)\}", row)
        if not row.startswith("hostd_build_info"):  # an Info's labels are its values
            assert set(found[1].split(",") if found else ()) == labels


def test_the_operations_are_those_of_the_code() -> None:
    said = [cells[0].strip("`") for cells in table_rows("Requests")]
    assert said == list(REQUEST_TYPES)
