"""A host on its own disk, which can lose power."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.crash.process.disk import LoopDisk
from tests.crash.process.host import Machine
from tests.crash.process.seen import links
from tests.fixtures.redis import RedisServer
from tests.fixtures.worker import eventually
from worker.host.cgroups.hierarchies import detect
from worker.host.cgroups.kill import members, signal_all
from worker.linux import mounts
from worker.model.names import InstanceRef


class MachineOnDisk(Machine):
    """A host whose directories are all on one filesystem."""

    def __init__(self, redis: RedisServer, disk: LoopDisk) -> None:
        self._disk = disk
        with _directories_below(disk.top):
            super().__init__(redis)

    def instance(self, number: int) -> InstanceRef:
        """A new instance, `created`; syncs what agentd and an operator wrote."""
        ref = super().instance(number)
        subprocess.run(["sync", "-f", str(self.hostd.config)], check=True)
        return ref

    def lose_power(self) -> None:
        """Loses all data that was only in memory; then the host is up again, without hostd."""
        self.kill()
        self._disk.cut_power()
        self._end_guests()
        for point in mounts.below(self.hostd.base):
            mounts.unmount(point)
        eventually(self._powered, "the disk is mounted again")
        shutil.rmtree(self.hostd.runtime, ignore_errors=True)
        self._forget_network()
        # A boot id cannot be changed without a reboot, but hostd's record of it can.
        self.hostd.change("UPDATE meta SET value = 'an earlier boot' WHERE key = 'boot_id'")

    def _powered(self) -> bool:
        try:
            self._disk.power_on()
        except subprocess.CalledProcessError as error:
            if "umount" not in error.cmd:
                raise
            return False  # a guest that was just killed still has files open
        return True

    def _end_guests(self) -> None:
        for mount in detect().mounts():
            for top, _, _ in os.walk(mount / self.hostd.cgroup, topdown=False):
                eventually(lambda group=Path(top): _ended(group), f"{top} is gone")  # type: ignore[misc]  # the default binds it early

    def _forget_network(self) -> None:
        names = [link.split("'")[1] for link in links(self.hostd.namespace)]
        with self.hostd.namespace.entered():
            for name in names:
                subprocess.run(["ip", "link", "delete", name], check=True)
            subprocess.run(["nft", "flush", "ruleset"], check=True)


def _ended(group: Path) -> bool:
    if members((group,)):
        signal_all((group,))
        return False
    try:
        group.rmdir()
    except OSError:
        return not group.exists()
    return True


@contextmanager
def _directories_below(top: Path) -> Iterator[None]:
    before = tempfile.tempdir
    tempfile.tempdir = str(top)
    try:
        yield
    finally:
        tempfile.tempdir = before
