"""Clock of the fastest CPU cluster now, and the highest that it was made for; hertz."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pleat_client.probe.files import ROOT, matching, number


@dataclass(frozen=True)
class Clock:
    hertz: float
    nominal: float | None  # the hardware's highest, whatever a governor or a power mode allows today

    @property
    def share(self) -> float | None:
        return self.hertz / self.nominal if self.nominal else None


def clock(root: Path = ROOT) -> Clock | None:
    """None where no cpufreq driver is bound (virtual machines, containers with a masked /sys)."""
    best: Clock | None = None
    for policy in matching(root / "sys/devices/system/cpu/cpufreq", "policy[0-9]*"):
        now, most = number(policy / "scaling_cur_freq"), number(policy / "cpuinfo_max_freq")
        if now and (best is None or now * 1000 > best.hertz):
            best = Clock(now * 1000.0, most * 1000.0 if most else None)
    return best
