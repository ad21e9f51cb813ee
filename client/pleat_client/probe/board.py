"""The board: model, architecture, system, accelerator, and how many cores this process may really use."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path

from pleat_client.probe import cgroup
from pleat_client.probe.files import ROOT, matching, number, table, text
from pleat_client.probe.memory import total_bytes

SMALL_BYTES = 1 << 30  # boards up to this give the trainer's memory back after every order


@dataclass(frozen=True)
class Board:
    """`kind`: "pi", "jetson" or "" ; `cores`: after affinity and container quotas; unknown is "" or None."""

    model: str
    kind: str
    machine: str
    system: str
    accelerator: str
    cores: float | None
    memory_bytes: int | None

    @property
    def small(self) -> bool:
        return self.memory_bytes is not None and self.memory_bytes <= SMALL_BYTES


def board(root: Path = ROOT, machine: str | None = None, affinity: int | None = None) -> Board:
    """`machine` and `affinity` (cores this process may run on) are asked from the running system when not given."""
    name = model(root)
    kind = "pi" if "raspberry pi" in name.lower() else "jetson" if _is_jetson(root, name) else ""
    return Board(
        model=name,
        kind=kind,
        machine=platform.machine() if machine is None else machine,
        system=_system(root),
        accelerator=_accelerator(root, kind, name),
        cores=cores(root, affinity),
        memory_bytes=total_bytes(root),
    )


def model(root: Path = ROOT) -> str:
    """The device tree's name of the board; on a PC the product's name; "" where neither is told."""
    for path in ("proc/device-tree/model", "sys/firmware/devicetree/base/model", "sys/class/dmi/id/product_name"):
        found = text(root / path)
        if found:
            return found
    return ""


def cores(root: Path = ROOT, affinity: int | None = None) -> float | None:
    """Cores' worth of time: the affinity mask, cut by a container's quota, which the mask does not show."""
    if affinity is None:
        affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    known = [float(value) for value in (affinity, cgroup.cpu_quota(root)) if value]
    return min(known, default=None)


def threads(root: Path = ROOT, affinity: int | None = None) -> int:
    """Threads worth starting: the cores rounded down, at least one."""
    return max(1, int(cores(root, affinity) or 1))


def load(root: Path = ROOT) -> float | None:
    """The 1-minute load average."""
    words = (text(root / "proc/loadavg") or "").split()
    try:
        return float(words[0]) if words else None
    except ValueError:
        return None


def memory_groups_off(root: Path = ROOT) -> bool:
    """Did the firmware switch memory limits off (the default of Pi OS)? Then nobody but pleat enforces a budget."""
    words = (text(root / "proc/cmdline") or "").split()
    return "cgroup_disable=memory" in words and "cgroup_enable=memory" not in words


def _is_jetson(root: Path, name: str) -> bool:
    return "jetson" in name.lower() or (root / "etc/nv_tegra_release").exists()


def _system(root: Path) -> str:
    return table(root / "etc/os-release", "=").get("PRETTY_NAME", "").strip('"')


def _accelerator(root: Path, kind: str, name: str) -> str:
    if kind == "jetson":
        return name or "Jetson"
    for path in matching(root / "proc/driver/nvidia/gpus", "*/information"):
        return table(path, ":").get("Model", "NVIDIA")
    return ""


def fan_rpm(root: Path = ROOT) -> int | None:
    """The fastest fan; a Pi with a dead fan trains at half its speed."""
    speeds = [number(path) for path in matching(root / "sys/class/hwmon", "hwmon*/fan*_input")]
    return max((speed for speed in speeds if speed is not None), default=None)
