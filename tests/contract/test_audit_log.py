"""The audit log of `Records`: each line once, never torn, never through somebody's symlink."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.fakes.records import FakeRecords
from worker.host.records import audit_log as audit
from worker.host.records.records import DiskRecords
from worker.model.layout import Layout
from worker.ports import Records


@pytest.fixture
def log(tmp_path: Path) -> Path:
    directory = Layout(tmp_path).tenant("acme")
    directory.mkdir(parents=True)
    return directory / "audit.log"


@pytest.fixture(params=["fake", "disk"])
def records(request: pytest.FixtureRequest, tmp_path: Path, log: Path) -> Records:
    return FakeRecords() if request.param == "fake" else DiskRecords(Layout(tmp_path))


def entry(request_id: str) -> dict[str, str]:
    return {"action": "InstanceStarted", "request_id": request_id}


def test_an_entry_is_known_once_it_is_there(records: Records) -> None:
    assert not records.audited("acme", "r-1")
    records.audit("acme", entry("r-1"))
    assert records.audited("acme", "r-1")
    assert not records.audited("acme", "r-11")
    assert not records.audited("acme", "r")


def test_a_torn_line_does_not_spoil_the_next(log: Path) -> None:
    log.write_bytes(b'{"action":"Inst')
    audit.append(log, b'{"request_id":"r-1"}')
    torn, whole = log.read_bytes().splitlines()
    assert torn == b'{"action":"Inst'
    assert json.loads(whole) == {"request_id": "r-1"}


def test_a_full_log_makes_room(log: Path) -> None:
    log.write_bytes(b"x" * (audit.ROTATE_BYTES - 1) + b"\n")
    audit.append(log, b"{}")
    assert log.read_bytes() == b"{}\n"
    assert log.with_name("audit.log.1").stat().st_size == audit.ROTATE_BYTES


def test_a_symlink_is_moved_aside_and_never_written_through(log: Path, tmp_path: Path) -> None:
    victim = tmp_path / "shadow"
    victim.write_bytes(b"root")
    log.symlink_to(victim)
    audit.append(log, b"{}")
    assert victim.read_bytes() == b"root"
    assert not log.is_symlink()
    assert log.read_bytes() == b"{}\n"
