"""What `hostd doctor` makes of what it reads."""

from __future__ import annotations

from worker.commands.doctor import joining

HYBRID = """\
tmpfs /sys/fs/cgroup tmpfs rw 0 0
cgroup /sys/fs/cgroup/memory cgroup rw,relatime,memory 0 0
cgroup2 /sys/fs/cgroup/unified cgroup2 rw,relatime{more} 0 0
"""


def test_a_hierarchy_that_favors_changes_is_enough() -> None:
    found = joining(HYBRID.format(more=",favordynmods"))
    assert (found.grade, found.hint) == ("ok", "")


def test_where_none_does_the_way_out_names_the_mount_point() -> None:
    found = joining(HYBRID.format(more=""))
    assert found.grade == "warn"
    assert "mount -o remount,favordynmods /sys/fs/cgroup/unified" in found.hint
