"""A VMM in memory, with what steps and images see of the real one in small real files.

The guest's memory is one number that grows with each read while the guest runs, so a test sees
whether a woken guest continued or was booted.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import NoReturn

from worker.errors import Broken, Conflict, Transient
from worker.model.layout import Layout
from worker.model.names import InstanceRef
from worker.ports import ImageFiles, Platform, VmmState, VmSpec

PLATFORM = Platform(
    firecracker_version="1.16.1",
    firecracker_sha256=hashlib.sha256(b"firecracker").hexdigest(),
    snapshot_format="10.0.0",
    architecture="x86_64",
    cpu_vendor="AuthenticAMD",
    cpu_family="25",
    cpu_model="17",
    cpu_stepping="1",
    kernel="6.12.0",
    boot_id="b",
)


class Ended:
    """A descriptor that is readable once its VMM has ended; shared by copies of a guest."""

    def __init__(self) -> None:
        self.fd = os.eventfd(0, os.EFD_CLOEXEC)

    def __del__(self) -> None:
        os.close(self.fd)


@dataclass
class Guest:
    """One VMM process: its pid, its state, the number in its guest's memory.

    `notified` and `ready` are what its guest's agent has heard and said.
    """

    pid: int
    state: VmmState = VmmState.IDLE
    memory: int = 0
    notified: bool = False
    ready: bool = False
    ended: Ended = field(default_factory=Ended)


class GuestProcess:
    """A guest's process; its descriptor is readable from its end on."""

    def __init__(self, guest: Guest) -> None:
        self.pid = guest.pid
        self._fd = os.dup(guest.ended.fd)

    def fileno(self) -> int:
        return self._fd

    def exit_code(self) -> int | None:
        return 0

    def close(self) -> None:
        os.close(self._fd)


@dataclass
class Machine:
    """What outlives a restart of hostd: the processes."""

    guests: dict[InstanceRef, Guest] = field(default_factory=dict)
    specs: dict[InstanceRef, VmSpec] = field(default_factory=dict)
    pids: count[int] = field(default_factory=lambda: count(4_000))
    mounts: set[InstanceRef] = field(default_factory=set)  # in jails; a test arranges them
    stops_when_asked: bool = True
    free_bytes: int = 1 << 40
    platform: Platform = PLATFORM


class FakeVmm:
    """Implements `worker.ports.Vmm`."""

    def __init__(self, layout: Layout, machine: Machine | None = None) -> None:
        self.layout = layout
        self.machine = machine or Machine()
        self._launched: set[InstanceRef] = set()  # by this hostd, not awaited yet

    def restarted(self) -> FakeVmm:
        """Another hostd on the same machine."""
        return type(self)(self.layout, self.machine)

    def trim_logs(self) -> None:
        pass  # its VMMs log nothing

    def memory(self, ref: InstanceRef) -> int:
        """The number in the guest's memory; it grows while the guest runs."""
        guest = self._guest(ref)
        if guest.state is VmmState.RUNNING:
            guest.memory += 1
        return guest.memory

    def dies(self, ref: InstanceRef) -> None:
        """The VMM ends by itself."""
        self._launched.discard(ref)
        guest = self.machine.guests.pop(ref, None)
        if guest is not None:
            os.eventfd_write(guest.ended.fd, 1)

    def open_vmm(self, ref: InstanceRef) -> GuestProcess | None:
        guest = self._up(ref)
        return None if guest is None else GuestProcess(guest)

    def describe_exit(self, exit_code: int | None) -> str:
        return f"exit code {exit_code}"

    def state(self, ref: InstanceRef, *, fresh: bool = False) -> VmmState:
        guest = self._up(ref)
        return VmmState.GONE if guest is None else guest.state

    def pid(self, ref: InstanceRef) -> int | None:
        guest = self._up(ref)
        return None if guest is None else guest.pid

    def jail_is_fresh(
        self,
        spec: VmSpec,
        image: ImageFiles | None = None,
        *,
        unfinished: frozenset[str] = frozenset(),
    ) -> bool:
        if spec.ref in self.machine.guests:
            return True
        root = self._root(spec.ref)
        if self.spec(spec.ref) != spec or (root / "firecracker.pid").exists():
            return False
        if not self._shows(spec, unfinished):
            return False
        if image is None:
            return not (root / "memory").exists()
        files = {"vmstate": image.vmstate, "memory": image.memory}
        return all(
            (root / name).exists() and source.exists() and (root / name).samefile(source)
            for name, source in files.items()
        )

    def spec(self, ref: InstanceRef) -> VmSpec | None:
        return self.machine.specs.get(ref)

    def jail_exists(self, ref: InstanceRef) -> bool:
        return self.layout.jail_base(ref).exists() or self.layout.runtime(ref).exists()

    def jails(self) -> frozenset[InstanceRef]:
        return frozenset(self._with("jail") | self._with("runtime"))

    def mounts(self) -> frozenset[InstanceRef]:
        return frozenset(self.machine.mounts & self._with("jail"))

    def build_jail(
        self, spec: VmSpec, image: ImageFiles | None, *, unfinished: frozenset[str] = frozenset()
    ) -> None:
        self.remove_jail(spec.ref)
        sources = {"kernel": spec.kernel} | _disks(spec, unfinished)
        if image is not None:
            sources |= {"vmstate": image.vmstate, "memory": image.memory}
        for name, source in sources.items():
            if not source.exists():
                raise Conflict("missing_file", f"the guest's {name} is not at {source}")
        root = self._root(spec.ref)
        root.mkdir(parents=True)
        self.layout.runtime(spec.ref).mkdir(parents=True)
        for name, source in sources.items():
            (root / name).hardlink_to(source)
        self.machine.specs[spec.ref] = spec

    def remove_jail(self, ref: InstanceRef) -> None:
        if ref in self.machine.guests:
            raise Transient("jail_in_use", f"the jail of {ref} is still in use")
        self.machine.specs.pop(ref, None)
        self.machine.mounts.discard(ref)
        shutil.rmtree(self.layout.jail_base(ref), ignore_errors=True)
        shutil.rmtree(self.layout.runtime(ref), ignore_errors=True)

    def launched(self, ref: InstanceRef) -> bool:
        return ref in self.machine.guests

    def launch(self, spec: VmSpec, join_files: tuple[Path, ...]) -> None:
        root = self._root(spec.ref)
        if spec.ref in self.machine.guests or (root / "firecracker.pid").exists():
            raise Broken("vmm_exited", "the jailer ended by itself", exit_code=1, log="")
        guest = Guest(next(self.machine.pids))
        (root / "firecracker.pid").write_text(str(guest.pid))
        self.machine.guests[spec.ref] = guest
        self._launched.add(spec.ref)

    def spawn(self, spec: VmSpec, join_files: tuple[Path, ...]) -> None:
        if spec.ref not in self._launched:
            self.launch(spec, join_files)
        self._launched.remove(spec.ref)

    def boot(self, spec: VmSpec) -> None:
        if not self._shows(spec):
            raise Broken("jail_disks", "a disk in the jail is not the host's")
        self._change(spec.ref, VmmState.RUNNING, {VmmState.IDLE})

    def pause(self, ref: InstanceRef) -> None:
        self._change(ref, VmmState.PAUSED, {VmmState.RUNNING, VmmState.PAUSED}).notified = False

    def resume(self, ref: InstanceRef) -> None:
        self._change(ref, VmmState.RUNNING, {VmmState.RUNNING, VmmState.PAUSED})

    def snapshot_reserved(self, spec: VmSpec) -> bool:
        directory = self._root(spec.ref) / "snapshot"
        memory = directory / "memory"
        alone = memory.exists() and list(directory.iterdir()) == [memory]
        return alone and memory.stat().st_size == spec.mem_mib << 20

    def reserve_snapshot(self, spec: VmSpec) -> None:
        if self.machine.free_bytes < spec.mem_mib << 20:
            raise Transient(
                "no_space",
                "no room for a snapshot",
                needed_bytes=spec.mem_mib << 20,
                free_bytes=self.machine.free_bytes,
            )
        self.release_snapshot(spec.ref)
        directory = self._root(spec.ref) / "snapshot"
        directory.mkdir()
        with (directory / "memory").open("wb") as memory:
            memory.truncate(spec.mem_mib << 20)

    def release_snapshot(self, ref: InstanceRef) -> None:
        shutil.rmtree(self._root(ref) / "snapshot", ignore_errors=True)

    def snapshot(self, spec: VmSpec) -> ImageFiles:
        guest = self._change(spec.ref, VmmState.PAUSED, {VmmState.PAUSED})
        directory = self._root(spec.ref) / "snapshot"
        directory.mkdir(exist_ok=True)
        files = ImageFiles(directory / "vmstate", directory / "memory")
        files.vmstate.write_text(json.dumps({"memory": guest.memory}))
        with files.memory.open("wb") as memory:
            memory.truncate(spec.mem_mib << 20)
        return files

    def load(self, spec: VmSpec) -> None:
        guest = self._change(spec.ref, VmmState.IDLE, {VmmState.IDLE})
        try:
            image = json.loads((self._root(spec.ref) / "vmstate").read_bytes())
        except (FileNotFoundError, ValueError):
            self.dies(spec.ref)
            self._refuse("PUT /snapshot/load")
        guest.memory = image["memory"]
        guest.state = VmmState.PAUSED

    def ask_to_stop(self, ref: InstanceRef, *, timeout_s: float) -> bool:
        guest = self.machine.guests.get(ref)
        if guest is not None and guest.state is VmmState.RUNNING and self.machine.stops_when_asked:
            self.dies(ref)
        return ref not in self.machine.guests

    def kill(self, ref: InstanceRef, *, timeout_s: float) -> None:
        self.dies(ref)

    def version(self) -> str:
        return self.machine.platform.firecracker_version

    def platform(self) -> Platform:
        return self.machine.platform

    def _shows(self, spec: VmSpec, unfinished: frozenset[str] = frozenset()) -> bool:
        root = self._root(spec.ref)
        return all(
            source.exists() and (root / name).exists() and (root / name).samefile(source)
            for name, source in _disks(spec, unfinished).items()
        )

    def _up(self, ref: InstanceRef) -> Guest | None:
        """A VMM that is up; one on its way counts as gone."""
        return None if ref in self._launched else self.machine.guests.get(ref)

    def _guest(self, ref: InstanceRef) -> Guest:
        guest = self.machine.guests.get(ref)
        if guest is None:
            raise Broken("vmm_exited", "the VMM ended by itself", exit_code=None, log="")
        return guest

    def _change(self, ref: InstanceRef, to: VmmState, only_from: set[VmmState]) -> Guest:
        guest = self._guest(ref)
        if guest.state not in only_from:
            self._refuse(f"to become {to.value} while {guest.state.value}")
        guest.state = to
        return guest

    def _refuse(self, what: str) -> NoReturn:
        raise Broken("vmm_refused", f"Firecracker refused {what}")

    def _with(self, part: str) -> set[InstanceRef]:
        found = self.layout.state.glob(f"tenants/*/pools/*/instances/*/{part}/*")
        return {ref for path in found if (ref := self.layout.owner(path)) is not None}

    def _root(self, ref: InstanceRef) -> Path:
        return self.layout.jail_base(ref) / "firecracker" / ref.instance_id / "root"


def _disks(spec: VmSpec, unfinished: frozenset[str]) -> dict[str, Path]:
    """Where each drive's disk is: aside, while it is being made."""
    found = {}
    for drive in spec.drives:
        new = drive.source.with_name(f".{drive.source.name}.new")
        aside = drive.id in unfinished and not drive.source.exists()
        found[drive.id] = new if aside else drive.source
    return found
