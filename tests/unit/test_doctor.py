"""`hostd doctor` grades what it reads."""

from __future__ import annotations

from worker.commands.doctor import favordynmods

HYBRID = """\
tmpfs /sys/fs/cgroup tmpfs rw 0 0
cgroup /sys/fs/cgroup/memory cgroup rw,relatime,memory 0 0
cgroup2 /sys/fs/cgroup/unified cgroup2 rw,relatime{more} 0 0
"""


def test_one_hierarchy_with_favordynmods_is_enough() -> None:
    found = favordynmods(HYBRID.format(more=",favordynmods"))
    assert (found.grade, found.hint) == ("ok", "")


def test_without_favordynmods_the_hint_names_the_mount_point() -> None:
    found = favordynmods(HYBRID.format(more=""))
    assert found.grade == "warn"
    assert "mount -o remount,favordynmods /sys/fs/cgroup/unified" in found.hint
