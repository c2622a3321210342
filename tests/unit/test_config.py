"""The configuration, and docs/config.md, which must say the same."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import msgspec
import pytest

from worker.config import ALIASES, DEFAULT_PATH, SECTIONS, Config, build, load
from worker.errors import ConfigError

TABLE = Path(__file__).parents[2] / "docs" / "config.md"
ROW = re.compile(r"\| `(?P<key>[a-z0-9_.]+)` \| (?P<type>[^|]+) \| (?P<default>[^|]+) \|")
HOST = {"host": "host-a"}


def faults_of(document: dict[str, Any], **environ: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        build(document, environ)
    return str(caught.value).splitlines()


# ---------------------------------------------------------------- the table


def documented() -> dict[str, str]:
    """Key to default, as docs/config.md has it."""
    found = [row.groupdict() for row in ROW.finditer(TABLE.read_text())]
    keys = [row["key"] for row in found]
    assert len(keys) == len(set(keys)), "a key has two rows"
    return {row["key"]: row["default"].strip() for row in found}


def defaults() -> dict[str, Any]:
    """Key to default, as the code has it, in TOML's types."""
    return {
        f"{section}.{field.name}": msgspec.to_builtins(field.default, enc_hook=str)
        for section, struct in SECTIONS.items()
        for field in msgspec.structs.fields(struct)
    }


def test_the_table_has_every_key_and_no_other() -> None:
    assert set(documented()) == {"host", *defaults()}


@pytest.mark.parametrize("key", sorted(defaults()))
def test_the_table_has_the_default(key: str) -> None:
    literal = documented()[key]
    assert re.fullmatch("`.+`", literal), f"{key}: write the default as a TOML literal"
    said = tomllib.loads(f"value = {literal.strip('`')}")["value"]
    default = defaults()[key]
    assert said == (list(default) if isinstance(default, tuple) else default)
    assert isinstance(said, bool) is isinstance(default, bool)


def test_the_table_says_that_the_host_must_be_given() -> None:
    assert documented()["host"] == "none: must be given"


def test_the_table_names_the_aliases() -> None:
    assert all(name in TABLE.read_text() for name in ALIASES)


# ---------------------------------------------------------------- reading


def test_a_host_name_is_the_only_required_key() -> None:
    assert build(HOST, {}) == Config(host="host-a")


def test_without_a_host_name_there_is_no_configuration() -> None:
    (fault,) = faults_of({})
    assert fault.startswith("host = ''")


@pytest.mark.parametrize("name", ["Host", "host_a", "-host", "host-", "a" * 64, "host\n", 7])
def test_a_host_name_is_a_label(name: object) -> None:
    (fault,) = faults_of({"host": name})
    assert repr(name) in fault


def test_values_of_the_file_are_used() -> None:
    document = HOST | {"worker": {"threads": 9}, "paths": {"state": "/srv/vms"}}
    config = build(document, {})
    assert (config.worker.threads, config.paths.state) == (9, Path("/srv/vms"))


def test_unknown_keys_are_refused_by_name() -> None:
    faults = faults_of(HOST | {"worker": {"thread": 1}, "wrker": {}, "debug": True})
    assert [fault.split(":")[0] for fault in sorted(faults)] == ["debug", "worker.thread", "wrker"]


def test_a_section_that_is_not_a_table_is_refused() -> None:
    (fault,) = faults_of(HOST | {"worker": 4})
    assert fault.startswith("worker: unknown")


def test_all_faults_are_reported_together_with_key_and_value() -> None:
    document = {
        "host": "Host A",
        "worker": {"threads": 0},
        "retry": {"first_s": -1},
        "vmm": {"firecracker_sha256": "abc", "kernel": "/boot/vmlinux"},
    }
    text = "\n".join(faults_of(document, HOSTD_NOSUCH__KEY="1"))
    for part in (
        "host = 'Host A'",
        "worker.threads = 0",
        "retry.first_s = -1",
        "vmm.firecracker_sha256 = 'abc'",
        "vmm.kernel: unknown",
        "HOSTD_NOSUCH__KEY: unknown section",
    ):
        assert part in text


@pytest.mark.parametrize("key", ["state", "ledger", "runtime"])
@pytest.mark.parametrize("value", ["relative/path", "", "~/hostd", 7])
def test_a_path_that_is_not_absolute_is_refused(key: str, value: object) -> None:
    (fault,) = faults_of(HOST | {"paths": {key: value}})
    assert fault == f"paths.{key} = {value!r}: must be an absolute path"


@pytest.mark.parametrize(
    ("section", "values", "part"),
    [
        ("retry", {"first_s": 61.0}, "retry.first_s is larger than retry.cap_s"),
        ("retry", {"first_s": 2, "cap_s": 1}, "retry.first_s is larger than retry.cap_s"),
        ("network", {"supernet": "8.0.0.0/8"}, "must be private"),
        ("network", {"supernet": "10.0.0.0/25"}, "must be private and hold a /24"),
        ("network", {"supernet": "10.240.0.1/12"}, "has host bits set"),
        ("network", {"supernet": "fd00::/8"}, "network.supernet"),
    ],
)
def test_values_that_contradict_each_other_are_refused(
    section: str, values: dict[str, Any], part: str
) -> None:
    (fault,) = faults_of(HOST | {section: values})
    assert part in fault


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("worker", "threads", 65),
        ("worker", "threads", 1.5),
        ("worker", "request_timeout_s", 0),
        ("retry", "attempts", 0),
        ("ledger", "retention_days", 7),
        ("network", "uplink", "a-name-of-16-byt"),
        ("network", "uplink", 'eth0" accept'),
        ("cgroup", "parent", "/hostd"),
        ("cgroup", "parent", "a//b"),
        ("vmm", "uid_base", 0),
        ("vmm", "jailer_sha256", "A" * 64),
        ("security", "insecure", "yes"),
        ("metrics", "listen", "9464"),
    ],
)
def test_a_value_outside_its_range_is_refused(section: str, key: str, value: object) -> None:
    (fault,) = faults_of(HOST | {section: {key: value}})
    assert fault.startswith(f"{section}.{key} = {value!r}: ")


# ---------------------------------------------------------------- the environment


def test_the_environment_overrides_the_file() -> None:
    document = HOST | {"worker": {"threads": 2}, "metrics": {"listen": "127.0.0.1:1"}}
    environ = {
        "HOSTD_HOST": "host-b",
        "HOSTD_WORKER__THREADS": "8",
        "HOSTD_RETRY__FIRST_S": "0.5",
        "HOSTD_VMM__SIMULATE": "true",
        "HOSTD_REDIS__SENTINELS": '["s1:26379", "s2:26379"]',
        "HOSTD_PATHS__STATE": "/srv/vms",
        "HOSTD_METRICS__LISTEN": "",
    }
    config = build(document, environ)
    assert config.host == "host-b"
    assert (config.worker.threads, config.retry.first_s, config.vmm.simulate) == (8, 0.5, True)
    assert config.redis.sentinels == ("s1:26379", "s2:26379")
    assert (config.paths.state, config.metrics.listen) == (Path("/srv/vms"), "")


def test_a_string_key_takes_the_variable_unchanged() -> None:
    digest = "1" * 64  # TOML would read a number
    config = build(HOST, {"HOSTD_VMM__JAILER_SHA256": digest, "HOSTD_REDIS__URL": "true"})
    assert (config.vmm.jailer_sha256, config.redis.url) == (digest, "true")


def test_the_short_names_of_the_binaries_are_aliases() -> None:
    config = build(HOST, {"HOSTD_FIRECRACKER": "/opt/fc", "HOSTD_JAILER": "/opt/jailer"})
    assert (config.vmm.firecracker, config.vmm.jailer) == (Path("/opt/fc"), Path("/opt/jailer"))


def test_an_unknown_key_of_the_environment_is_refused() -> None:
    (fault,) = faults_of(HOST, HOSTD_WORKER__THREAD="1")
    assert fault.startswith("worker.thread: unknown")


def test_variables_of_other_programs_are_ignored() -> None:
    assert build(HOST, {"HOSTD_TRACE": "1", "HOSTCTL_HOST": "x", "PATH": "/bin"}) == Config(
        host="host-a"
    )


# ---------------------------------------------------------------- the file


def test_a_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "hostd.toml"
    path.write_text('host = "host-a"\n[worker]\nthreads = 3\n')
    assert load(path, {}).worker.threads == 3


def test_a_file_that_was_named_must_exist(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read .*none\.toml: No such file"):
        load(tmp_path / "none.toml", {})


@pytest.mark.skipif(DEFAULT_PATH.exists(), reason="this machine is configured")
def test_the_default_file_may_be_missing() -> None:
    assert load(None, {"HOSTD_HOST": "host-a"}) == Config(host="host-a")


@pytest.mark.parametrize("content", [b"host = ", b"\xff\xfe", b"host = 'a'\nhost = 'b'\n"])
def test_a_file_that_is_not_valid_toml_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "hostd.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"hostd\.toml is not valid TOML"):
        load(path, {})
