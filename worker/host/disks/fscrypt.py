"""Directories whose files the filesystem encrypts with a tenant's key: fscrypt, policies v2.

Documentation/filesystems/fscrypt.rst and include/uapi/linux/fscrypt.h of Linux.  A policy is set on
an empty directory and holds for whatever is made below; renames between directories of one policy
work.  The key lies in the filesystem's own keyring until it is unmounted.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from worker.errors import Conflict
from worker.host.disks import luks
from worker.model.layout import Layout

_SET_POLICY: Final = 0x800C6613  # FS_IOC_SET_ENCRYPTION_POLICY
_GET_POLICY_EX: Final = 0xC0096616  # FS_IOC_GET_ENCRYPTION_POLICY_EX
_ADD_KEY: Final = 0xC0506617  # FS_IOC_ADD_ENCRYPTION_KEY

_V2: Final = 2
_AES_256_XTS: Final = 1
_AES_256_CTS: Final = 4
_PAD_32: Final = 3
_BY_IDENTIFIER: Final = 2

# struct fscrypt_policy_v2: version, two modes, flags, log2 of the data unit, reserved, identifier.
_POLICY: Final = struct.Struct("=BBBBB3x16s")
# struct fscrypt_get_policy_ex_arg: size, then the policy.
_GET: Final = struct.Struct("=Q24s")
# struct fscrypt_add_key_arg: specifier (type, reserved, 32 bytes), sizes, reserved, the key.
_ADD: Final = struct.Struct("=II32sII32x")
_IDENTIFIER_BYTES: Final = 16
_INFO: Final = b"hostd sleep image"
# No policies on this filesystem, or not switched on.
_CANNOT: Final = (errno.ENOTTY, errno.EOPNOTSUPP, errno.ENOSYS)


@dataclass(frozen=True, slots=True)
class EncryptedDirectory:
    """Encrypts directories for the memory of a tenant's guests; does nothing without a key file."""

    key_file: Path

    @classmethod
    def of(cls, layout: Layout, tenant_id: str) -> EncryptedDirectory:
        """For the tenant's key."""
        return cls(layout.disk_key(tenant_id))

    def encrypt(self, directory: Path) -> None:
        """Makes the filesystem encrypt new files in the empty directory with the tenant's key.

        Raises:
            Conflict: `storage_not_encrypted`, the filesystem cannot; `bad_key`.
        """
        secret = self._secret()
        if secret is None:
            return
        with _opened(directory) as fd:
            try:
                identifier = _add_key(fd, secret)
                policy = _POLICY.pack(_V2, _AES_256_XTS, _AES_256_CTS, _PAD_32, 0, identifier)
                fcntl.ioctl(fd, _SET_POLICY, policy)
            except OSError as error:
                if error.errno not in _CANNOT:
                    raise
                raise _not_encrypted(directory, self.key_file, error) from error

    def unlock(self, directory: Path) -> None:
        """Makes the files in the directory readable, if they are encrypted.

        Raises:
            Conflict: `storage_locked`, they are not encrypted with the tenant's present key.
        """
        with _opened(directory) as fd:
            wanted = _policy(fd)
            if wanted is None:
                return
            secret = self._secret()
            if secret is None or _add_key(fd, secret) != wanted:
                raise Conflict(
                    "storage_locked",
                    f"{directory} is encrypted, and the key in {self.key_file} does not open it",
                    hint=f"put the tenant's key back into {self.key_file}",
                )

    def _secret(self) -> bytes | None:
        return _derived(luks.read_key(self.key_file)) if os.path.lexists(self.key_file) else None


def can_encrypt(directory: Path) -> bool:
    """Whether directories of this filesystem can be encrypted; changes nothing."""
    with _opened(directory) as fd:
        try:
            fcntl.ioctl(fd, _GET_POLICY_EX, bytearray(_GET.pack(24, bytes(24))))
        except OSError as error:
            return error.errno not in _CANNOT
        return True


def _derived(key: bytes) -> bytes:
    """64 bytes only for this use: the same key also opens the tenant's disks."""
    # Imported late: only hosts with tenants' keys need it.
    from cryptography.hazmat.primitives.hashes import SHA512
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    return HKDF(algorithm=SHA512(), length=64, salt=None, info=_INFO).derive(key)


def _add_key(fd: int, raw: bytes) -> bytes:
    """Adds the key to the filesystem's keyring; returns the identifier that the kernel computes."""
    argument = bytearray(_ADD.pack(_BY_IDENTIFIER, 0, bytes(32), len(raw), 0) + raw)
    fcntl.ioctl(fd, _ADD_KEY, argument)
    return bytes(argument[8 : 8 + _IDENTIFIER_BYTES])


def _policy(fd: int) -> bytes | None:
    """The identifier of the key that the directory is encrypted with; None if it is not."""
    argument = bytearray(_GET.pack(24, bytes(24)))
    try:
        fcntl.ioctl(fd, _GET_POLICY_EX, argument)
    except OSError as error:
        if error.errno in (errno.ENODATA, *_CANNOT):
            return None
        raise
    return bytes(argument[16 : 16 + _IDENTIFIER_BYTES])


@contextmanager
def _opened(directory: Path) -> Iterator[int]:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def _not_encrypted(directory: Path, key_file: Path, error: OSError) -> Conflict:
    return Conflict(
        "storage_not_encrypted",
        f"{key_file} exists, but {directory} cannot be encrypted: {error.strerror}",
        hint="tune2fs -O encrypt on the device of the state directory (ext4), or move the key away",
    )
