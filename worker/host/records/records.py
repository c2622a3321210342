"""The JSON documents under the state directory, which agentd writes too.

agentd is not root: anything else that it puts in place of a document (a symlink, a FIFO, a huge
file) is refused as a bad document.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from enqueue.documents import InstanceDoc, InstanceFields, PoolDoc, TenantDoc, parse_instance
from enqueue.requests import INSTANCE_PATTERN, LABEL_PATTERN, InstanceId, PoolId, TenantId
from worker.errors import Conflict
from worker.host.records import audit_log as audit
from worker.linux import files, safe_open
from worker.model.layout import Layout
from worker.model.names import InstanceRef
from worker.ports import Artifacts

_DOCUMENT_LIMIT_BYTES: Final = 1 << 20
_SECRETS_LIMIT_BYTES: Final = 8 << 20  # half of the disk for them
_REVISION: Final = re.compile(r"\A[A-Za-z0-9][A-Za-z0-9._+-]{0,127}\Z")

Doc = TypeVar("Doc")


class DiskRecords:
    """Implements `worker.ports.Records`."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def tenant(self, tenant_id: str) -> TenantDoc | None:
        path = self._layout.tenant(tenant_id) / "tenant.json"
        doc = _parsed(path, lambda raw: msgspec.json.decode(raw, type=TenantDoc))
        if doc is not None:
            _check(path, tenant_id=(doc.tenant_id, tenant_id))
        return doc

    def pool(self, tenant_id: str, pool_id: str) -> PoolDoc | None:
        path = self._layout.pool(tenant_id, pool_id) / "pool.json"
        doc = _parsed(path, lambda raw: msgspec.json.decode(raw, type=PoolDoc))
        if doc is not None:
            _check(path, tenant_id=(doc.tenant_id, tenant_id), pool_id=(doc.pool_id, pool_id))
        return doc

    def instance(self, ref: InstanceRef) -> InstanceDoc | None:
        path = self._instance_path(ref)
        doc = _parsed(path, parse_instance)
        if doc is not None:
            _check_instance(path, doc.fields, ref)
        return doc

    def put_instance(self, ref: InstanceRef, doc: InstanceDoc) -> None:
        """The document keeps its owner and mode, those of agentd."""
        path = self._instance_path(ref)
        _check_instance(path, doc.fields, ref)
        files.make_directory(path.parent)
        files.write(path, msgspec.json.format(msgspec.json.encode(doc.whole)) + b"\n")

    def instances(self) -> tuple[InstanceRef, ...]:
        return tuple(self._instances())

    def tenant_ids(self) -> tuple[TenantId, ...]:
        top = self._layout.state / "tenants"
        names = _names(top, LABEL_PATTERN)
        return tuple(TenantId(n) for n in names if os.path.lexists(top / n / "tenant.json"))

    def artifacts(self, tenant_id: str, pool_id: str) -> Artifacts | None:
        """The pool's current revision; None also if a symlink leads out of the pool's artifacts.

        The paths are the revision's own: they stay valid when `current` changes.
        """
        top = self._layout.artifacts(tenant_id, pool_id)
        try:
            link = (top / "current").readlink()
            revision = _real(top / "current")
            revisions = _real(top / "revisions")
            home = _real(top)
        except OSError:
            return None
        if revision.parent != revisions or not revisions.is_relative_to(home):
            return None
        kernel, rootfs = revision / "vmlinux", revision / "rootfs.ext4"
        if link.name != revision.name or not _REVISION.match(revision.name):
            return None
        if not (_is_within(kernel, home) and _is_within(rootfs, home)):
            return None
        return Artifacts(revision.name, kernel, rootfs)

    def audited(self, tenant_id: str, request_id: str) -> bool:
        return audit.mentions(self._audit_log(tenant_id), f'"{request_id}"')

    def audit(self, tenant_id: str, entry: Mapping[str, Any]) -> None:
        audit.append(self._audit_log(tenant_id), msgspec.json.encode(entry))

    def _audit_log(self, tenant_id: str) -> Path:
        return self._layout.tenant(tenant_id) / "audit.log"

    def secrets(self, tenant_id: str) -> bytes:
        path = self._layout.tenant(tenant_id) / "secrets.json"
        raw = _read(path, limit_bytes=_SECRETS_LIMIT_BYTES)
        return b"{}" if raw is None else raw

    def _instance_path(self, ref: InstanceRef) -> Path:
        return self._layout.instance(ref) / "instance.json"

    def _instances(self) -> Iterator[InstanceRef]:
        for tenant in _names(self._layout.state / "tenants", LABEL_PATTERN):
            for pool in _names(self._layout.tenant(tenant) / "pools", LABEL_PATTERN):
                instances = self._layout.pool(tenant, pool) / "instances"
                for instance in _names(instances, INSTANCE_PATTERN):
                    if os.path.lexists(instances / instance / "instance.json"):
                        yield InstanceRef(TenantId(tenant), PoolId(pool), InstanceId(instance))


def _parsed(path: Path, parse: Callable[[bytes], Doc]) -> Doc | None:
    raw = _read(path, limit_bytes=_DOCUMENT_LIMIT_BYTES)
    if raw is None:
        return None
    try:
        return parse(raw)
    except msgspec.DecodeError as error:
        raise _bad(path, str(error)) from error


def _read(path: Path, *, limit_bytes: int) -> bytes | None:
    try:
        with files.translate_errors(path):
            return safe_open.read(path, limit_bytes=limit_bytes)
    except ValueError as error:
        raise _bad(path, str(error)) from error


def _check_instance(path: Path, fields: InstanceFields, ref: InstanceRef) -> None:
    _check(
        path,
        tenant_id=(fields.tenant_id, ref.tenant_id),
        pool_id=(fields.pool_id, ref.pool_id),
        instance_id=(fields.instance_id, ref.instance_id),
    )


def _check(path: Path, **ids: tuple[str, str]) -> None:
    """Checks that the ids in the document are those of its directory."""
    for name, (found, expected) in ids.items():
        if found != expected:
            raise _bad(path, f"its {name} is {found!r}, but its directory is that of {expected!r}")


def _bad(path: Path, why: str) -> Conflict:
    return Conflict("bad_document", f"{path}: {why}", hint="agentd must write it again")


def _names(directory: Path, pattern: str) -> list[str]:
    try:
        found = sorted(entry.name for entry in directory.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [name for name in found if re.match(pattern, name)]


def _real(path: Path) -> Path:
    """The path without symlinks, in three system calls.

    Raises:
        OSError: it does not exist, or has a loop of symlinks.
    """
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        return Path(f"/proc/self/fd/{fd}").readlink()
    finally:
        os.close(fd)


def _is_within(path: Path, home: Path) -> bool:
    """Whether `path` is, symlinks followed, a regular file below `home`.

    The directory of `path` is resolved already, and below `home`.
    """
    try:
        if stat.S_ISREG(path.lstat().st_mode):
            return True
        real = _real(path)
        return real.is_relative_to(home) and stat.S_ISREG(real.lstat().st_mode)
    except OSError:
        return False
