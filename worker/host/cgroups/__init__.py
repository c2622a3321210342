"""Control groups by their filesystems: v2, v1, or both."""
