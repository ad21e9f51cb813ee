"""The cost model of one device: seconds of compute and seconds on the link, learnt from split timings (policy.md 4.3).

Compute is t = th0 u + th1 g, with u the forward-backward passes of all optimiser steps (each has a fixed overhead) and
g the GMACs of all samples. Recursive least squares on the *relative* error with Huber weights keeps out outliers;
alone it would reject a lasting slow-down as an outlier for dozens of rounds, so it never runs without the two-sided
CUSUM that notices the change and starts the fit anew. Everything is a frozen value; `observe` returns the next one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from pleat_server.plan.catalogue import Row

FORGET = 0.97  # lambda of the least squares
SHORTEST_S = 1e-3  # predictions are not trusted below this; small nets take milliseconds
SIGMA = (0.05, 0.3)  # bounds of the noise estimate, relative
CLIP = 4.0  # of a standardised residual
DRIFT, TRIP = 1.0, 5.0  # CUSUM: what a residual must exceed to count, and the sum that means a change
WIDE = 10.0  # prior variance after a (re)start, in units of the fit's own terms: the next residual is nearly believed
LARGEST_E = math.log(100.0)  # a factor no honest pair of rounds shows; bounds what one report can do to its own fit
LARGEST_THETA = 1e6  # seconds a pass or a GMAC
UNKNOWN = (2e-3, 1.0)  # seconds a pass and a GMAC of a device nobody has timed: a slow board

Work = tuple[float, float]  # (passes of all steps, GMACs of all samples)


def work(row: Row, samples: int, epochs: int, batch: int) -> Work:
    """What one order makes a device do."""
    steps = epochs * -(-samples // batch)
    return steps * row.passes, row.macs * samples * epochs / 1e9


@dataclass(frozen=True)
class CostFit:
    """`theta`: seconds a pass and seconds a GMAC; `cover`: the (symmetric) matrix P as (P00, P01, P11)."""

    theta: tuple[float, float]
    cover: tuple[float, float, float]
    sigma: float = 0.15
    high: float = 0.0  # CUSUM of slower than thought
    low: float = 0.0  # of faster
    last: float = 0.0  # the last relative error
    throttled: bool | None = None
    seen: int = 0  # observations
    changes: int = 0  # times the detector tripped

    @staticmethod
    def guess(theta: tuple[float, float]) -> CostFit:
        """A fit that starts from `theta` and gives way to the first observations."""
        return CostFit(theta, _wide(theta))

    @staticmethod
    def from_steps(sizes: Sequence[tuple[float, float]]) -> CostFit | None:
        """From MEASURE: pairs of (GMACs a step, seconds a step), one pass each. None if no pair is usable.

        Non-negative least squares of the relative error over the two coefficients.
        """
        good = [(g, t) for g, t in sizes if g > 0 and t > 0 and math.isfinite(g) and math.isfinite(t)]
        if not good:
            return None
        a = [(1.0 / t, g / t) for g, t in good]
        s00, s01, s11 = sum(x * x for x, _ in a), sum(x * y for x, y in a), sum(y * y for _, y in a)
        b0, b1 = sum(x for x, _ in a), sum(y for _, y in a)
        det = s00 * s11 - s01 * s01
        slope_only = (0.0, b1 / s11)
        if len(good) < 2 or det <= 1e-12 * s00 * s11:
            return CostFit.guess(slope_only)
        both = ((s11 * b0 - s01 * b1) / det, (s00 * b1 - s01 * b0) / det)
        if both[0] < 0:
            both = slope_only
        elif both[1] < 0:
            both = (b0 / s00, 0.0)
        return CostFit.guess(both)

    @staticmethod
    def from_order(seconds: float, amount: Work) -> CostFit | None:
        """From one order's compute seconds, when nothing was timed before: a fifth overhead, the rest MACs."""
        u, g = amount
        if not (math.isfinite(seconds) and seconds > 0 and u > 0 and g > 0):
            return None
        return CostFit.guess((0.2 * seconds / u, 0.8 * seconds / g))

    def seconds(self, amount: Work) -> float:
        return max(SHORTEST_S, self.theta[0] * amount[0] + self.theta[1] * amount[1])

    def predict(self, row: Row, samples: int, epochs: int, batch: int) -> float:
        """Seconds of compute for `row`."""
        return self.seconds(work(row, samples, epochs, batch))

    def observe(self, seconds: float, amount: Work, throttled: bool | None = None, detect: bool = True) -> CostFit:
        """The fit after one order took `seconds` of compute. `detect=False` switches the change detector off.

        A throttle flag that turned on or off is a change known at once.
        """
        if not (math.isfinite(seconds) and seconds > 0 and amount[0] > 0):
            return self
        p = self.seconds(amount)
        e = max(-LARGEST_E, min(LARGEST_E, math.log(seconds) - math.log(p)))
        seconds = p * math.exp(e)
        z = max(-CLIP, min(CLIP, e / self.sigma))
        high, low = max(0.0, self.high + z - DRIFT), max(0.0, self.low - z - DRIFT)
        flipped = throttled is not None and self.throttled is not None and throttled != self.throttled
        turned = max(high, low) >= TRIP and e * self.last > 0
        told = replace(self, last=e, seen=self.seen + 1, throttled=self.throttled if throttled is None else throttled)
        if detect and (turned or flipped):
            return told._restart(e if flipped else (e + self.last) / 2)
        theta, cover = _least_squares(
            self.theta, self.cover, amount, p, seconds, min(1.0, 2 * self.sigma / max(abs(e), 1e-12))
        )
        return replace(told, theta=theta, cover=cover, sigma=_noise(self.sigma, e), high=high, low=low)

    def _restart(self, e: float) -> CostFit:
        """The device became exp(e) times slower: scale the fit and believe what comes next."""
        theta = (_sane(self.theta[0] * math.exp(e)), _sane(self.theta[1] * math.exp(e)))
        return replace(self, theta=theta, cover=_wide(theta), high=0.0, low=0.0, changes=self.changes + 1)


def _sane(seconds: float) -> float:
    return min(LARGEST_THETA, max(0.0, seconds))


def _wide(theta: tuple[float, float]) -> tuple[float, float, float]:
    """Variance in proportion to the fit's own terms, so that it needs no unit; a term of 0 may still come alive."""
    t0, t1 = max(theta[0], 1e-6), max(theta[1], 1e-6)
    return (WIDE * t0 * t0, 0.0, WIDE * t1 * t1)


def _noise(sigma: float, e: float) -> float:
    if abs(e) >= 4 * sigma:
        return sigma
    return min(SIGMA[1], max(SIGMA[0], math.sqrt(0.95 * sigma * sigma + 0.05 * e * e)))


def _least_squares(
    theta: tuple[float, float], cover: tuple[float, float, float], amount: Work, p: float, seconds: float, w: float
) -> tuple[tuple[float, float], tuple[float, float, float]]:
    """One step: K = P x / (lambda/w + x'P x); theta += K (y - x theta); P = (P - K x'P) / lambda; theta >= 0."""
    x0, x1, y = amount[0] / p, amount[1] / p, seconds / p
    p00, p01, p11 = cover
    q0, q1 = p00 * x0 + p01 * x1, p01 * x0 + p11 * x1
    scale = FORGET / w + x0 * q0 + x1 * q1
    k0, k1 = q0 / scale, q1 / scale
    error = y - (x0 * theta[0] + x1 * theta[1])
    fitted = (_sane(theta[0] + k0 * error), _sane(theta[1] + k1 * error))
    cover = ((p00 - k0 * q0) / FORGET, (p01 - k0 * q1) / FORGET, (p11 - k1 * q1) / FORGET)
    return fitted, _bounded(cover, fitted)


def _bounded(cover: tuple[float, float, float], theta: tuple[float, float]) -> tuple[float, float, float]:
    """Forgetting inflates P along directions no row excites; no more doubt than after a restart."""
    limit = _wide(theta)
    f0, f1 = min(1.0, limit[0] / max(cover[0], 1e-300)), min(1.0, limit[2] / max(cover[2], 1e-300))
    return (cover[0] * f0, cover[1] * math.sqrt(f0 * f1), cover[2] * f1)
