"""What planning a round costs: survey of the budgets, predicted seconds and the sweep, 200 and 1000 devices x 40 rows.

The devices have lived through 25 rounds, so their fits and histories are full; all have budgets. Writes the keys of
plan.json: medians of `n` runs in milliseconds, and the KiB that the checkpoint holds per device.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import replace

import msgspec
import numpy as np

from pleat.errors import LocalError
from pleat.exchange.report import Budgets, Profile, Seconds
from pleat.modelmap import Activation, Group, ModelMap, Segment, TensorSpec
from pleat.recipes.recipe import Holds, Recipe, Returns, Rule
from pleat_server.plan.catalogue import Row, catalogue
from pleat_server.plan.coverage import atoms
from pleat_server.plan.devices import Table
from pleat_server.plan.policies import policy_of
from pleat_server.plan.situation import survey

ROUNDS = 25
RECIPE = Recipe(
    name="bench",
    holds=Holds(widths=(1.0, 0.75, 0.5, 0.375, 0.25, 0.1875, 0.125, 0.0625)),
    rule=Rule(chooser="prefix"),
    returns=Returns(up="topk:{keep}/lloyd:4", down="bf16-delta", keeps=(0.2, 0.1, 0.05, 0.02, 0.01), bits=(4,)),
)


def mlp(inputs: int = 784, hidden: int = 512, classes: int = 10) -> ModelMap:
    """Two hidden layers as plain data; no torch is needed to plan."""
    fixed, first, second = (Segment("", inputs),), (Segment("h1"),), (Segment("h2"),)
    out = (Segment("", classes),)
    return ModelMap(
        tensors=(
            TensorSpec("a.bias", (hidden,), (first,)),
            TensorSpec("a.weight", (hidden, inputs), (first, fixed), 1),
            TensorSpec("b.bias", (hidden,), (second,)),
            TensorSpec("b.weight", (hidden, hidden), (second, first), 1),
            TensorSpec("c.bias", (classes,), (out,)),
            TensorSpec("c.weight", (classes, hidden), (out, second), 1),
        ),
        groups=(Group("h1", hidden), Group("h2", hidden)),
        activations=(Activation(first, 1), Activation(second, 1)),
    )


def lived_in(rows: tuple[Row, ...], count: int, rounds: int, seed: int = 0) -> Table:
    """A table of `count` devices after `rounds` rounds."""
    rng, table = np.random.default_rng(seed), Table()
    for place in range(count):
        name = f"device-{place:04d}"
        budgets = Budgets(memory_bytes=int(rng.integers(350, 500)) << 20, seconds=600.0, upload_bytes=400_000)
        profile = Profile(samples=int(rng.integers(100, 1000)), memory_bytes=1 << 30, budgets=budgets)
        table = Table(
            {name: replace(Table().join(name, "00", profile)[name], base_bytes=260 << 20)} | dict(table.devices)
        )
        speed, one = float(rng.lognormal(0, 1)), Table({name: table[name]})
        for _ in range(rounds):
            row = rows[int(rng.integers(len(rows)))]
            train = row.macs * profile.samples * 2 / 1e9 * speed * float(rng.lognormal(0, 0.08))
            seconds = Seconds(down=0.2 * float(rng.lognormal()), train=train, up=0.1 * float(rng.lognormal()))
            one = one.observed(name, row, seconds, samples=profile.samples, epochs=2, batch=32,
                               up_bytes=row.up_bytes, down_bytes=row.down_bytes, value=0.5)  # fmt: skip
        table = Table({**table.devices, **one.devices})
    return table


def plan_ms(table: Table, rows: tuple[Row, ...], n: int) -> float:
    """Median milliseconds of planning one round for every device of `table`."""
    policy, covered = policy_of("sweep", {}), atoms(mlp(), rows)
    state, taken = policy.begin(0), []
    for number in range(n):
        started = time.perf_counter()
        situation, _ = survey(table, list(table.devices), rows, RECIPE, number, 0, covered)
        plan, state, _ = policy.choose(state, situation)
        taken.append(1e3 * (time.perf_counter() - started))
        if len(plan) != len(table.devices):
            raise LocalError(
                f"bench plan: {len(plan)} of {len(table.devices)} devices planned; its budgets are too tight"
            )
    return statistics.median(taken)


def run(n: int = 15) -> dict[str, float]:
    """The keys of plan.json."""
    rows = catalogue(mlp(), RECIPE, 0)
    small, large = lived_in(rows, 200, ROUNDS), lived_in(rows, 1000, 2, seed=1)
    return {
        "plan_200x40_ms": plan_ms(small, rows, n),
        "plan_1000x40_ms": plan_ms(large, rows, n),
        "table_kib_per_device": len(msgspec.json.encode(small.to_plain())) / len(small.devices) / 1024,
        "rows": len(rows),
        "n": n,
    }
