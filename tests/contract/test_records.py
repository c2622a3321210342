"""What every `Records` promises; then what only a filesystem can show."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import msgspec
import pytest

from enqueue.documents import parse_instance
from enqueue.requests import InstanceId, PoolId, TenantId
from tests.fakes.records import FakeRecords
from worker.errors import Conflict
from worker.host.records.records import DiskRecords
from worker.model.layout import Layout
from worker.model.names import InstanceRef
from worker.ports import Artifacts, Records

REF = InstanceRef(TenantId("acme"), PoolId("workers"), InstanceId("i-1a2b3c4d"))
TENANT = {
    "tenant_id": "acme",
    "net": {
        "tenant_net_id": 5,
        "ipv4_subnet": "10.240.5.0/24",
        "gateway_ip": "10.240.5.1",
        "bridge_name": "br-tenant-5",
    },
}
POOL = {
    "pool_id": "workers",
    "tenant_id": "acme",
    "instance_resources": {"vcpus": 1, "mem_mib": 64},
}
INSTANCE = {
    "instance_id": "i-1a2b3c4d",
    "pool_id": "workers",
    "tenant_id": "acme",
    "status": "created",
    "tags": {"unknown": ["to", "hostd"]},
}


class World(Protocol):
    """A subject, and agentd, who writes documents."""

    @property
    def records(self) -> Records: ...
    def tenant(self, raw: bytes) -> None: ...
    def pool(self, raw: bytes) -> None: ...
    def instance(self, ref: InstanceRef, raw: bytes) -> None: ...
    def secrets(self, raw: bytes) -> None: ...
    def revision(self, name: str) -> None: ...


@dataclass
class Memory:
    records: FakeRecords = field(default_factory=FakeRecords)

    def tenant(self, raw: bytes) -> None:
        self.records.tenants["acme"] = raw

    def pool(self, raw: bytes) -> None:
        self.records.pools["acme", "workers"] = raw

    def instance(self, ref: InstanceRef, raw: bytes) -> None:
        self.records.docs[ref] = raw

    def secrets(self, raw: bytes) -> None:
        self.records.secret_bytes["acme"] = raw

    def revision(self, name: str) -> None:
        home = Path("/nowhere") / name
        current = Artifacts(name, home / "vmlinux", home / "rootfs.ext4")
        self.records.current["acme", "workers"] = current


@dataclass
class Disk:
    layout: Layout

    @property
    def records(self) -> DiskRecords:
        return DiskRecords(self.layout)

    @property
    def artifacts(self) -> Path:
        return self.layout.artifacts("acme", "workers")

    def tenant(self, raw: bytes) -> None:
        _write(self.layout.tenant("acme") / "tenant.json", raw)

    def pool(self, raw: bytes) -> None:
        _write(self.layout.pool("acme", "workers") / "pool.json", raw)

    def instance(self, ref: InstanceRef, raw: bytes) -> None:
        _write(self.layout.instance(ref) / "instance.json", raw)

    def secrets(self, raw: bytes) -> None:
        _write(self.layout.tenant("acme") / "secrets.json", raw)

    def revision(self, name: str) -> None:
        for file in ("vmlinux", "rootfs.ext4"):
            _write(self.artifacts / "revisions" / name / file, file.encode())
        (self.artifacts / "current").unlink(missing_ok=True)
        (self.artifacts / "current").symlink_to(f"revisions/{name}")


def _write(path: Path, raw: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(raw)


def encoded(document: dict[str, Any], **changes: Any) -> bytes:
    return msgspec.json.encode({**document, **changes})


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    return Disk(Layout(tmp_path / "state"))


@pytest.fixture(params=["fake", "disk"])
def world(request: pytest.FixtureRequest) -> World:
    if request.param == "fake":
        return Memory()
    subject: Disk = request.getfixturevalue("disk")
    return subject


def test_a_missing_document_is_none(world: World) -> None:
    records = world.records
    assert records.tenant("acme") is None
    assert records.pool("acme", "workers") is None
    assert records.instance(REF) is None
    assert records.artifacts("acme", "workers") is None
    assert records.instances() == ()
    assert records.secrets("acme") == b"{}"


def test_documents_are_read_with_their_defaults(world: World) -> None:
    world.tenant(encoded(TENANT))
    world.pool(encoded(POOL))
    world.instance(REF, encoded(INSTANCE))
    tenant, pool = world.records.tenant("acme"), world.records.pool("acme", "workers")
    instance = world.records.instance(REF)
    assert tenant is not None
    assert tenant.net.bridge_name == "br-tenant-5"
    assert tenant.quotas.max_running == 8
    assert pool is not None
    assert pool.runtime_policy.drain_timeout_seconds == 30
    assert instance is not None
    assert instance.fields.status == "created"


def test_a_written_instance_is_read_back_with_its_unknown_keys(world: World) -> None:
    world.instance(REF, encoded(INSTANCE))
    doc = world.records.instance(REF)
    assert doc is not None
    world.records.put_instance(REF, doc.changed(status="running", firecracker_pid=77))
    after = world.records.instance(REF)
    assert after is not None
    assert after.fields.status == "running"
    assert after.whole == {**INSTANCE, "status": "running", "firecracker_pid": 77}


def test_an_instance_without_a_document_gets_one(world: World) -> None:
    world.records.put_instance(REF, parse_instance(encoded(INSTANCE)))
    assert world.records.instances() == (REF,)


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b'{"tenant_id":"acme"}'])
def test_what_does_not_parse_is_a_bad_document(world: World, raw: bytes) -> None:
    world.tenant(raw)
    world.pool(raw)
    world.instance(REF, raw)
    for read in (
        lambda: world.records.tenant("acme"),
        lambda: world.records.pool("acme", "workers"),
        lambda: world.records.instance(REF),
    ):
        with pytest.raises(Conflict) as refused:
            read()
        assert refused.value.code == "conflict/bad_document"


def test_a_document_of_another_directory_is_a_bad_one(world: World) -> None:
    world.tenant(encoded(TENANT, tenant_id="other"))
    with pytest.raises(Conflict, match=r"ids|tenant_id"):
        world.records.tenant("acme")
    for name in ("pool_id", "tenant_id"):
        world.pool(encoded(POOL, **{name: "other"}))
        with pytest.raises(Conflict, match=f"ids|{name}"):
            world.records.pool("acme", "workers")
    for name, other in (
        ("pool_id", "other"),
        ("tenant_id", "other"),
        ("instance_id", "i-00000002"),
    ):
        world.instance(REF, encoded(INSTANCE, **{name: other}))
        with pytest.raises(Conflict, match=f"ids|{name}"):
            world.records.instance(REF)


def test_a_document_of_another_instance_is_not_written(world: World) -> None:
    world.instance(REF, encoded(INSTANCE))
    other = parse_instance(encoded(INSTANCE, instance_id="i-00000002", status="running"))
    with pytest.raises(Conflict) as refused:
        world.records.put_instance(REF, other)
    assert refused.value.code == "conflict/bad_document"
    kept = world.records.instance(REF)
    assert kept is not None
    assert kept.fields.status == "created"


def test_every_instance_with_a_document_is_listed_valid_or_not(world: World) -> None:
    other = InstanceRef(TenantId("acme"), PoolId("gateways"), InstanceId("i-00000002"))
    world.instance(REF, encoded(INSTANCE))
    world.instance(other, b"not JSON")
    assert set(world.records.instances()) == {REF, other}


def test_secrets_are_the_bytes_of_their_file(world: World) -> None:
    world.secrets(b'{ "a" : 1 }\n')
    assert world.records.secrets("acme") == b'{ "a" : 1 }\n'


def test_artifacts_are_the_current_revisions(world: World) -> None:
    for name in ("abc123", "def456"):
        world.revision(name)
        found = world.records.artifacts("acme", "workers")
        assert found is not None
        assert found.revision == name
        assert found.kernel.parts[-2:] == (name, "vmlinux")
        assert found.rootfs.parts[-2:] == (name, "rootfs.ext4")


# ------------------------------------------------------------------ only a filesystem can show


def test_a_write_keeps_agentds_owner_and_mode(disk: Disk) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root: chown")
    disk.instance(REF, encoded(INSTANCE))
    path = disk.layout.instance(REF) / "instance.json"
    os.chown(path, 4242, 4243)
    path.chmod(0o640)
    disk.records.put_instance(REF, parse_instance(encoded(INSTANCE, status="running")))
    seen = path.stat()
    assert (seen.st_uid, seen.st_gid, seen.st_mode & 0o777) == (4242, 4243, 0o640)
    assert [entry.name for entry in path.parent.iterdir()] == ["instance.json"]


def test_a_bad_document_is_named_with_its_path_and_place(disk: Disk) -> None:
    disk.pool(encoded(POOL, instance_resources={"vcpus": 99, "mem_mib": 64}))
    with pytest.raises(Conflict) as refused:
        disk.records.pool("acme", "workers")
    assert str(disk.layout.pool("acme", "workers") / "pool.json") in refused.value.message
    assert "$.instance_resources.vcpus" in refused.value.message


def test_a_symlink_a_fifo_and_a_huge_file_are_bad_documents(disk: Disk, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_bytes(encoded(INSTANCE))
    path = disk.layout.instance(REF) / "instance.json"
    path.parent.mkdir(parents=True)
    makers = (
        lambda: path.symlink_to(tmp_path / "elsewhere"),
        lambda: os.mkfifo(path),
        lambda: path.write_bytes(encoded(INSTANCE, padding="x" * (1 << 20))),
        path.mkdir,
    )
    for make in makers:
        make()
        with pytest.raises(Conflict) as refused:
            disk.records.instance(REF)
        assert refused.value.code == "conflict/bad_document"
        if not path.is_dir():
            path.unlink()


def test_secrets_behind_a_symlink_are_refused(disk: Disk, tmp_path: Path) -> None:
    (tmp_path / "shadow").write_bytes(b"root's")
    disk.layout.tenant("acme").mkdir(parents=True)
    (disk.layout.tenant("acme") / "secrets.json").symlink_to(tmp_path / "shadow")
    with pytest.raises(Conflict):
        disk.records.secrets("acme")


def test_directories_with_names_that_are_no_ids_are_not_instances(disk: Disk) -> None:
    disk.instance(REF, encoded(INSTANCE))
    instances = disk.layout.instance(REF).parent
    _write(instances / "lost+found" / "instance.json", b"{}")
    _write(disk.layout.state / "tenants" / "UPPER" / "tenant.json", b"{}")
    (instances / "i-0000000a").mkdir()
    assert disk.records.instances() == (REF,)


def test_current_must_be_a_symlink(disk: Disk) -> None:
    for file in ("vmlinux", "rootfs.ext4"):
        _write(disk.artifacts / "current" / file, b"")
    assert disk.records.artifacts("acme", "workers") is None


@pytest.mark.parametrize("missing", ["vmlinux", "rootfs.ext4"])
def test_a_revision_without_one_of_its_files_is_none(disk: Disk, missing: str) -> None:
    disk.revision("abc123")
    (disk.artifacts / "revisions" / "abc123" / missing).unlink()
    assert disk.records.artifacts("acme", "workers") is None


@pytest.mark.parametrize(
    "to", ["elsewhere", "../../elsewhere", "revisions", "revisions/../..", "current"]
)
def test_current_may_not_lead_elsewhere(disk: Disk, to: str) -> None:
    disk.revision("abc123")
    for file in ("vmlinux", "rootfs.ext4"):
        _write(disk.artifacts / "elsewhere" / file, b"")
        _write(disk.artifacts.parents[1] / "elsewhere" / file, b"")
    (disk.artifacts / "current").unlink()
    (disk.artifacts / "current").symlink_to(to)
    assert disk.records.artifacts("acme", "workers") is None


def test_neither_revision_nor_file_may_be_a_symlink_out_of_the_pool(
    disk: Disk, tmp_path: Path
) -> None:
    for file in ("vmlinux", "rootfs.ext4"):
        _write(tmp_path / "outside" / file, b"")
    disk.revision("abc123")
    kernel = disk.artifacts / "revisions" / "abc123" / "vmlinux"
    kernel.unlink()
    kernel.symlink_to(tmp_path / "outside" / "vmlinux")
    assert disk.records.artifacts("acme", "workers") is None
    (disk.artifacts / "revisions" / "def456").symlink_to(tmp_path / "outside")
    (disk.artifacts / "current").unlink()
    (disk.artifacts / "current").symlink_to("revisions/def456")
    assert disk.records.artifacts("acme", "workers") is None
