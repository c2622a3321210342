"""Ed25519 signatures over the exact bytes of a body, and their key files.

A key file is JSON, mode 0600: `{"key_id": ..., "private": base64}` on agentd's side and
`{"key_id": ..., "public": base64}` on the host's (`<keys_dir>/<key_id>.json`).
"""

from __future__ import annotations

import base64
import binascii
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from enqueue.requests import LABEL_PATTERN

KeyId = Annotated[str, msgspec.Meta(pattern=LABEL_PATTERN)]


class PrivateKeyFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The key file of agentd; `private` is 32 raw bytes in base64."""

    key_id: KeyId
    private: str


class PublicKeyFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The key file of a host; `public` is 32 raw bytes in base64."""

    key_id: KeyId
    public: str


@dataclass(frozen=True, slots=True)
class Signer:
    """Signs bodies under one key."""

    key_id: str
    key: Ed25519PrivateKey

    def sign(self, body: bytes) -> str:
        """The signature of `body`, base64."""
        return base64.b64encode(self.key.sign(body)).decode()


@dataclass(frozen=True, slots=True)
class Verifier:
    """Verifies signatures by the public keys that a host accepts, by key id."""

    keys: dict[str, Ed25519PublicKey]

    def verifies(self, body: bytes | msgspec.Raw, *, key_id: str, sig: str) -> bool:
        """Whether `sig` is the signature of `body` by the known key `key_id`."""
        key = self.keys.get(key_id)
        if key is None:
            return False
        try:
            key.verify(base64.b64decode(sig, validate=True), bytes(body))
        except (InvalidSignature, binascii.Error, ValueError):
            return False
        return True


def load_signer(path: Path) -> Signer:
    """The signer of a private key file.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not a key file.
    """
    try:
        file = msgspec.json.decode(path.read_bytes(), type=PrivateKeyFile)
        raw = base64.b64decode(file.private, validate=True)
        return Signer(file.key_id, Ed25519PrivateKey.from_private_bytes(raw))
    except (msgspec.DecodeError, binascii.Error, ValueError) as error:
        raise ValueError(f"{path} is not a private key of hostctl keygen: {error}") from error


def load_verifier(directory: Path) -> Verifier:
    """The verifier for all public key files in `directory`; a missing directory has no keys.

    Raises:
        OSError: a file cannot be read.
        ValueError: one is not a key file, or its name is not `<key_id>.json`.
    """
    keys: dict[str, Ed25519PublicKey] = {}
    for path in sorted(directory.glob("*.json")) if directory.is_dir() else ():
        try:
            file = msgspec.json.decode(path.read_bytes(), type=PublicKeyFile)
            raw = base64.b64decode(file.public, validate=True)
            key = Ed25519PublicKey.from_public_bytes(raw)
        except (msgspec.DecodeError, binascii.Error, ValueError) as error:
            raise ValueError(f"{path} is not a public key of hostctl keygen: {error}") from error
        if path.stem != file.key_id:
            raise ValueError(f"{path} holds key {file.key_id!r}; name it {file.key_id}.json")
        keys[file.key_id] = key
    return Verifier(keys)


def generate(key_id: str, *, private: Path, public: Path) -> None:
    """Writes a new key pair, each file 0600, refusing to overwrite.

    Raises:
        FileExistsError: one of the files already exists.
        ValueError: `key_id` is not a label.
    """
    key = Ed25519PrivateKey.generate()
    secret = PrivateKeyFile(key_id=key_id, private=_b64(key.private_bytes_raw()))
    open_half = PublicKeyFile(key_id=key_id, public=_b64(key.public_key().public_bytes_raw()))
    try:
        msgspec.json.decode(msgspec.json.encode(secret), type=PrivateKeyFile)
    except msgspec.ValidationError as error:
        raise ValueError(f"key id {key_id!r}: {error}") from error
    for path in (private, public):
        if path.exists():
            raise FileExistsError(f"{path} exists; move it away first")
    for path, content in ((private, secret), (public, open_half)):
        path.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(msgspec.json.encode(content) + b"\n")


def _b64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()
