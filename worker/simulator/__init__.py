"""Stand-in `firecracker` and `jailer`, for machines without KVM or without the real binaries.

`install` writes two launchers; hostd's driver takes them as it takes the real ones and cannot tell
them apart but by the list below.  Only the standard library is imported, and little of it, so that
a VMM's API answers some 35 ms after the jailer's exec; nothing above this package may be, since the
launchers run without site-packages on sys.path's front and before any jail exists.

The jailer really does what it is named for (chroot layout, pivot_root, device nodes, rlimits,
control groups, network namespace, uid, PID namespace, pid file, leftovers that make a second start
fail), and then, where the real one calls exec, goes on as the VMM in the same interpreter: inside
the jail there is no Python to exec.  The guest is a counter in memory, on the console and in the
vmstate; `guest.py` says how it notices a damaged memory file.

It can be Firecracker 1.12 to 1.17 (`version`): fields, requests and snapshot formats are those of
the version, and so are vsock's failures in 1.16.0 and 1.16.1.  The default is 1.16.1.

Where it differs from Firecracker 1.16/1.17 (the API was compared with a 1.17-dev binary, request by
request):

* /proc/<pid>/exe is the Python interpreter and cmdline the jailer's, not the jail's copy of
  `firecracker`; comm is `firecracker`.  exe does not change at the jailer's exec.
* The PID namespace is made by unshare and fork instead of clone.
* No vCPU threads.
* No seccomp filter (no_new_privs is set), so no exit code 148; SIGBUS, SIGSEGV and SIGILL kill by
  signal instead of with 149, 150 and 157.  No rate limits, no MMDS for the guest, no Uffd backend,
  no connections from guest to host.
* Devices that are plugged in or changed while the guest runs are refused, pmem and hotplugged
  memory are configured and shown only.
* The kernel is opened but not looked at; initrd and drives are never used.
* Malformed JSON is refused at the same place with Python's words; a damaged vmstate is always
  `CRC64 validation failed`; the vmstate's format is the simulator's own.
* A memory file that does not belong to its vmstate (an un-rebased Diff) fails the load; the real
  VMM loads it, and the guest breaks later.
* A VMM takes 11 MiB (7 MiB of its own), the real one 2 to 5; guest memory is charged page by page
  as it is written, and all of it once a Full has read it, as in the real one.
* An 11th connection gets the documented 503 (one 1.17-dev build died of it: bad syscall, 148).
* `--metadata`, `--seccomp-filter`, `--module`, log levels but Off, and the 60 s metrics flush are
  accepted and do nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path  # 9 ms of a VMM's start-up otherwise


def install(directory: Path, **faults: Any) -> tuple[Path, Path]:
    """The paths of a `firecracker` and a `jailer` in the directory; `faults`: see `faults.Faults`.

    Raises:
        ValueError: a fault of an unknown name.
    """
    from worker.simulator.launchers import write_launchers

    return write_launchers(directory, faults)
