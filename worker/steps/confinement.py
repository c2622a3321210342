"""Steps for what confines a guest: its TAP, its control group, its jail."""

from __future__ import annotations

from dataclasses import dataclass

from worker.model.names import InstanceRef, owner_tag
from worker.ports import GuestRules, Host, ImageFiles, Limits, VmSpec


@dataclass(frozen=True, slots=True)
class SpoofingBarred:
    """The firewall lets the TAP send only what `rules` allows, from its own MAC and address."""

    rules: GuestRules
    name: str = "spoofing_barred"

    def done(self, host: Host) -> bool:
        return host.firewall.guest_is_current(self.rules)

    def apply(self, host: Host) -> None:
        host.firewall.put_guest(self.rules)

    def undo(self, host: Host) -> None:
        if host.links.tap(self.rules.tap) is None:  # a guest that runs on would be cut off
            host.firewall.remove_guest(self.rules.tap)


@dataclass(frozen=True, slots=True)
class GuestRulesAbsent:
    """The firewall has no rule for the TAP: a later TAP of that name would pass nothing."""

    tap: str
    name: str = "guest_rules_absent"

    def done(self, host: Host) -> bool:
        return self.tap not in host.firewall.guests()

    def apply(self, host: Host) -> None:
        host.firewall.remove_guest(self.tap)

    def undo(self, host: Host) -> None:
        pass


@dataclass(frozen=True, slots=True)
class TapPresent:
    """The instance's TAP is up, on its tenant's bridge, and belongs to the jail's uid."""

    ref: InstanceRef
    tap: str
    bridge: str
    owner_uid: int
    name: str = "tap_present"

    def done(self, host: Host) -> bool:
        tap = host.links.tap(self.tap)
        return (
            tap is not None
            and tap.up
            and tap.owner_uid == self.owner_uid
            and tap.bridge == self.bridge
            and tap.owner_tag == owner_tag(self.ref.instance_id)
        )

    def apply(self, host: Host) -> None:
        host.links.put_tap(
            self.tap,
            owner_uid=self.owner_uid,
            bridge=self.bridge,
            owner_tag=owner_tag(self.ref.instance_id),
        )

    def undo(self, host: Host) -> None:
        host.links.delete(self.tap)


@dataclass(frozen=True, slots=True)
class TapAbsent:
    """The instance has no TAP."""

    tap: str
    name: str = "tap_absent"

    def done(self, host: Host) -> bool:
        return host.links.tap(self.tap) is None

    def apply(self, host: Host) -> None:
        host.links.delete(self.tap)

    def undo(self, host: Host) -> None:
        pass


@dataclass(frozen=True, slots=True)
class CgroupPresent:
    """The instance's control group exists, with its limits in force as read back."""

    ref: InstanceRef
    limits: Limits
    name: str = "cgroup_present"

    def done(self, host: Host) -> bool:
        return host.cgroups.limits(self.ref.instance_id) == self.limits

    def apply(self, host: Host) -> None:
        host.cgroups.put(self.ref.instance_id, self.limits)

    def undo(self, host: Host) -> None:
        host.cgroups.remove(self.ref.instance_id)


@dataclass(frozen=True, slots=True)
class CgroupAbsent:
    """The instance has no control group, and so no process."""

    ref: InstanceRef
    kill_timeout_s: float
    name: str = "cgroup_absent"

    def done(self, host: Host) -> bool:
        return self.ref.instance_id not in host.cgroups.instances()

    def apply(self, host: Host) -> None:
        host.cgroups.kill(self.ref.instance_id, timeout_s=self.kill_timeout_s)
        host.cgroups.remove(self.ref.instance_id)

    def undo(self, host: Host) -> None:
        pass


@dataclass(frozen=True, slots=True)
class JailFresh:
    """A whole jail of exactly these files exists that no VMM has used, or the VMM lives in it.

    The disks of the drives `unfinished` need not be finished.
    """

    spec: VmSpec
    image: ImageFiles | None = None
    unfinished: frozenset[str] = frozenset()
    name: str = "jail_fresh"

    def done(self, host: Host) -> bool:
        return host.vmm.jail_is_fresh(self.spec, self.image, unfinished=self.unfinished)

    def apply(self, host: Host) -> None:
        host.vmm.build_jail(self.spec, self.image, unfinished=self.unfinished)

    def undo(self, host: Host) -> None:
        host.vmm.remove_jail(self.spec.ref)


@dataclass(frozen=True, slots=True)
class JailAbsent:
    """No jail, no mount below it and no runtime file of the instance is left."""

    ref: InstanceRef
    name: str = "jail_absent"

    def done(self, host: Host) -> bool:
        return not host.vmm.jail_exists(self.ref)

    def apply(self, host: Host) -> None:
        host.vmm.remove_jail(self.ref)

    def undo(self, host: Host) -> None:
        pass
