"""Power: the INA3221 rails of a Jetson, in watts; boards without a meter (a Pi) tell nothing.

Rails overlap: the input rail already holds its parts, so a total is the input rail's reading and never a sum.
"""

from __future__ import annotations

from pathlib import Path

from pleat_client.probe.files import ROOT, matching, number, text

_TOTALS = ("VDD_IN", "POM_5V_IN", "POM_5V0_IN", "VIN_SYS_5V0_TOTAL")
_NO_RAIL = ("NC", "SUM OF SHUNT VOLTAGES", "")


def rails(root: Path = ROOT) -> dict[str, float]:
    """Watts by rail name; empty where there is no meter."""
    found: dict[str, float] = {}
    for folder in matching(root / "sys/bus/i2c/devices", "*/hwmon/hwmon*"):
        found |= _hwmon(folder)
    for folder in matching(root / "sys/bus/i2c/drivers/ina3221x", "*/iio:device*"):
        found |= _iio(folder)
    return found


def watts(root: Path = ROOT) -> float | None:
    """What the whole board draws; None where no rail measures that."""
    found = rails(root)
    return next((found[name] for name in _TOTALS if name in found), None)


def _hwmon(folder: Path) -> dict[str, float]:
    """JetPack 5 and later: millivolts and milliamperes a channel."""
    found = {}
    for label in matching(folder, "in*_label"):
        channel = label.name.removeprefix("in").removesuffix("_label")
        name = text(label) or ""
        volts, amperes = number(folder / f"in{channel}_input"), number(folder / f"curr{channel}_input")
        if name.upper() not in _NO_RAIL and volts is not None and amperes is not None:
            found[name] = volts * amperes / 1e6
    return found


def _iio(folder: Path) -> dict[str, float]:
    """JetPack 4 (Nano): milliwatts a channel."""
    found = {}
    for label in matching(folder, "rail_name_*"):
        channel = label.name.removeprefix("rail_name_")
        name, milliwatts = text(label) or "", number(folder / f"in_power{channel}_input")
        if name.upper() not in _NO_RAIL and milliwatts is not None:
            found[name] = milliwatts / 1e3
    return found
