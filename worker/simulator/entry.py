"""Where the launchers enter: everything is imported here, before a jail hides the files."""

from __future__ import annotations

import os
from typing import NoReturn

from worker.simulator import jailer as jailing
from worker.simulator import vmm
from worker.simulator.faults import FILE_NAME, Faults, read_faults


def firecracker(argv: list[str]) -> NoReturn:
    """`firecracker` outside a jail; argv[0] is the launcher's path."""
    beside = os.path.dirname(os.path.realpath(argv[0]))
    fault_file = f"{beside}/{FILE_NAME}"
    os._exit(vmm.main(argv[1:], read_faults(fault_file) or Faults(), fault_file))


def jailer(argv: list[str]) -> NoReturn:
    """`jailer`, and then the VMM."""
    code = jailing.main(argv[1:], vmm.main)
    os._exit(code)
