"""Seeded streams of compute times that change once, and how long a fit takes to notice."""

from __future__ import annotations

import numpy as np

from pleat_server.plan.cost import CostFit

BEFORE, AFTER, GMACS = 30, 60, (40.0, 20.0, 10.0, 5.0)
TRUE = (0.01, 0.2)  # seconds a pass, seconds a GMAC
PASSES = 20.0


def truth(gmacs: float) -> float:
    return TRUE[0] * PASSES + TRUE[1] * gmacs


def noise(rng: np.random.Generator) -> float:
    """8 % of compute noise and 3 % of outliers of 1.5 to 3 times."""
    factor = float(rng.lognormal(0, 0.08))
    return factor * float(rng.uniform(1.5, 3.0)) if rng.random() < 0.03 else factor


def delay(seed: int, factor: float, detect: bool = True) -> tuple[int, int]:
    """(rounds after the change until a prediction is within 30 % of the truth, changes claimed before it)."""
    rng = np.random.default_rng([seed, 7])
    start = (TRUE[0] * float(np.exp(0.3 * rng.normal())), TRUE[1] * float(np.exp(0.3 * rng.normal())))
    fit = CostFit.guess(start)
    for _ in range(BEFORE):
        g = GMACS[int(rng.integers(len(GMACS)))]
        fit = fit.observe(truth(g) * noise(rng), (PASSES, g), detect=detect)
    false = fit.changes
    for number in range(AFTER):
        g = GMACS[int(rng.integers(len(GMACS)))]
        if abs(np.log(fit.seconds((PASSES, g)) / (factor * truth(g)))) < np.log(1.3):
            return number, false
        fit = fit.observe(factor * truth(g) * noise(rng), (PASSES, g), detect=detect)
    return AFTER, false
