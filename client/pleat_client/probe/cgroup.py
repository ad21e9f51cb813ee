"""Limits that a container or a systemd unit puts on this process: cgroup v1 and v2, the tightest along the path.

Inside a container `os.cpu_count()` and the affinity still show the whole machine, so the quota files decide. Where a
container's root hides the outer path (v1 without a cgroup namespace), the mount's own root is the container's group.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pleat_client.probe.files import ROOT, number, table, text

_UNLIMITED = 1 << 60  # v1 writes "no limit" as 2**63 less one page


@dataclass(frozen=True)
class MemoryGroup:
    """`limit`: bytes; `used`: bytes charged to the group, less its cache of files, which can be dropped.

    Active cache counts as droppable too, as in the kernel's MemAvailable: it is mostly the libraries of torch, charged
    to whichever container read them first.
    """

    limit: int
    used: int | None


def memory_groups(root: Path = ROOT) -> list[MemoryGroup]:
    """Every group with a memory limit from this process's own up to the mount's root."""
    found = [_v2_memory(folder) for folder in _folders(root, "")]
    found += [_v1_memory(folder) for folder in _folders(root, "memory")]
    return [group for group in found if group is not None]


def memory_limit(root: Path = ROOT) -> int | None:
    """The tightest memory limit in bytes; None where there is none or the kernel has no memory groups (Pi OS)."""
    return min((group.limit for group in memory_groups(root)), default=None)


def memory_left(root: Path = ROOT) -> int | None:
    """Bytes that this process may still take before the first of its groups is full; None = no limit."""
    left = [group.limit - group.used for group in memory_groups(root) if group.used is not None]
    return max(0, min(left)) if left else None


def memory_enabled(root: Path = ROOT) -> bool | None:
    """Does this kernel keep memory limits at all? None = not told. Pi OS switches them off at boot, and limits of
    systemd and Docker are then ignored without a word."""
    found = [text(root / "sys/fs/cgroup" / folder / "cgroup.controllers") for folder in ("", "unified")]
    if any("memory" in (controllers or "").split() for controllers in found):
        return True
    for line in (text(root / "proc/cgroups") or "").splitlines():  # version 1 has no other list
        words = line.split()
        if words[:1] == ["memory"] and len(words) == 4:
            return words[3] == "1"
    return False if found[0] is not None else None


def cpu_quota(root: Path = ROOT) -> float | None:
    """Cores' worth of time a scheduling period allows (`--cpus 0.25` gives 0.25); None = no quota."""
    quotas = [_v2_quota(folder) for folder in _folders(root, "")]
    quotas += [_v1_quota(folder) for folder in _folders(root, "cpu")]
    return min((quota for quota in quotas if quota is not None), default=None)


def oom_kills(root: Path = ROOT) -> int | None:
    """Processes that the kernel has killed in this process's own group for want of memory; None = not told."""
    for folder in _folders(root, ""):
        count = table(folder / "memory.events").get("oom_kill", "")
        if count.isdecimal():
            return int(count)
    for folder in _folders(root, "memory"):
        count = table(folder / "memory.oom_control").get("oom_kill", "")
        if count.isdecimal():
            return int(count)
    return None


def _folders(root: Path, controller: str) -> Iterator[Path]:
    """The group's folder and its parents, innermost first; `controller` "" is the unified (v2) hierarchy."""
    mount = root / "sys/fs/cgroup" / controller
    for line in (text(root / "proc/self/cgroup") or "").splitlines():
        parts = line.split(":", 2)
        if len(parts) != 3 or controller not in parts[1].split(","):
            continue
        path = PurePosixPath("/", parts[2].lstrip("/"))
        if ".." in path.parts:  # a group outside this namespace's root: only the mount itself can be seen
            path = PurePosixPath("/")
        for level in (path, *path.parents):
            yield mount / level.relative_to("/")
        return


def _v2_memory(folder: Path) -> MemoryGroup | None:
    limit = number(folder / "memory.max")  # the word "max" is no number: no limit
    if limit is None:
        return None
    return MemoryGroup(limit, _used(number(folder / "memory.current"), folder, ""))


def _v1_memory(folder: Path) -> MemoryGroup | None:
    limit = number(folder / "memory.limit_in_bytes")
    if limit is None or limit >= _UNLIMITED:
        return None
    return MemoryGroup(limit, _used(number(folder / "memory.usage_in_bytes"), folder, "total_"))


def _used(charged: int | None, folder: Path, prefix: str) -> int | None:
    stat = table(folder / "memory.stat")
    caches = (stat.get(f"{prefix}{kind}_file", "") for kind in ("inactive", "active"))
    return None if charged is None else max(0, charged - sum(int(c) for c in caches if c.isdecimal()))


def _v2_quota(folder: Path) -> float | None:
    words = (text(folder / "cpu.max") or "").split()
    if len(words) != 2 or not (words[0].isdecimal() and words[1].isdecimal()) or int(words[1]) == 0:
        return None
    return int(words[0]) / int(words[1])


def _v1_quota(folder: Path) -> float | None:
    quota, period = number(folder / "cpu.cfs_quota_us"), number(folder / "cpu.cfs_period_us")
    return quota / period if quota and period and quota > 0 else None
