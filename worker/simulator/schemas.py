"""The bodies that each version of the API takes; fields in the order of its own messages."""

from __future__ import annotations

from typing import Any

from worker.simulator.bodies import Kind, ListOf, OneOf, Scalar, Struct, Unsigned

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
    """The form of each request's body, by method and first path token, for version 1.`minor`."""
    newer: dict[str, Any] = {"emit_id": YES_NO, "properties": ANY} if minor >= 17 else {}
    limited: dict[str, Kind] = {"rate_limiter": BUCKET} if minor >= 16 else {}
    return {
        "PUT actions": Struct(
            "ActionBody",
            "action_type",
            action_type=OneOf("FlushMetrics", "InstanceStart", "SendCtrlAltDel"),
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
        "PATCH drives": Struct(
            "BlockDeviceUpdateConfig",
            "drive_id",
            drive_id=TEXT,
            path_on_host=TEXT,
            rate_limiter=LIMITER,
        ),
        "PUT network-interfaces": _interface(minor),
        "PATCH network-interfaces": Struct(
            "NetworkInterfaceUpdateConfig",
            "iface_id",
            iface_id=TEXT,
            rx_rate_limiter=LIMITER,
            tx_rate_limiter=LIMITER,
        ),
        "PUT vsock": Struct(
            "VsockDeviceConfig", "guest_cid uds_path", vsock_id=TEXT, guest_cid=U32, uds_path=TEXT
        ),
        "PUT entropy": Struct("EntropyDeviceConfig", "", rate_limiter=LIMITER),
        "PUT balloon": Struct(
            "BalloonDeviceConfig",
            "amount_mib deflate_on_oom",
            amount_mib=U32,
            deflate_on_oom=YES_NO,
            stats_polling_interval_s=U16,
            free_page_hinting=YES_NO,
            free_page_reporting=YES_NO,
        ),
        "PATCH balloon": Struct("BalloonUpdateConfig", "amount_mib", amount_mib=U32),
        "PATCH balloon/statistics": Struct(
            "BalloonUpdateStatsConfig", "stats_polling_interval_s", stats_polling_interval_s=U16
        ),
        "PATCH balloon/hinting/start": Struct("StartHintingCmd", "", acknowledge_on_stop=YES_NO),
        "PATCH balloon/hinting/stop": ANY,
        "PUT pmem": Struct(
            "PmemConfig",
            "id path_on_host",
            id=TEXT,
            path_on_host=TEXT,
            root_device=YES_NO,
            read_only=YES_NO,
            rate_limiter=LIMITER,
        ),
        "PATCH pmem": Struct("PmemDeviceUpdateConfig", "id", id=TEXT, rate_limiter=LIMITER),
        "PUT hotplug/memory": Struct(
            "MemoryHotplugConfig",
            "total_size_mib",
            total_size_mib=SIZE,
            block_size_mib=SIZE,
            slot_size_mib=SIZE,
        ),
        "PATCH hotplug/memory": Struct(
            "MemoryHotplugSizeUpdate", "requested_size_mib", requested_size_mib=SIZE
        ),
        "PUT logger": Struct(
            "LoggerConfig",
            "",
            log_path=PATH,
            level=Scalar("a string", str, _level_fault),
            show_level=YES_NO,
            show_log_origin=YES_NO,
            module=TEXT,
        ),
        "PUT metrics": Struct("MetricsConfig", "metrics_path", metrics_path=PATH, **newer),
        "PUT serial": Struct("SerialConfig", "", serial_out_path=PATH, **limited),
        "PUT cpu-config": Struct(
            "CustomCpuTemplate", "", kvm_capabilities=ANY, cpuid_modifiers=ANY, msr_modifiers=ANY
        ),
        "PUT mmds": ANY,
        "PATCH mmds": ANY,
        "PUT mmds/config": Struct(
            "MmdsConfig",
            "network_interfaces",
            version=OneOf("V1", "V2"),
            network_interfaces=ListOf(TEXT),
            ipv4_address=TEXT,
            imds_compat=YES_NO,
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
