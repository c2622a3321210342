"""Which sleep images a machine can wake."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from worker.linux.machine import Processor, processor
from worker.plans.image_manifest import incompatibilities
from worker.ports import Platform

HERE = Platform(
    firecracker_version="1.16.1",
    firecracker_sha256="a" * 64,
    snapshot_format="10.2.0",
    architecture="x86_64",
    cpu_vendor="AuthenticAMD",
    cpu_family="25",
    cpu_model="17",
    cpu_stepping="1",
    kernel="6.12.48+deb13-amd64",
    boot_id="b-1",
)

TABLE: list[tuple[dict[str, Any], list[str]]] = [
    ({}, []),
    ({"firecracker_version": "1.15.0", "firecracker_sha256": "b" * 64}, []),
    ({"boot_id": "b-0"}, []),
    ({"cpu_stepping": "0"}, []),
    ({"architecture": "aarch64"}, ["architecture was aarch64, is x86_64"]),
    ({"cpu_vendor": "GenuineIntel"}, ["cpu vendor was GenuineIntel, is AuthenticAMD"]),
    ({"cpu_family": "23"}, ["cpu family was 23, is 25"]),
    ({"cpu_model": "1"}, ["cpu model was 1, is 17"]),
    ({"snapshot_format": "10.1.0"}, []),
    ({"snapshot_format": "10.2.9"}, []),
    ({"snapshot_format": "10.3.0"}, ["snapshot format is 10.3.0, Firecracker 1.16.1 reads 10.2.0"]),
    ({"snapshot_format": "9.0.0"}, ["snapshot format is 9.0.0, Firecracker 1.16.1 reads 10.2.0"]),
    ({"snapshot_format": "11.0.0"}, ["snapshot format is 11.0.0, Firecracker 1.16.1 reads 10.2.0"]),
    ({"snapshot_format": "?"}, ["snapshot format is ?, Firecracker 1.16.1 reads 10.2.0"]),
    ({"kernel": "6.12.1-other"}, []),
    ({"kernel": "6.1.48"}, ["host kernel was 6.1.48, is 6.12.48+deb13-amd64"]),
    ({"kernel": "5.12.48"}, ["host kernel was 5.12.48, is 6.12.48+deb13-amd64"]),
    (
        {"cpu_model": "1", "kernel": "6.6.0"},
        ["cpu model was 1, is 17", "host kernel was 6.6.0, is 6.12.48+deb13-amd64"],
    ),
]


@pytest.mark.parametrize(("changed", "expected"), TABLE)
def test_each_difference_is_named(changed: dict[str, Any], expected: list[str]) -> None:
    assert list(incompatibilities(asdict(HERE) | changed, HERE)) == expected


@pytest.mark.parametrize("missing", ["architecture", "cpu_model", "snapshot_format", "kernel"])
def test_a_field_that_an_older_manifest_lacks_is_not_compared(missing: str) -> None:
    other = replace(HERE, **{missing: "9.9"})
    manifest = {key: value for key, value in asdict(HERE).items() if key != missing}
    assert incompatibilities(manifest, other) == ()
    assert incompatibilities(asdict(HERE), other) != ()


def test_another_kernel_may_be_allowed_but_nothing_else() -> None:
    manifest = asdict(HERE) | {"kernel": "5.10.0", "cpu_family": "6"}
    found = incompatibilities(manifest, HERE, across_kernels=True)
    assert found == ("cpu family was 6, is 25",)


X86 = """processor\t: 0
vendor_id\t: GenuineIntel
cpu family\t: 6
model\t\t: 143
model name\t: Intel(R) Xeon(R)
stepping\t: 8

processor\t: 1
model\t\t: 999
"""
ARM = """processor\t: 0
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x1
CPU part\t: 0xd40
"""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (X86, Processor("GenuineIntel", "6", "143", "8")),
        (ARM, Processor("0x41", "8", "0xd40", "0x1")),
        ("", Processor("", "", "", "")),
    ],
)
def test_the_processor_is_the_first_one_in_cpuinfo(
    tmp_path: Path, text: str, expected: Processor
) -> None:
    (tmp_path / "cpuinfo").write_text(text)
    assert processor(tmp_path / "cpuinfo") == expected
