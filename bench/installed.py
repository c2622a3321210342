"""hostd as a host has it: in a virtual environment without the packages of development."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
VENV: Final = ROOT / "build" / "bench-venv"
STAMP: Final = VENV / ".made"  # what it was made from
SOURCES: Final = ("enqueue", "worker")


def hostd() -> Path:
    """The program in build/bench-venv, which is made again if hostd or its Python has changed.

    Raises:
        CalledProcessError: it cannot be made; the programs have said why.
    """
    made_from = _digest()
    if not STAMP.exists() or STAMP.read_text() != made_from:
        print(f"making {VENV.relative_to(ROOT)} ...", flush=True)
        _make()
        STAMP.write_text(made_from)
    return VENV / "bin" / "hostd"


def _make() -> None:
    lib = ROOT / "build" / "lib"  # setuptools would also install what an earlier build left there
    shutil.rmtree(lib, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", "--clear", VENV], check=True)
    python = str(VENV / "bin" / "python")
    pip = [python, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    subprocess.run([*pip, "install", ROOT], check=True)
    shutil.rmtree(lib, ignore_errors=True)


def _digest() -> str:
    found = (path for name in SOURCES for path in (ROOT / name).rglob("*"))
    files = [path for path in found if path.is_file() and path.suffix != ".pyc"]
    digest = hashlib.sha256(sys.version.encode())
    for path in (ROOT / "pyproject.toml", *sorted(files)):
        digest.update(f"\n{path.relative_to(ROOT)} ".encode() + path.read_bytes())
    return digest.hexdigest()
