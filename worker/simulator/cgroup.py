"""Puts the process into control groups, as the jailer does."""

from __future__ import annotations

import os

from worker.simulator.errors import JailerFault, jailer_errors


def _mounts(kind: str) -> list[tuple[str, list[str]]]:
    with open("/proc/mounts", encoding="utf-8") as mounts:
        rows = [line.split() for line in mounts]
    return [(row[1], row[3].split(",")) for row in rows if row[2] == kind]


def _unified() -> str:
    found = _mounts("cgroup2")
    if not found:
        raise JailerFault("Hierarchy not found: No hierarchy found for this cgroup version.")
    return found[0][0]


def _write(path: str, text: str) -> None:
    with jailer_errors(f"Failed to write to {path}"), open(path, "w", encoding="ascii") as file:
        file.write(text)


def _checked(path: str, fault: str) -> str:
    if any(part in ("", ".", "..") for part in path.split("/")):
        raise JailerFault(fault)
    return path


def join_parent(parent: str) -> None:
    """Moves the process to `<v2 mount>/<parent>`, if that exists.

    Raises:
        JailerFault: the path is absolute or has dots, or the kernel refuses.
    """
    _checked(
        parent, "Parent cgroup path is invalid. Path should not be absolute or contain '..' or '.'"
    )
    group = f"{_unified()}/{parent}"
    if os.path.exists(group):
        with jailer_errors(f"Failed to move process to cgroup ({group})"):
            _write(f"{group}/cgroup.procs", str(os.getpid()))


def add_groups(version: str, parent: str, name: str, values: list[str]) -> None:
    """Moves the process to `<mount>/<parent>/<name>`, made with each `file=value`.

    Raises:
        JailerFault: a value is malformed, or its controller is not mounted.
    """
    groups: dict[str, None] = {}
    for text in values:
        file, _, value = text.partition("=")
        if not value or "=" in value:
            raise JailerFault(f"Invalid format for cgroups: {text}")
        if "." not in file:
            raise JailerFault(f"Cgroup invalid file: {file}")
        group = f"{_hierarchy(version, file.split('.')[0])}/{parent}/{name}"
        os.makedirs(group, exist_ok=True)
        if version == "2":
            _enable(group, file.split(".")[0])
        _write(f"{group}/{file}", f"{value}\n")
        groups[group] = None
    for group in groups:
        _write(f"{group}/{'cgroup.procs' if version == '2' else 'tasks'}", f"{os.getpid()}\n")


def _hierarchy(version: str, controller: str) -> str:
    if version == "2":
        return _unified()
    for path, options in _mounts("cgroup"):
        if controller in options:
            return path
    raise JailerFault(f"Controller {controller} is unavailable")


def _enable(group: str, controller: str) -> None:
    top = _unified()
    at = top
    for part in os.path.relpath(group, top).split("/"):
        _write(f"{at}/cgroup.subtree_control", f"+{controller}\n")
        at = f"{at}/{part}"
