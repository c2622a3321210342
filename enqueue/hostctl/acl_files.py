"""`python -m enqueue.hostctl.acl_files DIRECTORY HOST...`: an ACL file for Redis.

`users.acl` and `<user>.password` for each user.  Passwords that are there stay, so that it may run
at each start.
"""

from __future__ import annotations

import secrets
import sys
from collections.abc import Sequence
from pathlib import Path

from enqueue.hostctl import acl


def write(directory: Path, hosts: Sequence[str], *, client: str = acl.DEFAULT_CLIENT) -> Path:
    """The ACL file in `directory`; everything in it can be read by its owner alone.

    Raises:
        OSError: a file cannot be written.
        ValueError: a host's name is none.
    """
    acl.acl_lines(*hosts)  # checks the names before they become names of files
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    workers = (acl.worker_user(host) for host in hosts)
    users = (client, *workers, acl.DASHBOARD, acl.REPLICA, acl.SENTINEL)
    hashes = {user: acl.password_hash(_password(directory, user)) for user in users}
    path = directory / "users.acl"
    path.touch(mode=0o600)
    path.write_text(acl.acl_lines(*hosts, client=client, hashes=hashes))
    return path


def _password(directory: Path, user: str) -> str:
    path = directory / f"{user}.password"
    if not path.exists() or not path.read_text().strip():
        path.touch(mode=0o600)
        path.write_text(secrets.token_urlsafe(24) + "\n")
    return path.read_text().strip()


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    print(write(Path(sys.argv[1]), sys.argv[2:]))
