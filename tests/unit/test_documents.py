"""What the documents say of this repository is so: paths, links, examples, commands."""

from __future__ import annotations

import argparse
import ast
import importlib
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from enqueue import cli as hostctl
from worker import cli as hostd

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted(
    [ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")],
)
LINK = re.compile(r"\[[^\]]*\]\((?P<target>[^)\s]+)\)")
FENCE = re.compile(r"^```(?P<kind>\w*)\n(?P<text>.*?)^```$", re.M | re.S)
# A path of this repository in running text: `worker/job.py`, `tests/unit/`, `Makefile`.
NAMED = re.compile(
    r"`(?P<path>(?:enqueue|worker|tests|docs|deploy|bench)/[\w./-]*|Makefile|pyproject\.toml)`"
)
HEADING = re.compile(r"^#{1,6} (?P<text>.+)$", re.M)

documents = pytest.mark.parametrize(
    "document", DOCUMENTS, ids=[str(path.relative_to(ROOT)) for path in DOCUMENTS]
)


def without_code(text: str) -> str:
    return FENCE.sub("", text)


def anchors(path: Path) -> set[str]:
    """A heading's anchor as GitHub makes it."""
    titles = (match["text"] for match in HEADING.finditer(without_code(path.read_text())))
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@documents
def test_links_lead_somewhere(document: Path) -> None:
    for match in LINK.finditer(without_code(document.read_text())):
        target, _, anchor = match["target"].partition("#")
        if re.match(r"[a-z]+:", target):
            continue
        path = (document.parent / target).resolve() if target else document
        assert path.exists(), f"{document.name} links to {match['target']}"
        if anchor:
            assert anchor in anchors(path), f"{document.name} links to {match['target']}"


@documents
def test_paths_that_are_named_exist(document: Path) -> None:
    missing = [
        match["path"]
        for match in NAMED.finditer(document.read_text())
        if not (ROOT / match["path"]).exists()
    ]
    assert not missing


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


@pytest.mark.parametrize(
    ("program", "parser"), [("hostctl", hostctl.parser()), ("hostd", hostd._parser())]
)
def test_example_commands_are_understood(program: str, parser: argparse.ArgumentParser) -> None:
    examples = commands(program)
    assert examples
    for words in examples:
        parser.parse_args(words)  # exits on what it does not know


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


def test_documents_are_of_this_repository_alone() -> None:
    for path in DOCUMENTS:
        assert not re.search(r"/tmp/|/work/|/root/", path.read_text()), path
    ignored = subprocess.run(
        ["git", "check-ignore", *map(str, DOCUMENTS)],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert not ignored.stdout
