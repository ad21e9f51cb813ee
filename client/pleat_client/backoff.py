"""How long to wait before trying again: n squared, with half of it either way at random, and a cap."""

from __future__ import annotations

import random

UNIT_S = 0.25
CAP_S = 30.0


def delay_s(failures: int, rng: random.Random, unit_s: float = UNIT_S, cap_s: float = CAP_S) -> float:
    """Seconds to wait after `failures` (at least 1) in a row: unit * failures^2 up to the cap, +-50 %.

    The jitter keeps a fleet that lost its server together from coming back together.
    """
    return min(cap_s, unit_s * failures * failures) * rng.uniform(0.5, 1.5)
