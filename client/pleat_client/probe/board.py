"""The board: model, architecture, system, accelerator, and how many cores this process may really use."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path

from pleat_client.probe import cgroup
from pleat_client.probe.files import ROOT, matching, number, table, text
from pleat_client.probe.memory import installed_bytes, total_bytes

SMALL_BYTES = 1 << 30  # machines up to this get the trainer's memory back after every order


@dataclass(frozen=True)
class Board:
    """`kind`: "pi", "jetson" or "" ; `cores`: after affinity and container quotas; unknown is "" or None.

    `memory_bytes`: what this process could ever use; `installed_bytes`: what the machine has.
    """

    model: str
    kind: str
    machine: str
    system: str
    accelerator: str
    cores: float | None
    memory_bytes: int | None
    installed_bytes: int | None

    @property
    def small(self) -> bool:
        """Do others on this machine miss what an idle trainer holds? A container's limit is its own, and used by nobody
        else: giving it back would only cost the seconds of starting torch again."""
        return self.installed_bytes is not None and self.installed_bytes <= SMALL_BYTES


def board(root: Path = ROOT, machine: str | None = None, affinity: int | None = None) -> Board:
    """`machine` and `affinity` (cores this process may run on) are asked from the running system when not given."""
    name = model(root)
    kind = "pi" if is_pi(root) else "jetson" if _is_jetson(root, name) else ""
    return Board(
        model=name,
        kind=kind,
        machine=platform.machine() if machine is None else machine,
        system=_system(root),
        accelerator=_accelerator(root, kind, name),
        cores=cores(root, affinity),
        memory_bytes=total_bytes(root),
        installed_bytes=installed_bytes(root),
    )


def model(root: Path = ROOT) -> str:
    """The device tree's name of the board; on a PC the product's name; "" where neither is told."""
    for path in ("proc/device-tree/model", "sys/firmware/devicetree/base/model", "sys/class/dmi/id/product_name"):
        found = text(root / path)
        if found:
            return found
    return ""


def is_pi(root: Path = ROOT) -> bool:
    return "raspberry pi" in model(root).lower()


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
    """Are memory limits switched off (the default of Pi OS)? Then nobody but pleat enforces a budget.

    The kernel's own list decides; the command line, which some kernels do not heed, only where there is no list.
    """
    enabled = cgroup.memory_enabled(root)
    if enabled is not None:
        return not enabled
    words = (text(root / "proc/cmdline") or "").split()
    return "cgroup_disable=memory" in words and "cgroup_enable=memory" not in words


def switch_groups_on(root: Path = ROOT) -> str:
    """What to do where `memory_groups_off`, as the middle of a sentence."""
    added = "'cgroup_enable=memory cgroup_memory=1'"
    if is_pi(root):
        return f"append {added} to the one line of /boot/firmware/cmdline.txt"
    return f"append {added} to the kernel's command line (GRUB_CMDLINE_LINUX in /etc/default/grub, then update-grub)"


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
