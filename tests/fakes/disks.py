"""Disks as small files that say what would be in them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from enqueue.requests import InstanceId
from worker.ports import DiskSpec


class FakeDisks:
    """Implements `worker.ports.Disks`; `runtime` is an ordinary directory."""

    def __init__(self, runtime: Path) -> None:
        self._secrets = runtime / "secrets"

    def label(self, path: Path) -> str | None:
        found = self._read(path)
        return None if found is None else str(found["label"])

    def holds(self, spec: DiskSpec) -> bool:
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
        self._place(spec.path, json.dumps(self._content(spec)).encode(), spec.mode)

    def secrets_path(self, instance: InstanceId) -> Path:
        return self._secrets / f"{instance}.ext4"

    def copy(self, source: Path, target: Path) -> None:
        self._place(target, source.read_bytes(), 0o600)

    def remove(self, path: Path) -> None:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)

    def wipe(self, path: Path) -> Mapping[str, Any]:
        under = path.rglob("*") if path.is_dir() else [path]
        files = [file for file in under if file.is_file() and not file.is_symlink()]
        held = sum(file.stat().st_size for file in files)
        self.remove(path)
        return {"bytes": held, "files": len(files), "method": "fake"}

    def exists(self, path: Path) -> bool:
        return path.exists() or path.is_symlink()

    def _place(self, path: Path, content: bytes, mode: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_name(f".{path.name}.new")
        new.write_bytes(content)
        new.chmod(mode)
        new.rename(path)

    def _read(self, path: Path) -> dict[str, Any] | None:
        try:
            content: dict[str, Any] = json.loads(path.read_bytes())
        except (OSError, ValueError):
            return None
        return content

    def _content(self, spec: DiskSpec) -> dict[str, Any]:
        files = {name: [content.hex(), mode] for name, (content, mode) in spec.files.items()}
        return {"label": spec.label, "size_mib": spec.size_mib, "files": files}
