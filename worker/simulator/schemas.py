"""Bodies that each version of the API accepts; fields in the order of its own messages."""

from __future__ import annotations

from worker.simulator.request_bodies import Kind, ListOf, OneOf, Scalar, Struct, Unsigned

LEVELS = ("off", "error", "warn", "warning", "info", "debug", "trace")


def _mac_fault(text: str) -> str | None:
    parts = text.split(":")
    digits = "0123456789abcdefABCDEF"
    if len(parts) == 6 and all(len(p) == 2 and set(p) <= set(digits) for p in parts):
        return None
    return "The provided MAC address is invalid."


def _level_fault(text: str) -> str | None:
    return None if text.lower() in LEVELS else "Invalid LevelFilter"


ANY = Kind()
TEXT = Scalar("a string", str)
PATH = Scalar("path string", str)
YES_NO = Scalar("a boolean", bool)
U8, U16, U32, U64 = (Unsigned(f"u{bits}", bits) for bits in (8, 16, 32, 64))
SIZE = Unsigned("usize", 64)
MAC = Scalar("a string", str, _mac_fault)
BUCKET = Struct(
    "TokenBucketConfig", "size refill_time", size=U64, one_time_burst=U64, refill_time=U64
)
LIMITER = Struct("RateLimiterConfig", "", bandwidth=BUCKET, ops=BUCKET)
TEMPLATE = OneOf("C3", "T2", "T2S", "None", "T2CL", "T2A")
BACKEND = Struct(
    "MemBackendConfig",
    "backend_path backend_type",
    backend_path=PATH,
    backend_type=OneOf("File", "Uffd"),
)
NET_OVERRIDE = Struct(
    "NetworkOverride", "iface_id host_dev_name", iface_id=TEXT, host_dev_name=TEXT
)


def _machine(minor: int) -> dict[str, Kind]:
    pages = ("None", "Transparent", "2M") if minor >= 17 else ("None", "2M")
    return {
        "vcpu_count": U8,
        "mem_size_mib": SIZE,
        "smt": YES_NO,
        "cpu_template": TEMPLATE,
        "track_dirty_pages": YES_NO,
        "huge_pages": OneOf(*pages),
    }


def _load(minor: int) -> Struct:
    fields: dict[str, Kind] = {
        "snapshot_path": PATH,
        "mem_file_path": PATH,
        "mem_backend": BACKEND,
        "enable_diff_snapshots": YES_NO,
    }
    if minor >= 13:
        fields["track_dirty_pages"] = YES_NO
    fields["resume_vm"] = YES_NO
    if minor >= 12:
        fields["network_overrides"] = ListOf(NET_OVERRIDE)
    if minor >= 16:
        fields["vsock_override"] = Struct("VsockOverride", "uds_path", uds_path=TEXT)
        fields["clock_realtime"] = YES_NO
    if minor >= 17:
        fields["huge_pages"] = OneOf("Snapshot", "None", "Transparent", "2M")
    return Struct("LoadSnapshotConfig", "snapshot_path", **fields)


def _interface(minor: int) -> Struct:
    mtu: dict[str, Kind] = {"mtu": U16} if minor >= 17 else {}
    return Struct(
        "NetworkInterfaceConfig",
        "iface_id host_dev_name",
        iface_id=TEXT,
        host_dev_name=TEXT,
        guest_mac=MAC,
        **mtu,
        rx_rate_limiter=LIMITER,
        tx_rate_limiter=LIMITER,
    )


def bodies(minor: int) -> dict[str, Kind]:
    """The form of each request's body, by method and first path token, in version 1.`minor`."""
    limited: dict[str, Kind] = {"rate_limiter": BUCKET} if minor >= 16 else {}
    return {
        "PUT actions": Struct(
            "ActionBody", "action_type", action_type=OneOf("InstanceStart", "SendCtrlAltDel")
        ),
        "PUT boot-source": Struct(
            "BootSourceConfig",
            "kernel_image_path",
            kernel_image_path=TEXT,
            initrd_path=TEXT,
            boot_args=TEXT,
        ),
        "PUT machine-config": Struct("MachineConfig", "vcpu_count mem_size_mib", **_machine(minor)),
        "PATCH machine-config": Struct("MachineConfigUpdate", "", **_machine(minor)),
        "PUT drives": Struct(
            "BlockDeviceConfig",
            "drive_id is_root_device",
            drive_id=TEXT,
            partuuid=TEXT,
            is_root_device=YES_NO,
            cache_type=OneOf("Unsafe", "Writeback"),
            is_read_only=YES_NO,
            path_on_host=TEXT,
            rate_limiter=LIMITER,
            io_engine=OneOf("Sync", "Async"),
            socket=TEXT,
        ),
        "PUT network-interfaces": _interface(minor),
        "PUT vsock": Struct(
            "VsockDeviceConfig", "guest_cid uds_path", vsock_id=TEXT, guest_cid=U32, uds_path=TEXT
        ),
        "PUT entropy": Struct("EntropyDeviceConfig", "", rate_limiter=LIMITER),
        "PUT logger": Struct(
            "LoggerConfig",
            "",
            log_path=PATH,
            level=Scalar("a string", str, _level_fault),
            show_level=YES_NO,
            show_log_origin=YES_NO,
            module=TEXT,
        ),
        "PUT serial": Struct("SerialConfig", "", serial_out_path=PATH, **limited),
        "PUT cpu-config": Struct(
            "CustomCpuTemplate", "", kvm_capabilities=ANY, cpuid_modifiers=ANY, msr_modifiers=ANY
        ),
        "PATCH vm": Struct("Vm", "state", state=OneOf("Paused", "Resumed")),
        "PUT snapshot/create": Struct(
            "CreateSnapshotParams",
            "snapshot_path mem_file_path",
            snapshot_type=OneOf("Diff", "Full"),
            snapshot_path=PATH,
            mem_file_path=PATH,
        ),
        "PUT snapshot/load": _load(minor),
    }
