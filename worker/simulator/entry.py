"""The launchers' entry points: imports everything, before a jail hides the files."""

from __future__ import annotations

import os
from typing import NoReturn

from worker.simulator import jailer as jailing
from worker.simulator import vmm
from worker.simulator.faults import FILE_NAME, Faults, read_faults


def firecracker(argv: list[str]) -> NoReturn:
    """`firecracker` outside a jail; argv[0] is the launcher's path."""
    fault_file = _fault_file(argv[0])
    os._exit(vmm.main(argv[1:], read_faults(fault_file) or Faults(), fault_file))


def jailer(argv: list[str]) -> NoReturn:
    """`jailer`, then the VMM in the same process."""
    faults = read_faults(_fault_file(argv[0])) or Faults()
    os._exit(jailing.main(argv[1:], vmm.main, version=faults.version))


def _fault_file(launcher: str) -> str:
    return f"{os.path.dirname(os.path.realpath(launcher))}/{FILE_NAME}"
