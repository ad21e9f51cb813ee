"""Policies against each other on a simulated fleet: seconds to a target loss (policy.md 4.2, truth A).

Twenty devices in four speed classes train a net of 90 MMACs and 1.2 M parameters at pruning rates 0 .. 0.9; the weakest
class has memory for rates from 0.4 on. Compute is noisy by 8 %, with 3 % outliers, data values by 30 %; at round 30
four devices become three times slower and two twice as fast. A row of pruning rate a is worth 1 - a^3, its seconds are
linear in 1 - a, and heavy pruning leaves a gap of 0.1 a^4 that no training closes. The planner starts from class speeds
that are wrong by about 30 % and from its own prior of a row's worth, and learns through the same table, cost fits and
budgets as a real run. The oracle sweeps with the true seconds and worths. This says nothing about accuracy.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pleat.elastic.choosers import Rung
from pleat.elastic.selection import WHOLE
from pleat.exchange.report import Budgets, Profile, Seconds
from pleat.recipes.recipe import Recipe, Training
from pleat_server.plan.bandwidth import Direction, Link
from pleat_server.plan.catalogue import Row
from pleat_server.plan.cost import CostFit
from pleat_server.plan.devices import Table
from pleat_server.plan.policies import Policy, deadline, policy_of
from pleat_server.plan.situation import Outcome, Result, survey

RATES = tuple(i / 10 for i in range(10))
PARAMS, MMACS, SAMPLES = 1_200_000, 90.0, 200
GMACS_A_SECOND = (0.8, 1.5, 5.0, 20.0)
SHIFT_ROUND, SLOWER, FASTER = 30, 4, 2
START, TARGET, LEARNING, LONGEST = 1.0, 0.1, 0.04, 3000

RECIPE = Recipe(training=Training(epochs=1, batch=20))
Floats = NDArray[np.float64]


def rows() -> tuple[Row, ...]:
    """One row per pruning rate, dense float32 both ways."""
    return tuple(_row(i, rate) for i, rate in enumerate(RATES))


def _row(index: int, rate: float) -> Row:
    share = 1 - rate
    params, macs = round(PARAMS * share), MMACS * 1e6 * share
    return Row(
        index=index,
        rung=Rung(share),
        density=share,
        keep=1.0,
        bits=32,
        selection=WHOLE,
        nested=(),
        params=params,
        macs=macs,
        own_macs=macs,
        passes=1.0,
        up="raw",
        down="raw",
        up_bytes=4 * params,
        down_bytes=4 * params,
        memory_bytes=round(100e6 * share),
    )


@dataclass(frozen=True)
class Fleet:
    """The truth: [device] speeds before and after the shift (GMAC/s), bytes a second, data values, class."""

    early: Floats
    late: Floats
    rate: Floats
    values: Floats
    classes: NDArray[np.int64]

    def times(self, number: int) -> Floats:
        """[device, row] seconds without noise."""
        share = 1 - np.array(RATES)
        speed = self.early if number < SHIFT_ROUND else self.late
        compute = MMACS * SAMPLES / 1e3 / speed
        return share * compute[:, None] + 2 * 4 * PARAMS * share / self.rate[:, None]

    def allowed(self) -> NDArray[np.bool_]:
        light = np.array(RATES) >= 0.4 - 1e-9
        return np.asarray(light | (self.classes != 0)[:, None])


def fleet(seed: int, size: int = 20) -> Fleet:
    rng = np.random.default_rng([seed, 1])
    classes = np.arange(size) % len(GMACS_A_SECOND)
    early = np.array(GMACS_A_SECOND)[classes] * rng.lognormal(0, 0.2, size)
    late = early.copy()
    moved = rng.permutation(size)
    late[moved[:SLOWER]] /= 3
    late[moved[SLOWER : SLOWER + FASTER]] *= 2
    return Fleet(early, late, rng.uniform(10e6, 60e6, size) / 8, rng.uniform(0.5, 1.0, size), classes)


def table(truth: Fleet, seed: int) -> Table:
    """What the server believes at first: class speeds and links, wrong by about 30 %."""
    rng, out = np.random.default_rng([seed, 2]), Table()
    for i, kind in enumerate(truth.classes):
        budgets = Budgets(memory_bytes=None if kind else round(100e6 + 1.15 * 60.5e6))
        out = out.join(_name(i), f"{i:02x}", Profile(samples=SAMPLES, budgets=budgets))
        slope = math.exp(0.3 * rng.normal()) / GMACS_A_SECOND[kind]
        link = Direction(1, truth.rate[i] * math.exp(0.3 * rng.normal()))
        device = replace(out[_name(i)], cost=CostFit.guess((0.0, slope)), link=Link(link, link), base_bytes=int(100e6))
        out = Table({**out.devices, device.name: device})
    return out


def _name(place: int) -> str:
    return f"device-{place:03d}"


def advance(gap: float, truth: Fleet, pick: NDArray[np.int64]) -> float:
    """The loss after a round in which device n trained row pick[n]."""
    a = np.array(RATES)[pick]
    gain = float(np.sum(truth.values * (1 - a**3)) / np.sum(truth.values))
    return gap - LEARNING * gain * max(0.0, gap - 0.1 * float(np.mean(a**4)))


def oracle(seed: int) -> float:
    """Seconds to the target of the sweep that knows everything."""
    truth, gap, spent, noise = fleet(seed), START, 0.0, np.random.default_rng([seed, 3])
    worth, allowed = truth.values[:, None] * (1 - np.array(RATES) ** 3), fleet(seed).allowed()
    for number in range(LONGEST):
        times = truth.times(number)
        least = float(np.where(allowed, times, np.inf).min(axis=1).max())
        pick = deadline.under(times, worth, allowed, deadline.best_deadline(times, worth, allowed, 0.0, least))
        spent += float(_noisy(noise, times, pick).max())
        gap = advance(gap, truth, pick)
        if gap <= TARGET:
            return spent
    return math.inf


def _noisy(rng: np.random.Generator, times: Floats, pick: NDArray[np.int64]) -> Floats:
    n = len(pick)
    factor = rng.lognormal(0, 0.08, n) * np.where(rng.random(n) < 0.03, rng.uniform(1.5, 3.0, n), 1.0)
    return times[np.arange(n), pick] * factor


def seconds_to_target(policy: Policy, seed: int, detect: bool = True) -> float:
    """Simulated seconds until the loss meets the target; inf if it never does. `detect`: the change detector."""
    truth, known, offered = fleet(seed), table(fleet(seed), seed), rows()
    noise, guess = np.random.default_rng([seed, 3]), np.random.default_rng([seed, 4])
    state, gap, spent = policy.begin(seed), START, 0.0
    for number in range(LONGEST):
        situation, _ = survey(known, list(known.devices), offered, RECIPE, number, seed)
        plan, state, _ = policy.choose(state, situation)
        pick = np.array([plan[name] for name in situation.devices])
        times = _noisy(noise, truth.times(number), pick)
        values = truth.values * np.exp(0.3 * guess.normal(size=len(pick)))
        known = _learn(known, truth, pick, times, values, offered, detect)
        after = advance(gap, truth, pick)
        results = {n: Result(int(pick[i]), float(times[i]), float(values[i])) for i, n in enumerate(situation.devices)}
        state = policy.observe(state, Outcome(number, results, gap, after, float(times.max())))
        spent, gap = spent + float(times.max()), after
        if gap <= TARGET:
            return spent
    return math.inf


def _learn(
    known: Table,
    truth: Fleet,
    pick: NDArray[np.int64],
    times: Floats,
    values: Floats,
    offered: tuple[Row, ...],
    detect: bool,
) -> Table:
    for i, row in enumerate(offered[r] for r in pick):
        name, old = _name(i), known[_name(i)]
        wire = row.up_bytes / float(truth.rate[i])
        seconds = Seconds(down=wire, train=float(times[i]) - 2 * wire, up=wire)
        known = known.observed(
            name,
            row,
            seconds,
            samples=SAMPLES,
            epochs=RECIPE.training.epochs,
            batch=RECIPE.training.batch,
            up_bytes=row.up_bytes,
            down_bytes=row.down_bytes,
            value=float(values[i]),
        )
        if not detect and old.cost is not None:
            amount = (SAMPLES / RECIPE.training.batch, row.macs * SAMPLES / 1e9)
            blind = old.cost.observe(seconds.train, amount, detect=False)
            known = Table({**known.devices, name: replace(known[name], cost=blind, errors=())})
    return known


def run(seeds: int = 5) -> dict[str, float]:
    """Median over seeds of each policy's seconds over the oracle's."""
    policies = {
        "planner": policy_of("sweep", {"floor": 0.0}),
        "planner_fair": policy_of("sweep", {}),
        "ducb": policy_of("ducb", {}),
        "lookup": policy_of("lookup", {}),
    }
    best = [oracle(seed) for seed in range(seeds)]
    out = {"oracle_s": float(np.median(best))}
    for name, policy in policies.items():
        ratios = [seconds_to_target(policy, seed) / best[seed] for seed in range(seeds)]
        out[f"{name}_ratio"] = float(np.median(ratios))
    blind = [seconds_to_target(policies["planner"], s, detect=False) / best[s] for s in range(seeds)]
    return {**out, "planner_without_detector_ratio": float(np.median(blind)), "n": float(seeds)}
