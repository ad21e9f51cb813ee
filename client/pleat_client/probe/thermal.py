"""Temperature: the hottest thermal zone that tells something plausible, and where the kernel starts to brake it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pleat_client.probe.files import ROOT, matching, number, text

_PLAUSIBLE = (-40.0, 150.0)  # Jetson zones of units that are switched off read -256 degrees
_FIXED = ("pmic-die",)  # Jetson: a constant, no sensor


@dataclass(frozen=True)
class Zone:
    """`brakes_at`: the lowest passive trip point in degrees Celsius, None where the board names none (a Pi)."""

    name: str
    celsius: float
    brakes_at: float | None = None


def zones(root: Path = ROOT) -> list[Zone]:
    """Every zone that can be read now; a zone whose unit sleeps answers EAGAIN and is left out."""
    found = (_zone(folder) for folder in matching(root / "sys/class/thermal", "thermal_zone*"))
    return [zone for zone in found if zone is not None]


def hottest(root: Path = ROOT) -> Zone | None:
    return max(zones(root), key=lambda zone: zone.celsius, default=None)


def celsius(root: Path = ROOT) -> float | None:
    zone = hottest(root)
    return None if zone is None else zone.celsius


def _zone(folder: Path) -> Zone | None:
    name = text(folder / "type") or folder.name
    found = _degrees(folder / "temp")
    if found is None or name.lower() in _FIXED:
        return None
    brakes = [
        degrees
        for kind in matching(folder, "trip_point_*_type")
        if text(kind) == "passive"
        and (degrees := _degrees(kind.with_name(kind.name.replace("_type", "_temp")))) is not None
    ]
    return Zone(name, found, min(brakes, default=None))


def _degrees(path: Path) -> float | None:
    millidegrees = number(path)
    if millidegrees is None or not _PLAUSIBLE[0] < millidegrees / 1000 < _PLAUSIBLE[1]:
        return None
    return millidegrees / 1000
