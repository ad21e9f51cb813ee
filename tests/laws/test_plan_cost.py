"""The cost model: it converges, ignores outliers, notices lasting changes, and would not without its detector."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pleat_server.plan.bandwidth import UNKNOWN_RATE, Direction, Link
from pleat_server.plan.cost import CostFit, work
from support.drift import GMACS, PASSES, delay, truth
from support.planning import ladder

TRIALS = 200


def _delays(factor: float, detect: bool = True) -> tuple[float, float, float]:
    """Median delay in rounds, share noticed within 3 rounds, false alarms per 30 steady rounds."""
    found = [delay(seed, factor, detect) for seed in range(TRIALS)]
    delays = np.array([d for d, _ in found])
    return float(np.median(delays)), float((delays <= 3).mean()), float(np.mean([f for _, f in found]))


def test_a_threefold_slow_down_is_believed_within_three_rounds() -> None:
    median, within_three, false = _delays(3.0)
    assert median <= 2
    assert within_three >= 0.83
    assert false <= 0.1


def test_a_halved_time_is_believed_within_three_rounds() -> None:
    median, within_three, _ = _delays(0.5)
    assert median <= 2
    assert within_three >= 0.83


def test_without_the_detector_the_robust_fit_rejects_the_change_for_dozens_of_rounds() -> None:
    median, within_three, _ = _delays(3.0, detect=False)
    assert median >= 30
    assert within_three == 0


def test_a_single_outlier_moves_the_prediction_little() -> None:
    fit = _settled()
    before = fit.seconds((PASSES, 20.0))
    after = fit.observe(3 * truth(20.0), (PASSES, 20.0))
    assert after.changes == fit.changes
    assert after.seconds((PASSES, 20.0)) == pytest.approx(before, rel=0.05)


def test_a_throttle_flag_that_turns_on_is_a_change_at_once() -> None:
    fit = _settled(throttled=False)
    hot = fit.observe(2 * truth(20.0), (PASSES, 20.0), throttled=True)
    assert hot.changes == fit.changes + 1
    assert hot.seconds((PASSES, 20.0)) == pytest.approx(2 * truth(20.0), rel=0.05)
    unknown = fit.observe(2 * truth(20.0), (PASSES, 20.0), throttled=None)
    assert unknown.changes == fit.changes


def _settled(throttled: bool | None = None) -> CostFit:
    rng, fit = np.random.default_rng(1), CostFit.guess((0.01, 0.2))
    for number in range(40):
        g = GMACS[number % len(GMACS)]
        fit = fit.observe(truth(g) * float(rng.lognormal(0, 0.05)), (PASSES, g), throttled)
    return fit


@settings(max_examples=30, deadline=None)
@given(st.floats(1e-4, 0.1), st.floats(1e-3, 2.0), st.floats(0.5, 2.0), st.floats(0.5, 2.0))
def test_overhead_and_slope_are_both_found_when_rows_vary(c0: float, c1: float, off0: float, off1: float) -> None:
    fit = CostFit.guess((c0 * off0, c1 * off1))
    for number in range(60):
        g = GMACS[number % len(GMACS)]
        fit = fit.observe(c0 * PASSES + c1 * g, (PASSES, g))
    for g in GMACS:
        assert fit.seconds((PASSES, g)) == pytest.approx(c0 * PASSES + c1 * g, rel=0.03)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.floats(allow_nan=True), st.floats(0.001, 1e4)), max_size=40))
def test_no_report_makes_a_fit_negative_or_no_number(stream: list[tuple[float, float]]) -> None:
    fit = CostFit.guess((0.01, 0.2))
    for seconds, g in stream:
        fit = fit.observe(seconds, (PASSES, g))
        assert all(math.isfinite(t) and t >= 0 for t in (*fit.theta, fit.sigma, fit.high, fit.low))
        assert all(math.isfinite(c) for c in fit.cover)


def test_timed_sizes_give_overhead_and_slope() -> None:
    fit = CostFit.from_steps([(g, 0.003 + 0.5 * g) for g in (0.004, 0.02, 0.1)])
    assert fit is not None
    assert fit.theta == pytest.approx((0.003, 0.5))


def test_one_timed_size_is_all_slope_and_nonsense_is_none() -> None:
    fit = CostFit.from_steps([(0.02, 0.01)])
    assert fit is not None
    assert fit.theta == pytest.approx((0.0, 0.5))
    assert CostFit.from_steps([(0.02, 0.0), (0.0, 1.0), (float("nan"), 1.0)]) is None
    assert CostFit.from_order(0.0, (1.0, 1.0)) is None


def test_timed_sizes_never_give_a_negative_coefficient() -> None:
    falling, superlinear = [(0.01, 0.5), (0.1, 0.4)], [(0.01, 0.001), (0.1, 0.5)]
    for sizes in (falling, superlinear):
        fit = CostFit.from_steps(sizes)
        assert fit is not None
        assert min(fit.theta) >= 0


def test_a_prediction_counts_every_pass_of_every_step() -> None:
    row = ladder(1.0)[0]
    assert work(row, samples=70, epochs=2, batch=32) == pytest.approx((6.0, 14.0))
    assert CostFit.guess((0.5, 0.1)).predict(row, 70, 2, 32) == pytest.approx(3.0 + 1.4)


def test_links_plan_with_the_slowest_tenth_of_the_last_twenty() -> None:
    link = Direction()
    for mbit in (*[1] * 30, *range(10, 29), 8):
        link = link.observe(1_000_000, 8 / mbit)
    assert len(link.last) == 20
    assert link.planned == pytest.approx(10e6 / 8)
    assert link.typical is not None
    assert link.planned < link.typical


def test_a_link_that_was_never_timed_is_taken_to_be_slow_and_zero_durations_teach_nothing() -> None:
    link = Link().observe(up=(1000, 0.0), down=(1000, float("nan")))
    assert link == Link()
    assert link.seconds(UNKNOWN_RATE, 2 * UNKNOWN_RATE) == pytest.approx(3.0)
