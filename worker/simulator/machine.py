"""The VM behind the API: its configuration, its state, and the actions that change them."""

from __future__ import annotations

import os
import threading
import time
from typing import Any

from worker.simulator.defaults import BOOT_SOURCE, DRIVE, INTERFACE, MACHINE
from worker.simulator.devices import open_console, open_drive, open_kernel, open_log, open_tap
from worker.simulator.errors import ApiFault
from worker.simulator.faults import Faults
from worker.simulator.guest import BOOTED, Guest
from worker.simulator.vsock import Vsock

VCPUS_MAX = 32
BLOCK = "Drive config error: Unable to create the virtio block device: "


class Machine:
    """One VM; only the API's thread calls its methods."""

    def __init__(self, name: str, faults: Faults) -> None:
        self.name, self.faults = name, faults
        self.state = "Not started"
        self.configured = False
        self.bare_pause = False  # paused, and no snapshot was made since
        self.config: dict[str, Any] = dict(MACHINE)
        self.boot_source: dict[str, Any] | None = None
        self.drives: dict[str, dict[str, Any]] = {}
        self.interfaces: dict[str, dict[str, Any]] = {}
        self.files: dict[str, int] = {}
        self.vsock_config: dict[str, Any] | None = None
        self.vsock: Vsock | None = None
        self.entropy: dict[str, Any] | None = None
        self.serial_path: str | None = None
        self.guest: Guest | None = None

    def info(self) -> dict[str, Any]:
        """`GET /`."""
        return {
            "id": self.name,
            "state": self.state,
            "vmm_version": self.faults.version,
            "app_name": "Firecracker",
        }

    def full_config(self) -> dict[str, Any]:
        """`GET /vm/config`."""
        return {
            "balloon": None,
            "drives": list(self.drives.values()),
            "boot-source": self.boot_source or BOOT_SOURCE,
            "cpu-config": None,
            "logger": None,
            "machine-config": self.config,
            "metrics": None,
            "mmds-config": None,
            "network-interfaces": list(self.interfaces.values()),
            "vsock": self.vsock_config,
            "entropy": self.entropy,
            "pmem": [],
            "memory-hotplug": None,
        }

    def set_machine(self, body: dict[str, Any]) -> None:
        """Sets the size of the VM.

        Raises:
            ApiFault: a number is out of range.
        """
        wanted = self.config | {k: v for k, v in body.items() if k != "cpu_template"}
        vcpus, odd = wanted["vcpu_count"], wanted["vcpu_count"] % 2
        if not 1 <= vcpus <= VCPUS_MAX or (wanted["smt"] and odd and vcpus > 1):
            raise ApiFault(
                "Machine config error: The number of vCPUs must be greater than 0, less than "
                f"{VCPUS_MAX} and must be 1 or an even number if SMT is enabled."
            )
        size = wanted["mem_size_mib"]
        if size == 0 or (wanted["huge_pages"] == "2M" and size % 2):
            raise ApiFault(
                "Machine config error: The memory size (MiB) is either 0, or not a "
                "multiple of the configured page size."
            )
        self.config = wanted

    def set_boot_source(self, body: dict[str, Any]) -> None:
        """Sets kernel, initrd and command line."""
        open_kernel(body)
        self.boot_source = BOOT_SOURCE | body

    def put_drive(self, body: dict[str, Any]) -> None:
        """Adds a disk; the root disk is the first of the list.

        Raises:
            ApiFault: the body is incomplete, the file cannot be opened, or a second root.
        """
        drive = DRIVE | body
        name = drive["drive_id"]
        if drive["path_on_host"] is None or drive["is_read_only"] is None or drive["socket"]:
            raise ApiFault(f"{BLOCK}Invalid block config.")
        roots = [d for d in self.drives.values() if d["is_root_device"] and d["drive_id"] != name]
        if drive["is_root_device"] and roots:
            raise ApiFault("Drive config error: A root block device already exists!")
        self._keep(f"drive {name}", open_drive(drive, what=BLOCK))
        first = {name: drive} if drive["is_root_device"] else {}
        self.drives = first | self.drives | {name: drive}

    def put_interface(self, body: dict[str, Any]) -> None:
        """Adds a network device; removes a former one of that id, even if this one fails."""
        name = body["iface_id"]
        self.interfaces.pop(name, None)
        self._keep(f"tap {name}", None)
        self._keep(f"tap {name}", open_tap(body["host_dev_name"]))
        mtu = {"mtu": None} if self.faults.minor >= 17 else {}
        self.interfaces[name] = INTERFACE | mtu | body

    def put_vsock(self, body: dict[str, Any]) -> None:
        """Adds the vsock device; removes a former one and its socket."""
        if self.vsock is not None:
            self.vsock.close()
        self.vsock, self.vsock_config = None, None
        self.vsock = Vsock(
            body["uds_path"],
            prefix="Vsock config error: Cannot create backend for vsock device: ",
        )
        self.vsock_config = {"guest_cid": body["guest_cid"], "uds_path": body["uds_path"]}

    def boot(self) -> None:
        """Boots the guest.

        Raises:
            ApiFault: no kernel is configured, or the console's file cannot be opened.
        """
        if self.boot_source is None:
            raise ApiFault(
                "Start microvm error: Cannot start microvm without kernel configuration."
            )
        console = open_console(self.serial_path, self.boot_source["boot_args"] or "")
        guest = Guest.booted(self.config["mem_size_mib"], self.faults.tick_ms / 1000)
        self.adopt(guest, console)
        guest.write_serial(BOOTED)
        self.resume()

    def adopt(self, guest: Guest, console: int) -> None:
        """Makes this the VM's guest, paused."""
        self.guest, guest.serial = guest, console
        guest.log = open_log(self.faults.serial)
        guest.start()
        if self.vsock is not None:
            self.vsock.attach(guest, self.faults)
        self.state = "Paused"

    def pause(self) -> None:
        """Pauses the vCPUs."""
        self._guest().pause()
        self.bare_pause = self.bare_pause or self.state == "Running"
        self.state = "Paused"

    def resume(self) -> None:
        """Resumes the vCPUs."""
        if self.bare_pause and self.vsock is not None and self.faults.vsock_dies_in_bare_resume:
            self.vsock.dead = True
        self.bare_pause = False
        self._guest().resume()
        self.state = "Running"

    def ctrl_alt_del(self) -> None:
        """Shuts the guest down soon, or once resumed, unless it ignores the keys."""
        if not self.faults.ignore_ctrl_alt_del:
            threading.Thread(target=self._shut_down, daemon=True).start()

    def _shut_down(self) -> None:
        guest = self._guest()
        guest.wait_until_running()
        time.sleep(self.faults.shutdown_ms / 1000)
        guest.wait_until_running()
        guest.write_serial(b"simulated guest down\n")
        os._exit(0)

    def _guest(self) -> Guest:
        assert self.guest is not None, "the API refuses such requests before boot"  # noqa: S101 - an invariant of api.py
        return self.guest

    def _keep(self, key: str, file: int | None) -> None:
        former = self.files.pop(key, None)
        if former is not None:
            os.close(former)
        if file is not None:
            self.files[key] = file
