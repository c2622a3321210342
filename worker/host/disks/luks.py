"""LUKS2 containers in files: made, opened, closed and erased by cryptsetup.

The key is read here, after a check that only root could read it, and goes to cryptsetup by standard
input: no command line, environment or second file ever contains it.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from worker.errors import Broken, Conflict, Transient
from worker.linux import device_mapper as mapper
from worker.linux import luks_header, safe_open

KEY_BYTES: Final = 32
# The offset of the data: two headers of 16 KiB, and keyslots of 252 KiB for 3 keys.
DATA_AT_BYTES: Final = 1 << 20
SECTOR_BYTES: Final = 4096
_CIPHER: Final = "aes-xts-plain64"
_CIPHER_KEY_BITS: Final = 512  # two keys of 256 bits: XTS
# The least that cryptsetup accepts.  Stretching is for passphrases that can be guessed: 256 random
# bits cannot, and argon2 would take up to a GiB of memory at each start of a guest.
_KDF_ITERATIONS: Final = 1000
_TIMEOUT_S: Final = 60
_NO_PERMISSION, _BUSY = 2, 5  # cryptsetup(8), RETURN CODES: also a key that does not fit


def format_argv(path: Path, label: str) -> tuple[str, ...]:
    """Makes the new file at `path` a container; reads the key from standard input."""
    return (
        *("cryptsetup", "luksFormat", "--batch-mode", "--type", "luks2", "--label", label),
        *("--cipher", _CIPHER, "--key-size", str(_CIPHER_KEY_BITS), "--hash", "sha256"),
        *("--pbkdf", "pbkdf2", "--pbkdf-force-iterations", str(_KDF_ITERATIONS)),
        *("--sector-size", str(SECTOR_BYTES), "--luks2-metadata-size", "16k"),
        *("--offset", str(DATA_AT_BYTES // 512), "--key-file", "-", "--", str(path)),
    )


def open_argv(path: Path, name: str) -> tuple[str, ...]:
    """Opens the container at `path` as the device `name`; reads the key from standard input."""
    return (
        *("cryptsetup", "open", "--batch-mode", "--type", "luks2", "--allow-discards"),
        *("--key-file", "-", "--", str(path), name),
    )


def trial_argv(path: Path) -> tuple[str, ...]:
    """Tries a key without a device; reads it from standard input."""
    return (
        *("cryptsetup", "open", "--batch-mode", "--type", "luks2", "--test-passphrase"),
        *("--key-file", "-", "--", str(path)),
    )


def close_argv(name: str) -> tuple[str, ...]:
    """Closes the device."""
    return ("cryptsetup", "close", "--", name)


def erase_argv(path: Path) -> tuple[str, ...]:
    """Overwrites all keyslots of the container at `path`."""
    return ("cryptsetup", "erase", "--batch-mode", "--", str(path))


def read_key(path: Path) -> bytes:
    """The key in the file at `path`.

    Raises:
        Conflict: `no_key`, `bad_key`.
    """
    try:
        with safe_open.opened(path) as fd:
            if fd is None:
                raise _no_key(path)
            seen = os.fstat(fd)
            if seen.st_uid != os.geteuid() or seen.st_mode & 0o077:
                raise _bad_key(path, "other users may have read it")
            content = os.read(fd, KEY_BYTES + 1)
    except OSError as error:
        raise _bad_key(path, str(error.strerror)) from error
    if len(content) != KEY_BYTES:
        raise _bad_key(path, f"its length is not {KEY_BYTES} bytes")
    return content


def require_device_mapper() -> None:
    """Returns if the kernel has a device mapper.

    Raises:
        Broken: `no_device_mapper`.
    """
    try:
        mapper.open_control()
    except OSError as error:
        raise Broken(
            "no_device_mapper",
            f"{mapper.DIRECTORY / 'control'} cannot be opened: {error.strerror}",
            hint="modprobe dm_crypt; a container needs /dev/mapper/control and devices 253:*",
        ) from error


def version() -> str:
    """The version line of the installed cryptsetup.

    Raises:
        Broken: `cryptsetup`.
    """
    done = _run(("cryptsetup", "--version"))
    _check(done, Path())
    return done.stdout.decode().strip()


def format_new(path: Path, label: str, secret: bytes) -> None:
    """Makes the new file at `path` a container with this label and key.

    Raises:
        Broken: `cryptsetup`.
    """
    _check(_run(format_argv(path, label), secret), path)


def try_key(path: Path, secret: bytes) -> None:
    """Returns if the key opens the container.

    Raises:
        Conflict: `wrong_key`.
        Broken: `cryptsetup`.
    """
    done = _run(trial_argv(path), secret)
    if done.returncode == _NO_PERMISSION:
        raise Conflict(
            "wrong_key",
            f"the tenant's key does not open {path}",
            hint="put the key back that the disk was made with; nothing was changed",
        )
    _check(done, path)


def open_device(path: Path, name: str, secret: bytes) -> Path:
    """Opens the container as a device of that name; returns the device.

    Raises:
        Conflict: `wrong_key`.
        Transient: `mapper_busy`, a process of a killed hostd opened it at the same time.
        Broken: `no_device_mapper`, `cryptsetup`.
    """
    require_device_mapper()
    try_key(path, secret)
    done = _run(open_argv(path, name), secret)
    if done.returncode == _BUSY:
        raise Transient("mapper_busy", f"{mapper.DIRECTORY / name} was opened by another process")
    _check(done, path)
    return mapper.DIRECTORY / name


def is_open(path: Path, name: str) -> bool:
    """Whether the device of that name, and its node, are the open container at `path`."""
    found, header = mapper.mapped(name), luks_header.read_header(path)
    if found is None or header is None:
        return False
    try:
        node = (mapper.DIRECTORY / name).stat().st_rdev
    except FileNotFoundError:
        return False
    uuid = f"CRYPT-LUKS2-{header.uuid.replace('-', '')}-{name}"
    # A copy of a container has the same uuid: only the file below it differs.
    below = mapper.backing_files(found)
    return node == found.number and found.uuid == uuid and below == [os.path.realpath(path)]


def is_container_of(name: str, uuid: str) -> bool:
    """Whether a device's uuid is that of a LUKS2 container that was opened as `name`."""
    return uuid.startswith("CRYPT-LUKS2-") and uuid.endswith(f"-{name}")


def close(name: str) -> None:
    """Closes the device of that name, if it exists, and its loop device.

    Raises:
        Transient: `mapper_busy`, it is in use.
        Broken: `cryptsetup`.
    """
    if mapper.mapped(name) is None:
        return
    done = _run(close_argv(name))
    if mapper.mapped(name) is None:
        return
    if done.returncode == _BUSY:
        raise Transient(
            "mapper_busy",
            f"{mapper.DIRECTORY / name} is still in use",
            hint="find its user with lsof, or lsblk for devices on top of it",
        )
    _check(done, mapper.DIRECTORY / name)
    raise Broken("cryptsetup", f"cryptsetup closed {name}, but the device still exists")


@contextmanager
def opened(path: Path, name: str, secret: bytes) -> Iterator[Path]:
    """The container's device; closed when the block ends."""
    try:
        yield open_device(path, name, secret)
    finally:
        close(name)


def erase(path: Path) -> bool:
    """Erases all keyslots of the container at `path`; False if cryptsetup does not recognize it.

    Raises:
        Broken: `keyslots_left`, a header still lists some.
    """
    if _run(erase_argv(path)).returncode != 0:
        return False
    left = luks_header.keyslots_left(path)
    if left:
        raise Broken("keyslots_left", f"{path} still has {left} keyslots after their erasure")
    return True


def _run(argv: tuple[str, ...], secret: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    environ = {"PATH": "/usr/sbin:/sbin:/usr/bin:/bin", "LC_ALL": "C"}
    try:
        return subprocess.run(
            argv, input=secret, capture_output=True, env=environ, timeout=_TIMEOUT_S, check=False
        )
    except FileNotFoundError as error:
        raise Broken(
            "cryptsetup", "cryptsetup is not installed", hint="install cryptsetup-bin"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise Broken("cryptsetup", f"{argv[:2]} took longer than {_TIMEOUT_S} s") from error


def _check(done: subprocess.CompletedProcess[bytes], path: Path) -> None:
    if done.returncode == 0:
        return
    output = done.stderr.decode(errors="replace").strip() or "nothing"
    raise Broken(
        "cryptsetup",
        f"cryptsetup {done.args[1]} of {path} printed: {output}",
        exit_code=done.returncode,
    )


def _no_key(path: Path) -> Conflict:
    return Conflict(
        "no_key",
        f"the data disk is encrypted, but there is no {path}",
        hint="put the tenant's key back; without it the disk cannot be read",
    )


def _bad_key(path: Path, why: str) -> Conflict:
    return Conflict(
        "bad_key",
        f"{path}: {why}",
        hint=f"a key is {KEY_BYTES} random bytes in a file of root's with mode 0600",
    )
