"""Every recipe runs, is FedAvg at its neutral setting, and is not FedAvg otherwise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pleat.exchange.report import Budgets
from pleat.recipes.recipe import load, names
from support.methods import Ran, away, simulate

torch.set_num_threads(1)

# HeteroFL of one size, of devices that count by their samples; the scaler divides nothing then
PLAIN: dict[str, Any] = {
    "holds": {"widths": [1.0]},
    "objective": {"name": "cross_entropy"},
    "fold": {"weights": "samples", "rows": False},
    "training": {"clip": 0.0},
}

# recipe -> what makes it FedAvg, and how far from it rounding may lead
NEUTRAL: dict[str, tuple[dict[str, Any], float]] = {
    "fedavg": ({}, 0.0),
    "all-large": ({}, 0.0),
    "drop-weak": ({}, 0.0),
    "all-small": ({"holds": {"widths": [1.0]}}, 0.0),
    "exclusive": ({"holds": {"widths": [1.0]}}, 0.0),
    "fjord": ({"holds": {"widths": [1.0]}}, 0.0),
    "heterofl": (PLAIN, 0.0),
    "fedrolex": (PLAIN, 0.0),
    "fiarse": ({"holds": {"widths": [1.0]}, "fold": {"weights": "samples"}}, 0.0),
    "feddst": ({"holds": {"widths": [1.0]}}, 0.0),
    "sub-fedavg": ({"rule": {"settings": {"prune": 0.0}}}, 0.0),
    "lotteryfl": ({"rule": {"settings": {"target": 1.0}}}, 0.0),
    "federated-dropout": ({"holds": {"widths": [1.0]}}, 0.0),
    "local": ({"personal": {"tensors": []}}, 0.0),
    "complement": ({"holds": {"widths": [1.0]}, "server": {"rate": 1.0}}, 0.0),
    "fedsparsify": ({"holds": {"widths": [1.0]}}, 0.0),
    "elastic": (
        {
            "holds": {"widths": [1.0]},
            "objective": {"name": "cross_entropy", "nested": False, "settings": {}},
            "returns": {"up": "raw", "down": "raw", "keeps": [1.0], "bits": [32]},
            "server": {"momentum": 0.0, "average": 0.0},
            "training": {"clip": 0.0},
            "fold": {"exponent": 1.0},
        },
        0.0,
    ),
}
# recipes that differ from FedAvg by who takes part alone
BY_BUDGET = {"fedavg", "all-large", "drop-weak"}
# a setting at which the difference shows in two rounds with every device at the same size
TELLING: dict[str, dict[str, Any]] = {
    "fjord": {"holds": {"widths": [1.0, 0.5]}},
    "heterofl": {"holds": {"widths": [0.5]}},
    "fedrolex": {"holds": {"widths": [0.5]}},
    "fiarse": {"holds": {"widths": [0.25]}},
    "sub-fedavg": {"rule": {"settings": {"least": 0.0, "distance": -1.0}}},
    "lotteryfl": {"rule": {"settings": {"least": 0.0}}},
}
UNSCORED = {"local"}  # the server has no model of anybody's


@pytest.fixture(scope="module")
def fedavg(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    return simulate(tmp_path_factory.mktemp("fedavg") / "run", "fedavg")


def test_every_recipe_has_a_neutral_setting() -> None:
    assert sorted(NEUTRAL) == names()


@pytest.mark.parametrize("name", sorted(NEUTRAL))
def test_a_recipe_at_its_neutral_setting_is_fedavg(name: str, fedavg: Ran, tmp_path: Path) -> None:
    settings, tolerance = NEUTRAL[name]
    assert away(simulate(tmp_path / "run", name, **settings).params, fedavg.params) <= tolerance


@pytest.mark.parametrize("name", sorted(set(NEUTRAL) - BY_BUDGET))
def test_a_recipe_as_it_is_runs_and_differs_from_fedavg(name: str, fedavg: Ran, tmp_path: Path) -> None:
    ran = simulate(tmp_path / "run", name, **TELLING.get(name, {}))
    assert [line["round"] for line in ran.lines] == [1, 2]
    assert all(d["outcome"] == "done" for line in ran.lines for d in line["devices"])
    assert all(np.isfinite(a).all() for a in ran.params.values())
    assert (ran.summary["accuracy"] is None) == (name in UNSCORED)
    assert away(ran.params, fedavg.params) > 1e-4


TIGHT = [Budgets(), Budgets(upload_bytes=1000), Budgets()]  # the second device affords no size


def took_part(ran: Ran) -> list[str]:
    return sorted({d["name"] for line in ran.lines for d in line["devices"]})


def test_drop_weak_loses_the_devices_that_do_not_afford_the_full_model_and_all_large_keeps_them(tmp_path: Path) -> None:
    weak = simulate(tmp_path / "weak", "drop-weak", 1, budgets=TIGHT)
    assert took_part(weak) == ["device-000", "device-002"]
    assert list(weak.lines[0]["idle"]) == ["device-001"]
    large = simulate(tmp_path / "large", "all-large", 1, budgets=TIGHT)
    assert took_part(large) == ["device-000", "device-001", "device-002"]
    assert away(weak.params, large.params) > 1e-4


def test_all_small_is_scored_at_its_own_size_and_leaves_the_rest_of_the_net_alone(tmp_path: Path) -> None:
    before = simulate(tmp_path / "one", "all-small", 1)
    ran = simulate(tmp_path / "two", "all-small", 2)
    assert ran.summary["accuracy"] == ran.summary["accuracy_by_size"]["0.125"]
    assert not (ran.params["first.weight"] - before.params["first.weight"])[32:].any()
    assert (ran.params["first.weight"] - before.params["first.weight"])[:32].any()


def test_a_device_below_the_exclusive_size_has_no_part(tmp_path: Path) -> None:
    half = Budgets(upload_bytes=100_000)  # half of 51 k floats is 73 kB, all of them 205 kB
    exclusive = simulate(tmp_path / "half", "exclusive", 1, budgets=[half, Budgets(upload_bytes=9000), Budgets()])
    assert took_part(exclusive) == ["device-000", "device-002"]


def test_the_recipes_that_draw_anew_score_the_whole_model_that_no_device_trains(tmp_path: Path) -> None:
    ran = simulate(tmp_path / "run", "federated-dropout", 1)
    assert set(ran.summary["accuracy_by_size"]) == {"1", "0.75"}
    assert ran.summary["accuracy"] == ran.summary["accuracy_by_size"]["1"]


def test_a_recipe_that_extends_another_keeps_what_it_does_not_change() -> None:
    assert load("fedrolex").fold == load("heterofl").fold
    assert load("drop-weak").training == load("fedavg").training
