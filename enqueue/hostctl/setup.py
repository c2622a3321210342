"""`hostctl keygen` and `hostctl acl`: keys and passwords, before a host is asked anything."""

from __future__ import annotations

from pathlib import Path

import click

from enqueue.hostctl.options import prints
from enqueue.hostctl.output import Printer


@click.command(short_help="make a key pair")
@click.argument("key_id", metavar="KEY_ID")
@click.option("--private", metavar="FILE", required=True, help="For the one who asks.")
@click.option("--public", metavar="FILE", required=True, help="For the host's keys_dir.")
@prints
def keygen(printer: Printer, key_id: str, private: str, public: str) -> None:
    """Write a new key pair into two files that do not exist yet."""
    from enqueue import signing

    try:
        signing.generate(key_id, private=Path(private), public=Path(public))
    except (OSError, ValueError) as error:
        raise click.UsageError(str(error)) from error
    printer.document(
        {"key_id": key_id, "private": private, "public": public},
        f"{key_id}: {private} signs; copy {public} to the host's keys_dir as {key_id}.json",
    )


@click.command(short_help="write Redis ACL users and passwords")
@click.argument("directory", metavar="DIRECTORY")
@click.argument("hosts", metavar="HOST...", nargs=-1, required=True)
@prints
def acl(printer: Printer, directory: str, hosts: tuple[str, ...]) -> None:
    """Write Redis ACL users for these hosts into DIRECTORY, and each user's password beside them.

    Passwords that exist already are kept.
    """
    from enqueue.hostctl import acl_files

    try:
        path = acl_files.write(Path(directory), hosts)
    except (OSError, ValueError) as error:
        raise click.UsageError(str(error)) from error
    printer.document(
        {"users": str(path), "hosts": hosts},
        f"{path}: name it as `aclfile` in redis.conf; each user's password is beside it",
    )
