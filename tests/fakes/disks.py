"""Disks as small files that say what would be in them."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from enqueue.requests import InstanceId
from worker.errors import Conflict
from worker.ports import CryptSpec, DiskSpec


class FakeDisks:
    """Implements `worker.ports.Disks`; `runtime` is an ordinary directory."""

    def __init__(self, runtime: Path) -> None:
        self._runtime = runtime
        self._secrets = runtime / "secrets"
        self.devices = runtime / "mapper"
        self._begun: dict[Path, DiskSpec] = {}  # by this hostd

    def restarted(self) -> FakeDisks:
        """Another hostd on the same machine."""
        return FakeDisks(self._runtime)

    def label(self, path: Path) -> str | None:
        found = self._read(path)
        return None if found is None else str(found["label"])

    def matches(self, spec: DiskSpec) -> bool:
        found, wanted = self._read(spec.path), self._content(spec)
        if found is not None and not spec.files:
            wanted["files"] = found["files"]
        return found == wanted

    def same(self, source: Path, target: Path) -> bool:
        return (
            source.is_file()
            and target.is_file()
            and source.stat().st_size == target.stat().st_size
            and source.read_bytes() == target.read_bytes()
        )

    def make(self, spec: DiskSpec) -> None:
        self._begun.pop(spec.path, None)
        self._place(spec.path, json.dumps(self._content(spec)).encode(), spec.mode)

    def begin(self, spec: DiskSpec) -> None:
        spec.path.parent.mkdir(parents=True, exist_ok=True)
        _aside(spec.path).touch()
        self._begun[spec.path] = spec

    def is_begun(self, spec: DiskSpec) -> bool:
        return self._begun.get(spec.path) == spec

    def abandon(self, spec: DiskSpec) -> None:
        if self._begun.pop(spec.path, None) is not None:
            _aside(spec.path).unlink()

    def crypt_label(self, path: Path) -> str | None:
        found = self._read(path, "luks")
        return None if found is None else str(found["luks"])

    def make_crypt(self, spec: CryptSpec, *, size_mib: int, label: str) -> None:
        if self.exists(spec.path):
            raise Conflict("foreign_disk", "it is there already")
        content = {"luks": label, "size_mib": size_mib, "key": _fingerprint(spec.key)}
        self._place(spec.path, json.dumps(content).encode(), 0o600)

    def crypt_open(self, spec: CryptSpec) -> bool:
        device = self.devices / spec.mapper
        return device.exists() and device.read_text() == str(spec.path)

    def open_crypt(self, spec: CryptSpec) -> None:
        if self.crypt_open(spec):
            return
        found = self._read(spec.path, "luks")
        if found is None:
            raise Conflict("missing_file", "there is no container")
        if self.mapped(spec.mapper):
            raise Conflict("foreign_mapper", "another disk is open by that name")
        if _fingerprint(spec.key) != found["key"]:
            raise Conflict("wrong_key", "it does not fit")
        self.devices.mkdir(parents=True, exist_ok=True)
        (self.devices / spec.mapper).write_text(str(spec.path))

    def mapped(self, mapper: str) -> bool:
        return (self.devices / mapper).exists()

    def close_crypt(self, mapper: str) -> None:
        (self.devices / mapper).unlink(missing_ok=True)

    def secrets_path(self, instance: InstanceId) -> Path:
        return self._secrets / f"{instance}.ext4"

    def secrets(self) -> frozenset[InstanceId]:
        found = self._secrets.glob("*.ext4*") if self._secrets.is_dir() else ()
        names = (path.name.removesuffix(".new").strip(".") for path in found)
        return frozenset(InstanceId(name.removesuffix(".ext4")) for name in names)

    def open_containers(self) -> Mapping[str, Path]:
        found = self.devices.glob("mvm-*") if self.devices.is_dir() else ()
        return {device.name: Path(device.read_text()) for device in found}

    def copy(self, source: Path, target: Path) -> None:
        self._place(target, source.read_bytes(), 0o600)

    def remove(self, path: Path) -> None:
        _aside(path).unlink(missing_ok=True)
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)

    def wipe(self, path: Path) -> Mapping[str, Any]:
        under = sorted(path.rglob("*")) if path.is_dir() else [path]
        files = [file for file in under if file.is_file() and not file.is_symlink()]
        base = path if path.is_dir() else path.parent
        disks = [{"file": str(file.relative_to(base)), **self._wiped(file)} for file in files]
        self.remove(path)
        held = sum(disk["bytes"] for disk in disks)
        return {"bytes": held, "files": len(files), "method": "fake", "disks": disks}

    def exists(self, path: Path) -> bool:
        return path.exists() or path.is_symlink()

    def _place(self, path: Path, content: bytes, mode: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        new = _aside(path)
        new.write_bytes(content)
        new.chmod(mode)
        new.rename(path)

    def _wiped(self, file: Path) -> dict[str, Any]:
        held = {"bytes": file.stat().st_size, "method": "fake"}
        return held if self.crypt_label(file) is None else held | {"keyslots_left": 0}

    def _read(self, path: Path, kind: str = "label") -> dict[str, Any] | None:
        try:
            content: dict[str, Any] = json.loads(path.read_bytes())
        except (OSError, ValueError):
            return None
        return content if kind in content else None

    def _content(self, spec: DiskSpec) -> dict[str, Any]:
        files = {name: [content.hex(), mode] for name, (content, mode) in spec.files.items()}
        return {"label": spec.label, "size_mib": spec.size_mib, "files": files}


def _aside(path: Path) -> Path:
    return path.with_name(f".{path.name}.new")


def _fingerprint(key: Path) -> str:
    if not os.path.lexists(key):
        raise Conflict("no_key", f"there is no {key}")
    if not key.is_file() or key.is_symlink() or key.stat().st_mode & 0o077:
        raise Conflict("bad_key", "it is not root's alone")
    content = key.read_bytes()
    if len(content) != 32:
        raise Conflict("bad_key", "it has not 32 bytes")
    return hashlib.sha256(content).hexdigest()
