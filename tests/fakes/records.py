"""Documents in memory, as the bytes that would be in their files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from enqueue.documents import InstanceDoc, PoolDoc, TenantDoc, parse_instance
from enqueue.requests import TenantId
from worker.errors import Conflict
from worker.model.names import InstanceRef
from worker.ports import Artifacts


class FakeRecords:
    """Implements `worker.ports.Records`; a test fills the dictionaries as agentd would."""

    def __init__(self) -> None:
        self.tenants: dict[str, bytes] = {}
        self.pools: dict[tuple[str, str], bytes] = {}
        self.docs: dict[InstanceRef, bytes] = {}
        self.current: dict[tuple[str, str], Artifacts] = {}
        self.secret_bytes: dict[str, bytes] = {}
        self.audits: dict[str, list[dict[str, Any]]] = {}

    def tenant(self, tenant_id: str) -> TenantDoc | None:
        raw = self.tenants.get(tenant_id)
        doc = None if raw is None else _decoded(raw, TenantDoc)
        if doc is not None:
            _check(doc.tenant_id == tenant_id)
        return doc

    def pool(self, tenant_id: str, pool_id: str) -> PoolDoc | None:
        raw = self.pools.get((tenant_id, pool_id))
        doc = None if raw is None else _decoded(raw, PoolDoc)
        if doc is not None:
            _check((doc.tenant_id, doc.pool_id) == (tenant_id, pool_id))
        return doc

    def instance(self, ref: InstanceRef) -> InstanceDoc | None:
        raw = self.docs.get(ref)
        if raw is None:
            return None
        try:
            doc = parse_instance(raw)
        except msgspec.DecodeError as error:
            raise _bad(str(error)) from error
        _check(_belongs(doc, ref))
        return doc

    def put_instance(self, ref: InstanceRef, doc: InstanceDoc) -> None:
        _check(_belongs(doc, ref))
        self.docs[ref] = msgspec.json.encode(doc.whole)

    def instances(self) -> tuple[InstanceRef, ...]:
        return tuple(sorted(self.docs, key=str))

    def tenant_ids(self) -> tuple[TenantId, ...]:
        return tuple(TenantId(tenant) for tenant in sorted(self.tenants))

    def artifacts(self, tenant_id: str, pool_id: str) -> Artifacts | None:
        return self.current.get((tenant_id, pool_id))

    def audited(self, tenant_id: str, request_id: str) -> bool:
        return any(entry["request_id"] == request_id for entry in self.audits.get(tenant_id, []))

    def audit(self, tenant_id: str, entry: Mapping[str, Any]) -> None:
        self.audits.setdefault(tenant_id, []).append(dict(entry))

    def secrets(self, tenant_id: str) -> bytes:
        return self.secret_bytes.get(tenant_id, b"{}")


def _decoded(raw: bytes, kind: Any) -> Any:
    try:
        return msgspec.json.decode(raw, type=kind)
    except msgspec.DecodeError as error:
        raise _bad(str(error)) from error


def _belongs(doc: InstanceDoc, ref: InstanceRef) -> bool:
    said = (doc.fields.tenant_id, doc.fields.pool_id, doc.fields.instance_id)
    return said == (ref.tenant_id, ref.pool_id, ref.instance_id)


def _check(right: bool) -> None:
    if not right:
        raise _bad("its ids are not those of its directory")


def _bad(why: str) -> Conflict:
    return Conflict("bad_document", why)
