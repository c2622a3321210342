"""Reads the configuration: a TOML file, overridden by variables `HOSTD_<SECTION>__<KEY>`."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any, Final

import msgspec

from worker.config.sections import SECTIONS, Config, HostLabel
from worker.errors import ConfigError

DEFAULT_PATH: Final = Path("/etc/hostd/hostd.toml")
ALIASES: Final = {
    "HOSTD_FIRECRACKER": ("vmm", "firecracker"),
    "HOSTD_JAILER": ("vmm", "jailer"),
}


def load(path: Path | None = None, environ: Mapping[str, str] = os.environ) -> Config:
    """The configuration in `path` (the default file may be missing) and the environment.

    Raises:
        ConfigError: the file cannot be read, or any key is unknown or wrong; all are listed.
    """
    return build(_file(path), environ)


def _file(path: Path | None) -> dict[str, Any]:
    if path is None and not DEFAULT_PATH.exists():
        return {}
    source = path or DEFAULT_PATH
    try:
        return tomllib.loads(source.read_text())
    except OSError as error:
        raise ConfigError(f"cannot read {source}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{source} is not valid TOML: {error}") from error


def build(document: Mapping[str, Any], environ: Mapping[str, str]) -> Config:
    """The configuration of a parsed document and an environment.

    Raises:
        ConfigError: every fault, one a line.
    """
    faults: list[str] = []
    given = _merged(document, environ, faults)
    values: dict[str, Any] = {}
    host = given.pop("", {}).get("host", "")
    try:
        values["host"] = msgspec.convert(host, HostLabel)
    except msgspec.ValidationError:
        faults.append(f"host = {host!r}: give this host a name of a-z, 0-9 and '-'")
    for section, struct in SECTIONS.items():
        values[section] = _section(section, struct, given.get(section, {}), faults)
    if not faults:
        faults.extend(_contradictions(values))
    if faults:
        raise ConfigError("\n".join(faults))
    return Config(**values)


def _merged(
    document: Mapping[str, Any], environ: Mapping[str, str], faults: list[str]
) -> dict[str, dict[str, Any]]:
    """Values by section ("" for the top level); the environment overrides the document."""
    given: dict[str, dict[str, Any]] = {"": {}}
    for key, value in document.items():
        if key in SECTIONS and isinstance(value, dict):
            given[key] = dict(value)
        elif key == "host":
            given[""][key] = value
        else:
            faults.append(f"{key}: unknown; sections are {', '.join(SECTIONS)}, and host")
    for name, text in environ.items():
        section, key = _variable(name)
        if key == "host" and not section:
            given[""]["host"] = text
        elif section in SECTIONS:
            given.setdefault(section, {})[key] = _typed(section, key, text)
        elif section:
            faults.append(f"{name}: unknown section {section!r}")
    return given


def _variable(name: str) -> tuple[str, str]:
    """(section, key) of an environment variable; ("", "") if it is not one of hostd's."""
    if name in ALIASES:
        return ALIASES[name]
    if name == "HOSTD_HOST":
        return "", "host"
    if not name.startswith("HOSTD_") or "__" not in name:
        return "", ""
    section, _, key = name.removeprefix("HOSTD_").lower().partition("__")
    return section, key


def _typed(section: str, key: str, text: str) -> Any:
    """`text` as the type of the key: TOML where it parses, a plain string otherwise."""
    hint = SECTIONS[section].__annotations__.get(key, "str")
    if hint in ("str", "Path") or "pattern" in hint:
        return text
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _section(
    section: str, struct: type[msgspec.Struct], given: Mapping[str, Any], faults: list[str]
) -> msgspec.Struct:
    known = {field.name: field for field in msgspec.structs.fields(struct)}
    good: dict[str, Any] = {}
    for key, value in given.items():
        if key not in known:
            faults.append(f"{section}.{key}: unknown; known are {', '.join(known)}")
            continue
        try:
            good[key] = msgspec.convert(value, known[key].type, dec_hook=_path)
        except (msgspec.ValidationError, ValueError) as error:
            faults.append(f"{section}.{key} = {value!r}: {error}")
    return struct(**good)


def _path(kind: type, value: Any) -> Path:
    if kind is not Path or not isinstance(value, str) or not value.startswith("/"):
        raise ValueError("must be an absolute path")
    return Path(value)


def _contradictions(values: Mapping[str, Any]) -> list[str]:
    """Faults that no single key shows."""
    faults = []
    try:
        supernet = IPv4Network(values["network"].supernet)
        if not supernet.is_private or supernet.prefixlen > 24:
            faults.append(f"network.supernet = {supernet}: must be private and hold a /24")
    except ValueError as error:
        faults.append(f"network.supernet: {error}")
    if values["retry"].first_s > values["retry"].cap_s:
        faults.append("retry.first_s is larger than retry.cap_s")
    return faults
