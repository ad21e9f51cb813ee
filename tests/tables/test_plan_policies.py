"""The static policies, and every policy against the experiment that chose the default."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pleat.errors import UseError
from pleat_server.bench import plan as bench
from pleat_server.bench import policy as experiment
from pleat_server.plan.catalogue import Row, Worth, catalogue
from pleat_server.plan.policies import POLICIES, policy_of
from pleat_server.plan.situation import Outcome
from support.planning import ladder, row, situation

ROWS = (*ladder(1.0, 0.5), row(2, 0.5, keep=0.1), row(3, 0.25))
TIMES = [[4.0, 2.0, 1.9, 1.0]] * 3
ALLOWED = [[True] * 4, [False, False, True, True], [False] * 4]


def test_lookup_takes_the_largest_row_that_fits_then_the_most_kept() -> None:
    plan, _, _ = policy_of("lookup", {}).choose({}, situation(ROWS, TIMES, feasible=ALLOWED))
    assert plan == {"a": 0, "b": 2}
    shuffled = (ROWS[2], ROWS[1], ROWS[0], ROWS[3])
    plan, _, _ = policy_of("lookup", {}).choose({}, situation(shuffled, TIMES))
    assert plan["a"] == 2


def scored(*worths: tuple[float, float], samples: int = 400) -> tuple[Row, ...]:
    """The rows with accuracies and losses on so many samples."""
    return tuple(replace(r, worth=Worth(*w, samples)) for r, w in zip(ROWS, worths, strict=True))


@pytest.mark.parametrize(
    ("worths", "samples", "taken"),
    [
        ([(0.7, 1.0), (0.9, 0.5), (0.8, 0.6), (0.6, 2.0)], 400, {"a": 1, "b": 2}),  # the most accurate, not the largest
        ([(0.90, 0.5), (0.91, 0.4), (0.79, 0.6), (0.80, 0.1)], 400, {"a": 0, "b": 2}),  # .9 within sqrt(.08 / 400)
        ([(0.90, 0.5), (0.92, 0.7), (0.77, 0.1), (0.80, 0.6)], 400, {"a": 1, "b": 3}),  # beyond it, whatever the loss
        ([(0.70, 0.5), (0.80, 0.7), (0.65, 0.6), (0.70, 0.1)], 10, {"a": 0, "b": 2}),  # ten samples tell less
        ([(0.96, 0.5), (1.00, 0.4), (0.95, 0.6), (0.96, 0.1)], 20, {"a": 0, "b": 2}),  # not even that all are right
        ([(0.8, 0.5)] * 4, 400, {"a": 0, "b": 2}),  # of equal ones the largest
    ],
)
def test_lookup_takes_the_most_accurate_row_that_a_device_affords(
    worths: list[tuple[float, float]], samples: int, taken: dict[str, int]
) -> None:
    rows = scored(*worths, samples=samples)
    plan, _, _ = policy_of("lookup", {}).choose({}, situation(rows, TIMES, feasible=ALLOWED))
    assert plan == taken
    some_unscored = (replace(rows[0], worth=None), *rows[1:])
    plan, _, _ = policy_of("lookup", {}).choose({}, situation(some_unscored, TIMES, feasible=ALLOWED))
    assert plan == {"a": 0, "b": 2}, "by size where a row was not scored"


def test_fixed_gives_every_device_its_row_by_name_then_pattern_then_default() -> None:
    policy = policy_of("fixed", {"a": 3, "[ab]": 1, "row": 2})
    plan, _, _ = policy.choose({}, situation(ROWS, TIMES))
    assert plan == {"a": 3, "b": 1, "c": 2}


def test_fixed_falls_to_the_largest_smaller_row_that_fits() -> None:
    plan, _, _ = policy_of("fixed", {}).choose({}, situation(ROWS, TIMES, feasible=ALLOWED))
    assert plan == {"a": 0, "b": 2}
    largest_only = [[True, False, False, False]] * 3
    plan, _, _ = policy_of("fixed", {"row": 1}).choose({}, situation(ROWS, TIMES, feasible=largest_only))
    assert plan == {}


def test_fixed_refuses_rows_that_are_not() -> None:
    with pytest.raises(UseError, match=r"rows 0\.\.3"):
        policy_of("fixed", {"row": 4}).choose({}, situation(ROWS, TIMES))
    with pytest.raises(UseError, match="row index"):
        policy_of("fixed", {"row": 0.5})


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_every_policy_plans_exactly_the_devices_that_something_fits(name: str) -> None:
    policy, rng = policy_of(name, {}), np.random.default_rng(0)
    state = policy.begin(0)
    for number in range(12):
        allowed = rng.random((5, 4)) < 0.4
        sit = situation(ROWS, rng.uniform(1, 9, (5, 4)).tolist(), feasible=allowed.tolist(), number=number)
        plan, state, told = policy.choose(state, sit)
        assert told["policy"] == name
        if name != "fixed":  # a fixed row never grows
            assert set(plan) == {d for d, a in zip(sit.devices, allowed, strict=True) if a.any()}
        assert all(allowed[sit.devices.index(d), r] for d, r in plan.items())
        state = policy.observe(state, Outcome(number, {}, None, None))


def test_the_planner_comes_within_a_tenth_of_the_oracle_and_halves_the_literal_bandits_time() -> None:
    found = experiment.run(seeds=5)
    assert found["planner_ratio"] <= 1.1
    assert found["planner_ratio"] <= 0.5 * found["ducb_ratio"]
    assert found["planner_fair_ratio"] < found["ducb_ratio"]
    assert found["ducb_ratio"] < found["lookup_ratio"]


def test_without_the_floor_the_planner_starves_somebody_and_with_it_nobody() -> None:
    lean, fair = _least_share({"floor": 0.0}), _least_share({})
    assert lean < 0.3
    assert fair >= 0.35 - 1e-9


def _least_share(settings: dict[str, float]) -> float:
    """The smallest ten-round mean share of the model that any simulated device got."""
    policy, known, rows = policy_of("sweep", settings), experiment.table(experiment.fleet(0), 0), experiment.rows()
    state, given = policy.begin(0), []
    for number in range(30):
        sit, _ = experiment.survey(known, list(known.devices), rows, experiment.RECIPE, number, 0)
        plan, state, _ = policy.choose(state, sit)
        given.append([rows[plan[d]].density for d in sit.devices])
    shares = np.array(given)
    return min(float(shares[s : s + 10].mean(axis=0).min()) for s in range(20))


def test_planning_200_devices_and_40_rows_takes_well_under_50_ms() -> None:
    rows = catalogue(bench.mlp(), bench.RECIPE, 0)
    assert len(rows) == 40
    assert bench.plan_ms(bench.lived_in(rows, 200, 3), rows, 7) <= 50.0
