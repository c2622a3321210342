"""Where files and directories are below the state directory."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from enqueue.requests import INSTANCE_PATTERN, LABEL_PATTERN, InstanceId, PoolId, TenantId
from worker.model.names import InstanceRef

_OWNED: Final = (  # an instance's directory, part by part
    r"\Atenants\Z", LABEL_PATTERN, r"\Apools\Z", LABEL_PATTERN, r"\Ainstances\Z", INSTANCE_PATTERN,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Layout:
    """The paths below the state directory (`[paths] state`)."""

    state: Path

    def tenant(self, tenant_id: str) -> Path:
        """The tenant's directory."""
        return self.state / "tenants" / tenant_id

    def pool(self, tenant_id: str, pool_id: str) -> Path:
        """The pool's directory."""
        return self.tenant(tenant_id) / "pools" / pool_id

    def instance(self, ref: InstanceRef) -> Path:
        """The instance's directory."""
        return self.pool(ref.tenant_id, ref.pool_id) / "instances" / ref.instance_id

    def artifacts(self, tenant_id: str, pool_id: str) -> Path:
        """The pool's artifacts: `revisions/<hash>/` and the symlink `current`."""
        return self.pool(tenant_id, pool_id) / "artifacts"

    def disk_key(self, tenant_id: str) -> Path:
        """The key of the tenant's data disks; it exists only if they are encrypted."""
        return self.state / "keys" / f"{tenant_id}.key"

    def volumes(self, ref: InstanceRef) -> Path:
        """The instance's disks."""
        return self.instance(ref) / "volumes"

    def runtime(self, ref: InstanceRef) -> Path:
        """Files that exist only as long as the VMM."""
        return self.instance(ref) / "runtime"

    def jail_base(self, ref: InstanceRef) -> Path:
        """The jailer's `--chroot-base-dir`."""
        return self.instance(ref) / "jail"

    def images(self, ref: InstanceRef) -> Path:
        """The sleep images: `sleep/` is published, `partial-*` are unfinished."""
        return self.instance(ref) / "snapshots"

    def owner(self, path: Path) -> InstanceRef | None:
        """The instance whose directory contains `path`; None if there is none."""
        try:
            parts = path.relative_to(self.state).parts
        except ValueError:
            return None
        if len(parts) < len(_OWNED) or any(
            not re.match(form, part) for form, part in zip(_OWNED, parts, strict=False)
        ):
            return None
        return InstanceRef(TenantId(parts[1]), PoolId(parts[3]), InstanceId(parts[5]))
