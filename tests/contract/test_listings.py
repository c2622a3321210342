"""What ports tell of things that no record may speak of: the same of the fakes and of the host."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import pytest

from enqueue.requests import InstanceId, PoolId, TenantId
from tests.fakes.disks import FakeDisks
from tests.fakes.images import FakeImages
from tests.fakes.records import FakeRecords
from tests.fakes.vmm import FakeVmm
from tests.fixtures.vmm import Rig
from worker.host.disks.disks import Ext4Disks
from worker.host.firecracker.driver import Firecracker
from worker.host.images.images import DiskImages
from worker.host.records.records import DiskRecords
from worker.linux import mounts
from worker.model.layout import Layout
from worker.model.names import InstanceRef, mapper_name
from worker.ports import CryptSpec, Disks, DiskSpec, Images, Records

REF = InstanceRef(TenantId("acme"), PoolId("workers"), InstanceId("i-1a2b3c4d"))
OTHER = InstanceRef(TenantId("acme"), PoolId("workers"), InstanceId("i-00000002"))


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path / "state")


# ------------------------------------------------------------------ jails


def test_a_jail_is_listed_until_it_is_removed(vmm_rig: Rig) -> None:
    assert vmm_rig.vmm.jails() == frozenset()
    vmm_rig.vmm.build_jail(vmm_rig.spec, None)
    assert vmm_rig.vmm.jails() == {vmm_rig.ref}
    assert vmm_rig.restarted().jails() == {vmm_rig.ref}
    vmm_rig.vmm.remove_jail(vmm_rig.ref)
    assert vmm_rig.vmm.jails() == frozenset()


def test_a_running_vmms_jail_is_listed_without_a_document(vmm_rig: Rig) -> None:
    vmm_rig.up()
    assert vmm_rig.vmm.jails() == {vmm_rig.ref}
    vmm_rig.vmm.kill(vmm_rig.ref, timeout_s=5)
    vmm_rig.vmm.remove_jail(vmm_rig.ref)
    assert vmm_rig.vmm.jails() == frozenset()


class Jails(Protocol):
    """A driver, and mounts where it would make them."""

    def mount(self, ref: InstanceRef) -> None: ...


class MemoryJails:
    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.vmm = FakeVmm(layout)

    def mount(self, ref: InstanceRef) -> None:
        (self.layout.jail_base(ref) / "firecracker").mkdir(parents=True)
        self.vmm.machine.mounts.add(ref)


class DiskJails:
    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        nowhere = Path("/nowhere")
        self.vmm = Firecracker(layout, firecracker=nowhere, jailer=nowhere)

    def mount(self, ref: InstanceRef) -> None:
        root = self.layout.jail_base(ref) / "firecracker" / ref.instance_id / "root"
        root.mkdir(parents=True)
        source = self.layout.state / "a disk"
        source.write_bytes(b"bytes")
        mounts.bind_file(source, root / "data", read_only=True)


@pytest.fixture(params=[MemoryJails, pytest.param(DiskJails, marks=pytest.mark.root)])
def jails(request: pytest.FixtureRequest, layout: Layout) -> MemoryJails | DiskJails:
    if request.param is DiskJails and os.geteuid() != 0:
        pytest.skip("needs root: mounts")
    subject: MemoryJails | DiskJails = request.param(layout)
    return subject


def test_mounts_in_a_jail_are_listed_and_removed_with_it(jails: MemoryJails | DiskJails) -> None:
    assert jails.vmm.mounts() == frozenset()
    jails.mount(REF)
    assert jails.vmm.mounts() == {REF}
    jails.vmm.remove_jail(REF)
    assert jails.vmm.mounts() == frozenset()
    assert mounts.below(jails.layout.state) == []


def test_a_directory_without_files_of_a_jail_is_not_listed(layout: Layout) -> None:
    driver = DiskJails(layout).vmm
    (layout.jail_base(REF) / "notes").mkdir(parents=True)
    (layout.runtime(REF)).mkdir()
    (layout.runtime(REF) / "agent.log").touch()
    elsewhere = layout.pool("acme", "workers") / "instances" / "backup" / "jail" / "firecracker"
    elsewhere.mkdir(parents=True)
    assert driver.jails() == frozenset()
    (layout.runtime(REF) / "spawn.json").write_bytes(b"{")
    assert driver.jails() == {REF}


def test_symlinks_are_not_followed(layout: Layout, tmp_path: Path) -> None:
    real = Layout(tmp_path / "elsewhere")
    (real.jail_base(REF) / "firecracker" / REF.instance_id).mkdir(parents=True)
    (layout.state / "tenants").mkdir(parents=True)
    (layout.state / "tenants" / "acme").symlink_to(real.tenant("acme"))
    assert DiskJails(layout).vmm.jails() == frozenset()


# ------------------------------------------------------------------ disks


@pytest.fixture(params=["fake", pytest.param("ext4", marks=pytest.mark.root)])
def disks(request: pytest.FixtureRequest, disk_runtime: Path) -> Disks:
    if request.param == "fake":
        return FakeDisks(disk_runtime)
    if os.geteuid() != 0:
        pytest.skip("needs root: mounts")
    return Ext4Disks(disk_runtime, secrets_size_mib=64)


def test_secrets_disks_are_listed_until_they_are_removed(disks: Disks) -> None:
    assert disks.secrets() == frozenset()
    for ref in (REF, OTHER):
        path = disks.secrets_path(ref.instance_id)
        disks.make(DiskSpec(path, 16, "mvm-secrets", files={"secrets.json": (b"{}", 0o400)}))
    assert disks.secrets() == {REF.instance_id, OTHER.instance_id}
    disks.remove(disks.secrets_path(REF.instance_id))
    assert disks.secrets() == {OTHER.instance_id}


def test_an_unfinished_secrets_disk_is_listed_and_other_files_are_not(
    disks: Disks,
) -> None:
    path = disks.secrets_path(REF.instance_id)
    disks.make(DiskSpec(path, 16, "mvm-secrets", files={"secrets.json": (b"{}", 0o400)}))
    path.rename(path.with_name(f".{path.name}.new"))
    (path.parent / "README").touch()
    assert disks.secrets() == {REF.instance_id}
    disks.remove(path)
    assert disks.secrets() == frozenset()


def test_without_open_containers_none_is_listed(disks: Disks) -> None:
    assert not any(str(path).startswith("/nowhere") for path in disks.open_containers().values())


@pytest.mark.parametrize(
    "real", [False, pytest.param(True, marks=[pytest.mark.root, pytest.mark.dm])]
)
def test_an_open_container_is_listed_with_its_path(
    real: bool, request: pytest.FixtureRequest, disk_runtime: Path, layout: Layout
) -> None:
    if real:
        request.getfixturevalue("device_mapper")
    subject: Disks = Ext4Disks(disk_runtime) if real else FakeDisks(disk_runtime)
    key = disk_runtime / "key"
    key.write_bytes(b"k" * 32)
    key.chmod(0o600)
    spec = CryptSpec(layout.volumes(REF) / "data.ext4", mapper_name(REF), key)
    subject.make_crypt(spec, size_mib=64, label="mvm-data")
    assert spec.mapper not in subject.open_containers()
    subject.open_crypt(spec)
    try:
        assert subject.open_containers()[spec.mapper] == spec.path
    finally:
        subject.close_crypt(spec.mapper)
    assert spec.mapper not in subject.open_containers()


# ------------------------------------------------------------------ images


@pytest.fixture(params=[FakeImages, lambda layout: DiskImages(layout, reserve_bytes=0)])
def images(request: pytest.FixtureRequest, layout: Layout) -> Images:
    make: Callable[[Layout], Images] = request.param
    return make(layout)


def test_an_unfinished_generation_is_listed_until_it_is_removed(images: Images) -> None:
    assert images.leftovers() == frozenset()
    images.reserve(REF, "one", 10)
    images.reserve(REF, "two", 10)
    images.reserve(OTHER, "one", 10)
    assert images.leftovers() == {REF, OTHER}
    images.tidy(REF)
    assert images.leftovers() == {OTHER}
    assert not images.has_files(REF)
    images.tidy(REF)


def test_tidying_leaves_the_withdrawn_and_the_published_apart(layout: Layout) -> None:
    images = DiskImages(layout, reserve_bytes=0)
    for name in ("sleep", "withdrawn", "partial-x", "delta"):
        (layout.images(REF) / name).mkdir(parents=True)
    assert images.leftovers() == {REF}
    images.tidy(REF)
    assert sorted(path.name for path in layout.images(REF).iterdir()) == ["delta", "sleep"]
    assert images.leftovers() == frozenset()


# ------------------------------------------------------------------ tenants


def test_tenants_are_those_with_a_document(layout: Layout) -> None:
    fake, real = FakeRecords(), DiskRecords(layout)
    subjects: list[Records] = [fake, real]
    assert [subject.tenant_ids() for subject in subjects] == [(), ()]
    for tenant in ("beta", "acme"):
        fake.tenants[tenant] = b"{"
        layout.tenant(tenant).mkdir(parents=True)
        (layout.tenant(tenant) / "tenant.json").write_bytes(b"{")
    layout.tenant("gone").mkdir()
    assert [subject.tenant_ids() for subject in subjects] == [("acme", "beta")] * 2
