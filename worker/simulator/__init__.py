"""Stand-in `firecracker` and `jailer`, for machines without KVM or without the real binaries.

`install` writes two launchers.  hostd's driver uses them like the real ones and can tell them apart
only by the list below.  They import only the standard library, and little of it: a VMM's API
answers some 35 ms after the jailer's exec.  They also import nothing above this package, because
they run without site-packages on sys.path's front, and before any jail exists.

The jailer does what the real one does (chroot layout, pivot_root, device nodes, rlimits, control
groups, network namespace, uid, PID namespace, pid file, leftovers that make a second start fail).
Where the real one calls exec, it continues as the VMM in the same interpreter: inside the jail
there is no Python to exec.  The guest is a counter in memory, on the console and in the vmstate;
`guest.py` says how it notices a damaged memory file.

It emulates Firecracker 1.12 to 1.17 (`version`): fields, requests and snapshot formats are those of
the version, and so are vsock's failures in 1.16.0 and 1.16.1.  The default is 1.16.1.

Differences from Firecracker 1.16/1.17 (the API was compared with a 1.17-dev binary, request by
request):

* Only the requests that hostd or its tests send are served.  Any other (balloon, pmem, memory
  hotplug, MMDS, metrics, changes of a running guest's devices) is refused like an unknown one, and
  so are command line options that hostd does not pass.  No `Deprecation` header is sent.
* /proc/<pid>/exe is the Python interpreter and cmdline the jailer's, not the jail's copy of
  `firecracker`; comm is `firecracker`.  exe does not change at the jailer's exec.
* The PID namespace is made by unshare and fork instead of clone.
* No vCPU threads.
* No seccomp filter (no_new_privs is set), so no exit code 148; SIGBUS, SIGSEGV and SIGILL kill by
  signal instead of with 149, 150 and 157.  No rate limits, no Uffd backend, no connections from
  guest to host.
* The kernel is opened but not read; initrd and drives are never used.
* Malformed JSON is refused at the same place with Python's words; a damaged vmstate is always
  `CRC64 validation failed`; the vmstate's format is the simulator's own.
* A memory file that does not belong to its vmstate (an un-rebased Diff) fails the load; the real
  VMM loads it, and the guest breaks later.
* A VMM takes 11 MiB (7 MiB of its own), the real one 2 to 5; guest memory is charged page by page
  as it is written, and all of it once a Full has read it, as in the real one.
* An 11th connection gets the documented 503 (one 1.17-dev build died of it: bad syscall, 148).
* CPU templates, `module` and log levels are accepted and do nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path  # 9 ms of a VMM's start-up otherwise


def install(directory: Path, **faults: Any) -> tuple[Path, Path]:
    """The paths of a `firecracker` and a `jailer` in the directory; `faults` as in `faults.Faults`.

    Raises:
        ValueError: a fault's name is unknown.
    """
    from worker.simulator.launchers import write_launchers

    return write_launchers(directory, faults)
