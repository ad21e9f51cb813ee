"""The link of one device, each direction by itself: t = rtt + bytes / rate (policy.md 4.3).

The typical rate is a moving average of its logarithm; plans use the 10th percentile of the last 20, because a round
waits for the slowest.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

KEPT = 20
BLEND = 0.2  # of a new observation in the average of the log rate
UNKNOWN_RATE = 10e6 / 8  # bytes a second of a link nobody has timed: a slow Wi-Fi


@dataclass(frozen=True)
class Direction:
    """`typical` and `planned`: bytes a second, None before the first observation."""

    typical: float | None = None
    planned: float | None = None
    last: tuple[float, ...] = ()

    def observe(self, nbytes: int, seconds: float) -> Direction:
        """After `nbytes` took `seconds`; durations of 0 or that are no number teach nothing."""
        if nbytes <= 0 or not (math.isfinite(seconds) and seconds > 0):
            return self
        rate = nbytes / seconds
        last = (*self.last[-(KEPT - 1) :], rate)
        old = rate if self.typical is None else self.typical
        typical = math.exp((1 - BLEND) * math.log(old) + BLEND * math.log(rate))
        return Direction(typical, sorted(last)[int(0.1 * (len(last) - 1))], last)

    def seconds(self, nbytes: float) -> float:
        return nbytes / (self.planned or UNKNOWN_RATE)


@dataclass(frozen=True)
class Link:
    up: Direction = field(default_factory=Direction)
    down: Direction = field(default_factory=Direction)
    rtt: float = 0.0

    def observe(self, up: tuple[int, float] | None = None, down: tuple[int, float] | None = None) -> Link:
        """After an order's (bytes, seconds) in each direction; None where it was not measured."""
        return replace(
            self,
            up=self.up.observe(up[0], up[1] - self.rtt) if up else self.up,
            down=self.down.observe(down[0], down[1] - self.rtt) if down else self.down,
        )

    def seconds(self, up_bytes: float, down_bytes: float) -> float:
        return 2 * self.rtt + self.up.seconds(up_bytes) + self.down.seconds(down_bytes)
