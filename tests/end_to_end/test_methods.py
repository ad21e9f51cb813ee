"""Every recipe runs, is FedAvg at its neutral setting, and is not FedAvg otherwise."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from pleat.elastic.choosers import Draw, choose
from pleat.elastic.choosers.magnitude import top
from pleat.elastic.importance import KINDS
from pleat.elastic.selection import Selection, embed, extract
from pleat.exchange.report import Budgets
from pleat.modelmap import ModelMap
from pleat.nets.build import build, initial, spec
from pleat.nets.shrink import load, shrink
from pleat.nets.trace import model_map
from pleat.params import Params, dense
from pleat.recipes import load as recipes
from pleat.recipes.load import names
from pleat_server import app
from pleat_server.config import RunConfig
from pleat_server.keep.journal import Journal
from support.digits import digit_shards
from support.methods import FAST, Ran, away, simulate

torch.set_num_threads(1)

# HeteroFL of one size, of devices that count by their samples; the scaler divides nothing then
PLAIN: dict[str, Any] = {
    "holds": {"widths": [1.0]},
    "objective": {"name": "cross_entropy"},
    "fold": {"weights": "samples", "rows": False},
    "training": {"clip": 0.0},
}

# one depth class: the net as it is, with its one head
ONE_EXIT: dict[str, Any] = {"holds": {"exits": 0, "depths": [1.0]}}

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
    "fiarse": ({"holds": {"widths": [1.0]}, "fold": {"weights": "samples"}, "training": {"rate": 0.05}}, 0.0),
    "feddst": ({"holds": {"widths": [1.0]}}, 0.0),
    "sub-fedavg": ({"rule": {"settings": {"prune": 0.0}}, "fold": {"weights": "samples"}}, 0.0),
    "lotteryfl": ({"rule": {"settings": {"prune": 0.0, "least": 0.0}}}, 0.0),
    "federated-dropout": ({"holds": {"widths": [1.0]}}, 0.0),
    "inclusivefl": ({**ONE_EXIT, "fold": {"momentum": 0.0}}, 0.0),
    "elf": ({"holds": {"depths": [1.0], "densities": [1.0]}}, 0.0),
    "fedmp-prune": ({"holds": {"widths": [1.0]}}, 0.0),
    "prunefl": ({"holds": {"widths": [1.0]}}, 0.0),
    "structured-low-rank": ({"objective": {"subspace": "low-rank:1"}}, 1e-6),
    "structured-mask": ({"objective": {"subspace": "random:1"}}, 0.0),
    "flash": ({"holds": {"widths": [1.0]}}, 0.0),
    "flash-voted": ({"holds": {"widths": [1.0]}}, 0.0),
    "fedtiny": ({"holds": {"widths": [1.0]}}, 0.0),
    "zerofl": ({"objective": {"settings": {"sparsity": 0.0}}}, 0.0),
    "local": ({"personal": {"tensors": []}}, 0.0),
    "complement": ({"holds": {"widths": [1.0]}, "server": {"rate": 1.0}, "training": {"rate": 0.05}}, 0.0),
    "fedscr": ({"returns": {"up": "scr:0/raw"}}, 0.0),
    "fedsparsify": ({"holds": {"widths": [1.0]}}, 0.0),
    "depthfl": ({**ONE_EXIT, "objective": {"dynamic": 0.0}, "fold": {"weights": "samples"}}, 0.0),
    "scalefl": ({"holds": {**ONE_EXIT["holds"], "widths": [1.0]}, "fold": {"weights": "samples"}}, 0.0),
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
    "inclusivefl": {"holds": {"depths": [0.5]}},
    "heterofl": {"holds": {"widths": [0.5]}},
    "fedrolex": {"holds": {"widths": [0.5]}},
    "elf": {"holds": {"depths": [0.67], "densities": [0.33]}},
    "fedmp-prune": {"holds": {"widths": [0.5]}},
    "fiarse": {"holds": {"widths": [0.25]}},
    "prunefl": {"rule": {"reconfigure": 2}},
    "sub-fedavg": {"rule": {"settings": {"least": 0.0, "distance": -1.0}}},
    "lotteryfl": {"rule": {"settings": {"least": 0.0}}},
}
# recipe -> what FedAvg needs to train the same net
SAME_NET: dict[str, dict[str, Any]] = {n: {"holds": {"exits": 2}} for n in ("depthfl", "scalefl", "inclusivefl")}
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
    plain = simulate(tmp_path / "plain", "fedavg", **SAME_NET[name]) if name in SAME_NET else fedavg
    assert away(ran.params, plain.params) > 1e-4


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
    assert recipes.load("fedrolex").fold == recipes.load("heterofl").fold
    assert recipes.load("drop-weak").training == recipes.load("fedavg").training


def down(ran: Ran) -> list[int]:
    return [line["bytes_down"] for line in ran.lines]


def test_a_mask_that_stays_travels_once_and_one_that_changes_every_round(tmp_path: Path) -> None:
    """51 k weights at density .1: 3 kB of positions a device, against 32 bytes of digest."""
    fixed = {"holds": {"widths": [0.1]}, "rule": {"chooser": "magnitude", "redraw": False}}
    stays = down(simulate(tmp_path / "stays", "fedavg", 3, **fixed))
    changes = down(simulate(tmp_path / "changes", "fedavg", 3, **{**fixed, "rule": {**fixed["rule"], "redraw": True}}))
    assert stays[0] == pytest.approx(changes[0], rel=0.01)
    assert 3 * 2500 < stays[0] - stays[1] < 3 * 3400
    assert stays[1] == pytest.approx(stays[2], abs=30)
    assert changes[2] == pytest.approx(changes[0], rel=0.02)


def test_a_device_that_lost_its_store_is_sent_its_mask_once_more_in_the_same_round(tmp_path: Path) -> None:
    parts, test = digit_shards(3)
    laid = {**FAST, "holds": {"widths": [0.1]}, "rule": {"chooser": "magnitude"}}
    config = RunConfig("fedavg", "mlp", tmp_path / "run", 1, input_shape=(1, 8, 8), classes=10, overrides=laid)
    devices, heard = app.virtual_devices(parts), list[str]()
    app.simulate(config, devices, test)
    devices[1].state = type(devices[1].state)()
    app.simulate(replace(config, rounds=2), devices, test, lambda e: heard.append(e.get("text", "")))
    assert sum("sending the whole submodel" in text for text in heard) == 1
    (last,) = (line for line in Journal.read(tmp_path / "run" / "journal.jsonl") if line["round"] == 2)
    assert [d["outcome"] for d in last["devices"]] == ["done"] * 3


def test_local_devices_are_scored_where_they_are_and_move_next_to_nothing_after_the_first_round(tmp_path: Path) -> None:
    ran = simulate(tmp_path / "run", "local", 3, holdout=0.3)
    assert ran.summary["accuracy"] is not None
    first, *later = ((line["bytes_up"] + line["bytes_down"]) for line in ran.lines)
    assert max(later) < first / 200
    own = [d.state.own["head.weight"] for d in ran.devices]
    assert all(abs(a - b).max() > 1e-3 for a, b in pairwise(own))
    seen = [line["accuracy"] for line in ran.lines]
    assert seen[2] > seen[0]


def test_complement_sends_half_and_takes_back_the_other_half(tmp_path: Path) -> None:
    one = simulate(tmp_path / "one", "complement", 1)
    ran = simulate(tmp_path / "two", "complement", 2)
    weight = "first.weight"
    sent = top(one.params[weight], 0.5)  # what the server sent in round 2
    assert np.array_equal(ran.params[weight][sent], one.params[weight][sent])
    assert (ran.params[weight][~sent] != one.params[weight][~sent]).any()
    full, half = (line["bytes_up"] for line in ran.lines)
    assert half == pytest.approx(full / 2, rel=0.02)


def test_fedsparsify_prunes_by_its_schedule_and_pruned_weights_stay_0(tmp_path: Path) -> None:
    rule = {"chooser": "magnitude", "redraw": True, "cubic": 2}
    models = [
        simulate(tmp_path / str(n), "fedsparsify", n, rule=rule, holds={"widths": [0.2]}).params for n in (1, 2, 3)
    ]
    held = [(m["first.weight"] != 0).mean() for m in models]
    assert held == pytest.approx([1.0, 0.2 + 0.8 * 0.125, 0.2], abs=1e-3)
    assert not models[2]["first.weight"][models[1]["first.weight"] == 0].any()


def test_feddst_readjusts_on_its_rounds_alone_and_its_model_stays_as_sparse_as_its_masks(tmp_path: Path) -> None:
    settings = {"every": 2, "until": 100, "share": 0.5, "after": 1}
    more = {"rule": {"settings": settings}, "training": {"epochs": 2}, "holds": {"widths": [0.2]}}
    up = [line["bytes_up"] for line in simulate(tmp_path / "three", "feddst", 3, **more).lines]
    assert up[1] > up[0] + 3 * 1000  # three new masks
    assert up[2] < up[0] + 300
    one, two = (simulate(tmp_path / str(n), "feddst", n, **more) for n in (1, 2))
    sparse = [np.mean([(r.params[n] != 0).mean() for n in ("first.weight", "second.weight")]) for r in (one, two)]
    assert sparse[0] == pytest.approx(0.2, abs=0.05)
    assert sparse[0] < sparse[1] < 0.5  # the union of what three devices chose, before the server prunes
    assert len({d.state.masks[m]["first.weight"].tobytes() for d in two.devices for m in d.state.masks}) == 4


@pytest.mark.parametrize("name", ["sub-fedavg", "lotteryfl"])
def test_personal_masks_fall_round_by_round_nest_and_end_at_their_target(name: str, tmp_path: Path) -> None:
    settings = {"prune": 0.2, "target": {"sub-fedavg": 0.4, "lotteryfl": 0.6}[name], "least": 0.0, "distance": -1.0}
    densities, before = [], None
    for rounds in (1, 2, 3, 4):
        ran = simulate(tmp_path / str(rounds), name, rounds, rule={"settings": settings})
        masks = [list(d.state.masks.values())[-1]["first.weight"] for d in ran.devices]
        densities.append(np.mean([m.mean() for m in masks]))
        assert before is None or not any((m & ~b).any() for m, b in zip(masks, before, strict=True))
        before = masks
    assert densities == pytest.approx([0.8, 0.64, 0.512, 0.512], abs=1e-2)
    assert name != "sub-fedavg" or len({m.tobytes() for m in masks}) == 3  # LotteryFL's first mask is the same for all
    up = [line["bytes_up"] for line in ran.lines]
    assert up[3] < 0.65 * up[0]


@pytest.mark.parametrize("name", ["sub-fedavg", "local", "complement", "feddst", "depthfl", "elf"])
@pytest.mark.parametrize("step", ["spool", "checkpoint"])
def test_a_method_with_memory_goes_on_after_a_crash_as_if_nothing_had_been(
    name: str, step: str, tmp_path: Path
) -> None:
    more = TELLING.get(name, {})
    undisturbed = simulate(tmp_path / "whole", name, 3, **more)
    broken = simulate(tmp_path / "run", name, 3, broken=(step, 5 if step == "spool" else 2), **more)
    assert away(broken.params, undisturbed.params) == 0
    pairs = list(zip(broken.devices, undisturbed.devices, strict=True))
    own = [(d.state.own, e.state.own) for d, e in pairs]
    own += [(d.state.sets[name], kept) for d, e in pairs for name, kept in e.state.sets.items()]
    assert all(np.array_equal(mine[n], yours[n]) for mine, yours in own for n in yours)


@pytest.mark.parametrize("net", ["resnet6", "resnet18"])
def test_a_block_filled_with_zeros_is_the_identity_whatever_its_kind(net: str) -> None:
    """Pre-activation (resnet6) and post-activation (resnet18): the whole net with eLF's zeros puts out what the net
    without the blocks does; filled with anything else it would not."""
    named = spec(net, (1, 8, 8), 3, width=8)
    model, params = model_map(named), initial(named, 0)
    without = choose("depth", model, 0.05, Draw())
    assert len(without.dropped) == {"resnet6": 3, "resnet18": 4}[net]
    filled = only_units(model, params, without)
    whole = build(named.factory, named.arguments)
    small = shrink(whole, model, without).eval()
    load(small, extract(model, without, params))
    x = torch.from_numpy(np.random.default_rng(0).normal(size=(4, 1, 8, 8)).astype(np.float32))
    with torch.no_grad():
        load(whole.eval(), filled)
        torch.testing.assert_close(whole(x), small(x))
        load(whole, params)
        assert (whole(x) - small(x)).abs().max() > 1e-3


def only_units(model: ModelMap, params: Params, selection: Selection) -> Params:
    """`params` with zeros for what was dropped."""
    return dense(embed(model, selection, extract(model, selection, params)))


def test_elf_drops_depth_from_a_residual_net_and_fills_with_zeros(tmp_path: Path) -> None:
    ran = simulate(
        tmp_path / "run",
        "elf",
        1,
        model="resnet6",
        holds={"depths": [0.67], "densities": [1.0]},
        rule={"score": "size"},
    )
    assert not ran.params["blocks.5.branch.conv1.weight"].any()
    assert ran.params["blocks.3.branch.conv1.weight"].any()


def test_prunefl_fits_its_mask_in_its_rounds_alone_and_what_it_adds_begins_at_0(tmp_path: Path) -> None:
    """One run, looked at after each round: two runs would time their devices differently, and fit other masks."""
    parts, test = digit_shards(3)
    laid = {**FAST, "rule": {"reconfigure": 2, "free": 0.3}}
    config = RunConfig("prunefl", "mlp", tmp_path / "run", 1, input_shape=(1, 8, 8), classes=10, overrides=laid)
    devices, masks, models = app.virtual_devices(parts), [], []
    for rounds in (2, 3, 4):
        app.simulate(replace(config, rounds=rounds), devices, test)
        masks.append(next(iter(devices[0].state.masks.values()))["first.weight"])
        models.append(load_file(tmp_path / "run" / "model.safetensors")["first.weight"])
    assert not np.array_equal(masks[0], masks[1])
    assert np.array_equal(masks[1], masks[2])
    up = [line["bytes_up"] for line in Journal.read(tmp_path / "run" / "journal.jsonl")]
    assert up[1] > up[0] + 3 * 51_000  # squared gradients of every entry
    assert up[3] > up[2] + 3 * 51_000
    assert masks[0].mean() == pytest.approx(0.3, abs=0.01)
    added = masks[1] & ~masks[0]
    assert added.any()
    assert not models[0][added].any()
    assert models[1][added].any()
    assert not models[1][~masks[1]].any()


def test_every_importance_ranks_entries_from_the_round_on_in_which_it_is_known(tmp_path: Path) -> None:
    def held(kind: str) -> np.ndarray:
        rule = {"chooser": "magnitude", "redraw": True, "score": kind, "squares": 1}
        ran = simulate(tmp_path / kind, "fedavg", 2, holds={"widths": [0.3]}, rule=rule)
        (masks,) = ran.devices[0].state.masks.values()
        return masks["second.weight"]

    masks = {kind: held(kind) for kind in KINDS}
    assert all(m.mean() == pytest.approx(0.3, abs=0.001) for m in masks.values())
    assert np.array_equal(masks["gradient"], masks["square"])  # one order of the same squares
    distinct = {m.tobytes() for k, m in masks.items() if k != "gradient"}
    assert len(distinct) == 5


def test_a_run_may_be_scored_every_few_rounds_and_always_at_its_end(tmp_path: Path) -> None:
    ran = simulate(tmp_path / "run", "fedavg", 3, server={"scored": 2})
    assert ["accuracy" in line for line in ran.lines] == [False, True, True]
    assert ran.summary["accuracy"] == ran.lines[-1]["accuracy"]


@pytest.mark.parametrize("timed", [True, False])
def test_newcomers_are_timed_unless_the_recipe_does_without(tmp_path: Path, timed: bool) -> None:
    ran = simulate(tmp_path / "run", "fedavg", 1, plan={"timed": timed})
    assert [device.trained for device in ran.devices] == [1 + timed] * 3


def test_a_cohort_that_affords_nothing_is_drawn_anew(tmp_path: Path) -> None:
    """One device of three is drawn a round, and one alone affords the model; waiting would never change the draw."""
    tight = [Budgets(upload_bytes=1), Budgets(), Budgets(upload_bytes=1)]
    ran = simulate(tmp_path / "run", "drop-weak", 6, budgets=tight, server={"cohort": 0.34})
    assert [[d["name"] for d in line["devices"]] for line in ran.lines] == [["device-001"]] * 6
