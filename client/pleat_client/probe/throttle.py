"""Throttling: has the board slowed itself down for heat or voltage, now or since it booted?

A Pi's firmware tells by bits (0 under-voltage, 1 frequency capped, 2 throttled, 3 soft temperature limit; 16-19 the
same since boot). Elsewhere the kernel's cooling devices tell whether the CPU is held back, and counters of
over-current (Jetson) or thermal (x86) events tell by rising.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pleat_client.probe.files import ROOT, matching, number, text

BITS = {0: "under-voltage", 1: "frequency capped", 2: "throttled", 3: "soft temperature limit"}
_SINCE_BOOT = 16
_OVER_CURRENT = "sys/class/hwmon/hwmon*/oc*_event_cnt"
_COUNTERS = (
    _OVER_CURRENT,
    "sys/devices/system/cpu/cpu0/thermal_throttle/package_throttle_count",
)
Run = Callable[[], str | None]


@dataclass(frozen=True)
class Throttling:
    """`now`: reasons that hold at this moment; `before`: reasons that have held since boot."""

    now: tuple[str, ...] = ()
    before: tuple[str, ...] = ()


def of_bits(bits: int) -> Throttling:
    """The firmware's word as reasons: 0x50005 is under-voltage and throttled, now and before."""
    return Throttling(
        tuple(name for bit, name in BITS.items() if bits >> bit & 1),
        tuple(name for bit, name in BITS.items() if bits >> (bit + _SINCE_BOOT) & 1),
    )


def vcgencmd() -> str | None:
    """What the Pi's firmware tool answers; None where it is not installed or may not be used (group video)."""
    try:
        done = subprocess.run(["vcgencmd", "get_throttled"], capture_output=True, text=True, timeout=2, check=False)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout if done.returncode == 0 else None


def throttling(root: Path = ROOT, ask: Run | None = None) -> Throttling | None:
    """None where the board tells nothing. `ask`: how to ask the firmware when sysfs has no word of it (a process!)."""
    told = firmware(root, ask)
    if told is not None:
        return told
    reasons = [reason for reason in (cooled(root), undervolted(root)) if reason is not None]
    return Throttling(tuple(word for word in reasons if word)) if reasons else None


def firmware(root: Path = ROOT, ask: Run | None = None) -> Throttling | None:
    """The Pi firmware's word: everything that there is to know, voltage and heat, now and since boot."""
    bits = _firmware_bits(root, ask)
    return None if bits is None else of_bits(bits)


def events(root: Path = ROOT) -> int | None:
    """Throttling events counted since boot; compare two readings. None where nothing counts."""
    return _counted(root, _COUNTERS)


def over_current(root: Path = ROOT) -> int | None:
    """Over-current events of a Jetson since boot."""
    return _counted(root, (_OVER_CURRENT,))


def _counted(root: Path, patterns: tuple[str, ...]) -> int | None:
    counts = [number(path) for pattern in patterns for path in matching(root, pattern)]
    known = [count for count in counts if count is not None]
    return sum(known) if known else None


def _firmware_bits(root: Path, ask: Run | None) -> int | None:
    """Raspberry Pi OS kernels show the word in sysfs, in hexadecimal without a prefix."""
    for path in matching(root / "sys/devices/platform", "soc*/*firmware/get_throttled"):
        found = _hexadecimal(text(path))
        if found is not None:
            return found
    return _hexadecimal((ask() or "").strip().removeprefix("throttled=")) if ask is not None else None


def _hexadecimal(word: str | None) -> int | None:
    try:
        return int(word, 16) if word else None
    except ValueError:
        return None


def cooled(root: Path) -> str | None:
    """Is a CPU or GPU held below its best by a cooling device? "" = it is not, None = no such device."""
    states = [
        number(folder / "cur_state")
        for folder in matching(root / "sys/class/thermal", "cooling_device*")
        if any(part in (text(folder / "type") or "").lower() for part in ("cpufreq", "devfreq", "processor"))
    ]
    known = [state for state in states if state is not None]
    return ("throttled" if any(known) else "") if known else None


def undervolted(root: Path) -> str | None:
    """The kernel's own voltage alarm of a Pi (hwmon rpi_volt), where the firmware word is hidden; as `cooled`."""
    for name in matching(root / "sys/class/hwmon", "hwmon*/name"):
        if text(name) == "rpi_volt":
            alarm = number(name.with_name("in0_lcrit_alarm"))
            return None if alarm is None else ("under-voltage" if alarm else "")
    return None
