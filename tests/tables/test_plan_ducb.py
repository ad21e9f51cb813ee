"""The notes' discounted UCB against a table computed by hand, and the three things added where the notes are silent."""

from __future__ import annotations

import json
import math

import pytest

from pleat.errors import UseError
from pleat_server.plan.policies import policy_of
from pleat_server.plan.policies.ducb import Ducb
from pleat_server.plan.situation import Outcome, Result
from support.planning import ladder, situation

ROWS = ladder(1.0, 0.5, 0.25)
TIMES = [[4.0, 2.0, 1.0]] * 2

# Two devices of equal value, discount .9. Each line: the row both play, seconds of a and b, loss before and after; and
# what follows for device a at the next choice: N, mean and upper bound of each row (None: unplayed).
# Line 1: mean time 3, |2 - 3| = 1, dvalue = .4/2, R = .2; N = .9, S = .18.
# Line 3: N = (.9, .81, .729), sum 2.439, ln = .8916; c = sqrt(1.7832/N) = (1.4076, 1.4837, 1.5640).
# Line 4: the loss rose and |T - mean T| = 0, so R = 0; N = (.81, .729, 1.5561), sum 3.0951, ln = 1.1298.
# Line 5: mean 4, |3 - 4| = 1, dvalue .05; N = (.729, 1.5561, 1.40049), sum 3.68559, ln = 1.3044.
HAND = [
    (2, (2.0, 4.0), (1.0, 0.6), [0.0, 0.0, 0.9], [None, None, 0.2], None),
    (1, (3.0, 5.0), (0.6, 0.4), [0.0, 0.9, 0.81], [None, 0.1, 0.2], None),
    (0, (6.0, 2.0), (0.4, 0.0), [0.9, 0.81, 0.729], [0.1, 0.1, 0.2], [1.5076, 1.5837, 1.7640]),
    (2, (2.0, 2.0), (0.1, 0.3), [0.81, 0.729, 1.5561], [0.1, 0.1, 0.08433], [1.7702, 1.8606, 1.2894]),
    (1, (3.0, 5.0), (0.3, 0.2), [0.729, 1.5561, 1.40049], [0.1, 0.07108, 0.08433], [1.9917, 1.3659, 1.4492]),
]


def test_counts_means_and_bounds_follow_the_hand_computed_table() -> None:
    policy = Ducb(discount=0.9)
    state = policy.begin(0)
    for number, (row, (a, b), (before, after), counts, means, bounds) in enumerate(HAND, 1):
        plan, state, _ = policy.choose(state, situation(ROWS, TIMES, number=number))
        assert plan == {"a": row, "b": row}
        results = {"a": Result(row, a, 0.5), "b": Result(row, b, 0.5)}
        state = policy.observe(state, Outcome(number, results, before, after))
        _, _, told = policy.choose(state, situation(ROWS, TIMES, number=number + 1))
        mine = told["devices"]["a"]
        assert mine["arms"] == [0, 1, 2]
        assert mine["rates"] == [0.0, 0.5, 0.75]
        assert mine["counts"] == pytest.approx(counts, abs=1e-9)
        assert [m is None for m in mine["means"]] == [m is None for m in means]
        assert [m for m in mine["means"] if m is not None] == pytest.approx(
            [m for m in means if m is not None], abs=5e-5
        )
        if bounds is not None:
            assert mine["bounds"] == pytest.approx(bounds, abs=2e-4)


def test_the_first_choice_after_the_table_is_the_largest_bound() -> None:
    policy, state = Ducb(discount=0.9), Ducb(discount=0.9).begin(0)
    for number, (row, (a, b), (before, after), *_) in enumerate(HAND, 1):
        results = {"a": Result(row, a, 0.5), "b": Result(row, b, 0.5)}
        state = policy.observe(state, Outcome(number, results, before, after))
    plan, _, _ = policy.choose(state, situation(ROWS, TIMES, number=6))
    assert plan == {"a": 0, "b": 0}


def test_discounted_sums_equal_the_notes_sums_written_out() -> None:
    policy, state, played = Ducb(discount=0.97), Ducb(discount=0.97).begin(0), []
    for number in range(1, 40):
        plan, state, _ = policy.choose(state, situation(ROWS, TIMES, number=number))
        results = {"a": Result(plan["a"], 1.0 + number % 3, 0.7), "b": Result(plan["b"], 2.0, 0.3)}
        outcome = Outcome(number, results, 1.0 / number, 1.0 / (number + 1))
        played.append((plan["a"], policy.rewards(outcome)["a"]))
        state = policy.observe(state, outcome)
    k = len(played) + 1
    _, _, told = policy.choose(state, situation(ROWS, TIMES, number=k))
    for row in range(3):
        weights = [(0.97 ** (k - s), r) for s, (j, r) in enumerate(played, 1) if j == row]
        n, total = sum(w for w, _ in weights), sum(w * r for w, r in weights)
        mine = told["devices"]["a"]
        assert mine["counts"][row] == pytest.approx(n)
        assert mine["means"][row] == pytest.approx(total / n)
        everything = sum(0.97 ** (k - s) for s in range(1, k))
        assert mine["bounds"][row] == pytest.approx(total / n + math.sqrt(2 * math.log(everything) / n))


def test_every_feasible_arm_is_played_once_first_with_the_smallest_submodel_first() -> None:
    policy, state, seen = Ducb(), Ducb().begin(0), []
    allowed = [[False, True, True], [True, True, True]]
    for number in range(1, 4):
        plan, state, _ = policy.choose(state, situation(ROWS, TIMES, feasible=allowed, number=number))
        seen.append((plan["a"], plan["b"]))
        state = policy.observe(state, Outcome(number, {d: Result(r, 1.0, 0.5) for d, r in plan.items()}, 1.0, 0.9))
    assert [b for _, b in seen] == [2, 1, 0]
    assert [a for a, _ in seen][:2] == [2, 1]


def test_the_logarithm_is_guarded_when_little_was_played() -> None:
    policy = Ducb(discount=0.9)
    state = policy.observe(policy.begin(0), Outcome(1, {"a": Result(0, 1.0, 1.0)}, 1.0, 0.9))
    only = [[True, False, False]]
    _, _, told = policy.choose(state, situation(ROWS, TIMES[:1], feasible=only, number=2))
    mean = told["devices"]["a"]["means"][0]
    assert told["devices"]["a"]["bounds"][0] == pytest.approx(mean + math.sqrt(2 * math.log(1.0001) / 0.9))


def test_the_division_is_guarded_only_where_all_finish_together() -> None:
    policy = Ducb(guard=0.01)
    together = policy.rewards(Outcome(1, {"a": Result(0, 2.0, 0.5), "b": Result(0, 2.0, 0.5)}, 1.0, 0.8))
    assert together["a"] == pytest.approx(0.1 / 0.02)
    apart = policy.rewards(Outcome(1, {"a": Result(0, 1.5, 0.5), "b": Result(0, 2.5, 0.5)}, 1.0, 0.8))
    assert apart["a"] == pytest.approx(0.1 / 0.5)


def test_an_arm_that_faded_below_a_thousandth_counts_as_unplayed() -> None:
    policy = Ducb(discount=0.5)
    state = {"arms": {"a": {"0": [0.9, 0.5], "1": [0.9, 0.1], "2": [0.0009, 0.0]}}, "rewards": {}}
    plan, _, _ = policy.choose(state, situation(ROWS, TIMES[:1]))
    assert plan == {"a": 2}


def test_a_device_that_sat_a_round_out_is_discounted_all_the_same() -> None:
    policy = Ducb(discount=0.9)
    state = policy.observe(policy.begin(0), Outcome(1, {"a": Result(0, 1.0, 1.0)}, 1.0, 0.9))
    state = policy.observe(state, Outcome(2, {"b": Result(1, 1.0, 1.0)}, 0.9, 0.8))
    assert state["arms"]["a"]["0"][0] == pytest.approx(0.81)


def test_ties_are_broken_by_the_seed_and_by_nothing_else() -> None:
    state = {"arms": {d: {str(r): [0.9, 0.1] for r in range(3)} for d in "abcdefgh"}, "rewards": {}}
    pick = [Ducb().choose(state, situation(ROWS, TIMES[:1] * 8, seed=s))[0] for s in (1, 1, 2)]
    assert pick[0] == pick[1]
    assert pick[0] != pick[2]
    assert len(set(pick[0].values())) > 1


def test_the_state_survives_json() -> None:
    policy, state = Ducb(), Ducb().begin(0)
    for number in range(1, 6):
        plan, state, told = policy.choose(state, situation(ROWS, TIMES, number=number))
        json.dumps(told, allow_nan=False)
        state = policy.observe(state, Outcome(number, {d: Result(r, 1.0, 0.5) for d, r in plan.items()}, 1.0, 0.9))
    again = json.loads(json.dumps(state))
    assert policy.choose(again, situation(ROWS, TIMES, number=6)) == policy.choose(
        state, situation(ROWS, TIMES, number=6)
    )


def test_an_unknown_setting_names_the_nearest() -> None:
    with pytest.raises(UseError, match="did you mean 'discount'"):
        policy_of("ducb", {"discont": 0.9})
    with pytest.raises(UseError, match="discount must be in"):
        policy_of("ducb", {"discount": 1.5})
    with pytest.raises(UseError, match="did you mean 'ducb'"):
        policy_of("ducp", {})
