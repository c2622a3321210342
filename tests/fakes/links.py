"""Network devices in memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from worker.errors import Conflict
from worker.model.names import guest_mac, parse_bridge
from worker.ports import Bridge, Tap


@dataclass(frozen=True, slots=True)
class Foreign:
    """A device that is neither bridge nor TAP."""

    name: str
    owner_tag: str = ""


class FakeLinks:
    """`ports.Links` without a kernel; `devices` may be arranged by a test."""

    def __init__(self) -> None:
        self.devices: dict[str, Bridge | Tap | Foreign] = {}
        self._forwarding = False

    def bridge(self, name: str) -> Bridge | None:
        device = self.devices.get(name)
        if device is not None and not isinstance(device, Bridge):
            raise _foreign(name)
        return device

    def put_bridge(self, name: str, *, address: str, mac: str, owner_tag: str) -> None:
        there = self.bridge(name)
        if (
            there is not None
            and there.owner_tag != owner_tag
            and not self._is_unfinished(there, mac)
        ):
            raise _foreign(name)
        self.devices[name] = Bridge(name, True, frozenset({address}), mac, owner_tag, True)

    def tap(self, name: str) -> Tap | None:
        device = self.devices.get(name)
        if device is not None and not isinstance(device, Tap):
            raise _foreign(name)
        return device

    def put_tap(self, name: str, *, owner_uid: int, bridge: str, owner_tag: str) -> None:
        if not isinstance(self.devices.get(bridge), Bridge):
            raise Conflict("no_bridge", f"there is no bridge {bridge} to attach {name} to")
        there = self.tap(name)
        if there is not None and there.owner_tag != owner_tag:
            raise _foreign(name)
        self.devices[name] = Tap(name, True, owner_uid, bridge, owner_tag)

    def delete(self, name: str) -> None:
        device = self.devices.get(name)
        if device is None:
            return
        unfinished = isinstance(device, Bridge) and self._is_unfinished(device, _tenant_mac(name))
        if not device.owner_tag.startswith("hostd:") and not unfinished:
            raise _foreign(name)
        del self.devices[name]
        for port in self.ports(name):
            tap = self.devices[port]
            if isinstance(tap, Tap):
                self.devices[port] = replace(tap, bridge=None)

    def ports(self, bridge: str) -> frozenset[str]:
        taps = (device for device in self.devices.values() if isinstance(device, Tap))
        return frozenset(tap.name for tap in taps if tap.bridge == bridge)

    def owned(self) -> Mapping[str, str]:
        tags = {device.name: device.owner_tag for device in self.devices.values()}
        return {name: tag for name, tag in tags.items() if tag.startswith("hostd:")}

    def forwarding(self) -> bool:
        return self._forwarding

    def enable_forwarding(self) -> None:
        self._forwarding = True

    def _is_unfinished(self, bridge: Bridge, mac: str | None) -> bool:
        bare = not (bridge.owner_tag or bridge.up or bridge.addresses or self.ports(bridge.name))
        return bare and bridge.mac == mac


def _tenant_mac(name: str) -> str | None:
    net_id = parse_bridge(name)
    return None if net_id is None else guest_mac(net_id, 1)


def _foreign(name: str) -> Conflict:
    return Conflict("foreign_device", f"{name} is not hostd's")
