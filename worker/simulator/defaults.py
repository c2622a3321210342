"""What `GET /vm/config` shows for fields that were not given."""

from __future__ import annotations

MACHINE = {
    "vcpu_count": 1,
    "mem_size_mib": 128,
    "smt": False,
    "track_dirty_pages": False,
    "huge_pages": "None",
}
DRIVE = {
    "drive_id": "",
    "partuuid": None,
    "is_root_device": False,
    "cache_type": "Unsafe",
    "is_read_only": None,
    "path_on_host": None,
    "rate_limiter": None,
    "io_engine": "Sync",
    "socket": None,
}
INTERFACE = {
    "iface_id": "",
    "host_dev_name": "",
    "guest_mac": None,
    "rx_rate_limiter": None,
    "tx_rate_limiter": None,
}
BOOT_SOURCE = {"kernel_image_path": "", "initrd_path": None, "boot_args": None}
