"""What hostd needs from the machine, as small protocols.

Steps use only these.  The adapters that touch the kernel are in `worker.host`; each has a fake in
`tests.fakes`, and both pass the port's contract suite in `tests/contract`.  An adapter speaks the
domain, translates errno at its edge, and treats "already gone" on removal as success.  Methods
that change something are idempotent where the docstring does not say otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass

from worker.ports.agents import AgentAnswer, AgentOutcome, Agents
from worker.ports.cgroups import Cgroups, Limits
from worker.ports.disks import CryptSpec, Disks, DiskSpec
from worker.ports.firewall import Firewall, GuestRules, TenantRules
from worker.ports.images import Image, Images, ImageState
from worker.ports.links import Bridge, Links, Tap
from worker.ports.records import Artifacts, Records
from worker.ports.vmm import Drive, ImageFiles, Platform, Vmm, VmmProcess, VmmState, VmSpec

__all__ = [
    "AgentAnswer",
    "AgentOutcome",
    "Agents",
    "Artifacts",
    "Bridge",
    "Cgroups",
    "CryptSpec",
    "DiskSpec",
    "Disks",
    "Drive",
    "Firewall",
    "GuestRules",
    "Host",
    "Image",
    "ImageFiles",
    "ImageState",
    "Images",
    "Limits",
    "Links",
    "Platform",
    "Records",
    "Tap",
    "TenantRules",
    "VmSpec",
    "Vmm",
    "VmmProcess",
    "VmmState",
]


@dataclass(frozen=True, slots=True)
class Host:
    """The machine that a plan runs against."""

    links: Links
    firewall: Firewall
    cgroups: Cgroups
    disks: Disks
    records: Records
    vmm: Vmm
    images: Images
    agents: Agents
