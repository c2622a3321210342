"""The tables of the ledger, and the steps from an older schema to this one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

SCHEMA_VERSION: Final = 1
SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS requests (
    request_id TEXT PRIMARY KEY,
    seq INTEGER NOT NULL UNIQUE,          -- order of acceptance; a new run gets a new one
    digest BLOB NOT NULL,                 -- of issuer and canonical request
    op TEXT NOT NULL,
    tenant_id TEXT, instance_id TEXT,
    call BLOB NOT NULL,                   -- RQ's data, as it came
    state TEXT NOT NULL CHECK (state IN ('accepted', 'decided', 'published')),
    runs INTEGER NOT NULL DEFAULT 1,
    attempts INTEGER NOT NULL DEFAULT 0,  -- of this run
    accepted_at_ms INTEGER NOT NULL,
    began_at_ms INTEGER,                  -- first attempt of this run
    not_before_ms INTEGER NOT NULL DEFAULT 0,
    code TEXT, result BLOB, decided_at_ms INTEGER,
    attempting INTEGER NOT NULL DEFAULT 0,  -- worker.ledger.entries.Attempting
    crashes INTEGER NOT NULL DEFAULT 0);    -- of hostd, while this run was alone in an attempt
CREATE INDEX IF NOT EXISTS requests_open ON requests (state, seq) WHERE state != 'published';
CREATE INDEX IF NOT EXISTS requests_instance ON requests (instance_id, seq);
CREATE TABLE IF NOT EXISTS journal (
    request_id TEXT NOT NULL, step TEXT NOT NULL,
    began_at_ms INTEGER NOT NULL, finished_at_ms INTEGER,
    PRIMARY KEY (request_id, step)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS reservations (
    kind TEXT NOT NULL, key TEXT NOT NULL, owner TEXT NOT NULL,
    vcpus INTEGER NOT NULL DEFAULT 0, mem_mib INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (kind, key)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS instances (
    instance_id TEXT PRIMARY KEY, tenant_id TEXT NOT NULL, pool_id TEXT NOT NULL,
    status TEXT NOT NULL, changed_at_ms INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS outbox (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, event BLOB NOT NULL,
    published INTEGER NOT NULL DEFAULT 0);
CREATE INDEX IF NOT EXISTS outbox_open ON outbox (seq) WHERE published = 0;
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
"""
# The statements that bring the schema before each number to that number.
MIGRATIONS: Final[Mapping[int, Sequence[str]]] = {}
