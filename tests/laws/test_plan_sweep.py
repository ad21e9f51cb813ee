"""The deadline sweep against brute force, and the laws of its constraints."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pleat.errors import UseError
from pleat_server.plan.policies import deadline, policy_of
from pleat_server.plan.policies.sweep import Sweep, prior_worth
from pleat_server.plan.situation import Outcome, Result
from support.planning import ladder, row, situation

ROWS = ladder(1.0, 0.5, 0.25, 0.125)
NESTED = (0b0001,)  # only row 0 holds the rarest entries
FREE = {"floor": 0.0, "cover": 0.0}


@st.composite
def fleets(draw: st.DrawFn) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    """Times, values and feasibility of 1 to 3 devices and 1 to 4 rows; every device may do something."""
    n, r = draw(st.integers(1, 3)), draw(st.integers(1, 4))
    grid = st.lists(st.integers(1, 12), min_size=n * r, max_size=n * r)
    times = np.array(draw(grid), np.float64).reshape(n, r)
    values = np.array(draw(grid), np.float64).reshape(n, r)
    allowed = np.array(draw(st.lists(st.booleans(), min_size=n * r, max_size=n * r)), np.bool_).reshape(n, r)
    allowed[:, 0] |= ~allowed.any(axis=1)
    return times, values, allowed


def _brute(times, values, allowed, overhead: float, atoms: tuple[int, ...] = ()) -> float:  # type: ignore[no-untyped-def]
    """The highest value per second of any plan that gives every device one feasible row and covers what it can."""
    choices = [np.flatnonzero(a).tolist() for a in allowed]
    best = -1.0
    for plan in itertools.product(*choices):
        if deadline.bare(np.array(plan), allowed, atoms):
            continue
        value = sum(values[i, r] for i, r in enumerate(plan))
        best = max(best, value / (overhead + max(times[i, r] for i, r in enumerate(plan))))
    return best


@settings(max_examples=300, deadline=None)
@given(fleets(), st.integers(0, 5))
def test_the_sweep_finds_the_best_value_per_second_of_all_plans(fleet, overhead: int) -> None:  # type: ignore[no-untyped-def]
    times, values, allowed = fleet
    least = float(np.where(allowed, times, np.inf).min(axis=1).max())
    best = deadline.best_deadline(times, values, allowed, float(overhead), least)
    pick = deadline.under(times, values, allowed, best)
    assert (pick >= 0).all()
    assert allowed[np.arange(len(pick)), pick].all()
    score = sum(values[i, r] for i, r in enumerate(pick)) / (overhead + max(times[i, r] for i, r in enumerate(pick)))
    assert score == pytest.approx(_brute(times, values, allowed, overhead))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.lists(st.integers(1, 12), min_size=4, max_size=4), min_size=1, max_size=4), st.data())
def test_no_entry_is_left_that_budgets_allow_and_the_score_is_the_best_of_such_plans(times, data) -> None:  # type: ignore[no-untyped-def]
    """Rows of a ladder: larger ones take longer and are worth more, each budget cuts the ladder from above."""
    seconds = np.sort(np.array(times, np.float64), axis=1)[:, ::-1]
    cut = [data.draw(st.integers(0, 3)) for _ in times]
    allowed = np.array([[r >= c for r in range(4)] for c in cut])
    atoms = tuple(1 << r for r in range(min(cut), min(cut) + 1))
    plan, _, told = policy_of("sweep", {"floor": 0.0}).choose(
        Sweep().begin(0), situation(ROWS, seconds.tolist(), feasible=allowed.tolist(), atoms=atoms)
    )
    assert told["uncovered"] == 0
    assert min(plan.values()) == min(cut)
    values = np.broadcast_to(prior_worth(ROWS), seconds.shape)
    picked = list(plan.values())
    got = sum(values[i, r] for i, r in enumerate(picked)) / max(seconds[i, r] for i, r in enumerate(picked))
    assert got == pytest.approx(_brute(seconds, values, allowed, 0.0, atoms))


def test_without_the_law_the_same_plan_would_forget_entries() -> None:
    times = [[10.0, 1.0, 0.5, 0.2]] * 3
    kept, _, _ = policy_of("sweep", {"floor": 0.0}).choose(Sweep().begin(0), situation(ROWS, times, atoms=NESTED))
    lost, _, told = policy_of("sweep", FREE).choose(Sweep().begin(0), situation(ROWS, times, atoms=NESTED))
    assert 0 in kept.values()
    assert 0 not in lost.values()
    assert told["uncovered"] == 0  # it was not asked to look


def test_rows_that_share_no_entries_are_spread_over_devices() -> None:
    rows, atoms = (row(0, 0.5), row(1, 0.5), row(2, 0.5)), (0b001, 0b010, 0b100)
    times = [[1.0, 1.0, 1.0]] * 3
    plan, _, told = Sweep(floor=0.0).choose(Sweep().begin(0), situation(rows, times, atoms=atoms))
    assert set(plan.values()) == {0, 1, 2}
    assert told["uncovered"] == 0
    plan, _, told = Sweep(floor=0.0).choose(Sweep().begin(0), situation(rows, times[:2], atoms=atoms))
    assert told["uncovered"] == 1


def test_devices_of_equal_speed_and_unequal_budgets_keep_their_largest_rows() -> None:
    """Four devices that differ by upload budgets alone, timed with 20 % of noise: full quality, every round."""
    allowed = [[r >= place for r in range(4)] for place in range(4)]
    rng, policy, state = np.random.default_rng(0), Sweep(), Sweep().begin(0)
    for number in range(1, 31):
        noisy = np.array([1.0, 0.75, 0.6, 0.5]) * 0.05 * rng.lognormal(0, 0.2, (4, 1))
        sit = situation(ROWS, noisy.tolist(), feasible=allowed, atoms=NESTED, number=number)
        plan, state, _ = policy.choose(state, sit)
        results = {d: Result(r, float(noisy[i, r]), 0.6) for i, (d, r) in enumerate(plan.items())}
        state = policy.observe(state, Outcome(number, results, 1.0, 0.9, 0.6))
        assert [plan["a"], plan["c"], plan["d"]] == [0, 2, 3]
        assert plan["b"] == 1 or number == 1  # before the first round nobody knows what a round costs beside training


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.1, 0.9))
def test_no_mean_share_falls_below_the_floor_or_what_budgets_afford(seed: int, floor: float) -> None:
    rng, policy = np.random.default_rng(seed), Sweep(floor=floor)
    state, shares = policy.begin(seed), [r.density for r in ROWS]
    times = np.sort(rng.uniform(0.1, 10.0, (5, 4)), axis=1)[:, ::-1]
    allowed = np.arange(4) >= rng.integers(0, 4, 5)[:, None]
    history: list[list[float]] = [[] for _ in range(5)]
    for number in range(25):
        plan, state, _ = policy.choose(state, situation(ROWS, times.tolist(), feasible=allowed.tolist(), number=number))
        for i, r in enumerate(plan.values()):
            history[i].append(shares[r])
            afforded = max(s for s, a in zip(shares, allowed[i], strict=True) if a)
            assert np.mean(history[i][-10:]) >= min(floor, afforded) - 1e-9


def test_with_the_floor_off_a_slow_device_is_pruned_for_speed() -> None:
    times = [[1.0, 0.5, 0.25, 0.125], [100.0, 50.0, 25.0, 12.5]]
    fast, _, _ = Sweep(floor=0.0).choose(Sweep().begin(0), situation(ROWS, times))
    fair, _, told = Sweep(floor=0.35).choose(Sweep().begin(0), situation(ROWS, times))
    assert fast == {"a": 0, "b": 3}
    assert fair == {"a": 0, "b": 1}
    assert told["due"] == ["b"]


def test_what_a_round_costs_beside_training_makes_small_savings_worthless() -> None:
    times = [[0.10, 0.05, 0.03, 0.02]]
    state = {**Sweep().begin(0), "overhead": 1.0}
    assert Sweep(floor=0.0).choose(state, situation(ROWS, times))[0] == {"a": 0}
    assert Sweep(floor=0.0).choose(Sweep().begin(0), situation(ROWS, times))[0] != {"a": 0}


def test_devices_that_nothing_fits_are_left_out_and_others_planned() -> None:
    allowed = [[False] * 4, [True] * 4]
    plan, _, _ = Sweep().choose(Sweep().begin(0), situation(ROWS, [[1.0] * 4] * 2, feasible=allowed))
    assert list(plan) == ["b"]
    assert Sweep().choose(Sweep().begin(0), situation(ROWS, [[1.0] * 4], feasible=allowed[:1]))[0] == {}


def test_worthless_data_does_not_stop_a_plan() -> None:
    plan, _, _ = Sweep().choose(Sweep().begin(0), situation(ROWS, [[4.0, 3.0, 2.0, 1.0]] * 2, values=[0.0, 0.0]))
    assert set(plan) == {"a", "b"}


def test_rows_that_disappoint_lose_worth_and_worth_stays_monotone() -> None:
    policy, state = Sweep(), Sweep().begin(0)
    for number in range(40):
        results = {"a": Result(number % 2, 1.0, 0.2 if number % 2 == 0 else 0.9)}
        state = policy.observe(state, Outcome(number, results))
    _, _, told = policy.choose(state, situation(ROWS, [[4.0, 3.0, 2.0, 1.0]]))
    prior, learnt = prior_worth(ROWS), np.array(told["worth"])
    assert learnt[0] / learnt[1] < prior[0] / prior[1]
    assert (np.diff(learnt[::-1]) >= 0).all()


def test_one_device_in_twenty_probes_a_neighbour_within_the_deadline() -> None:
    times = [[2.0, 1.5, 1.2, 1.0]] * 26
    sit = situation(ROWS, times, atoms=NESTED, number=3)
    plan, _, told = Sweep(floor=0.0, probes=0.1).choose(Sweep().begin(0), sit)
    assert len(told["probing"]) == 2
    assert told["uncovered"] == 0
    again, _, _ = Sweep(floor=0.0, probes=0.1).choose(Sweep().begin(0), sit)
    assert plan == again
    assert Sweep().choose(Sweep().begin(0), situation(ROWS, times[:19]))[2]["probing"] == []


def test_choosing_changes_no_state_and_the_state_survives_json() -> None:
    policy, state = Sweep(), Sweep().begin(0)
    sit = situation(ROWS, [[4.0, 3.0, 2.0, 1.0]] * 3, atoms=NESTED)
    before = json.dumps(state)
    plan, after, told = policy.choose(state, sit)
    assert json.dumps(state) == before
    json.dumps(told, allow_nan=False)
    after = policy.observe(after, Outcome(1, {d: Result(r, 1.0, 0.5) for d, r in plan.items()}, 1.0, 0.9, 2.0))
    assert json.loads(json.dumps(after)) == after


def test_settings_out_of_range_are_refused_by_name() -> None:
    with pytest.raises(UseError, match="floor must be in"):
        policy_of("sweep", {"floor": 2.0})
    with pytest.raises(UseError, match="did you mean 'floor'"):
        policy_of("sweep", {"flor": 0.2})
