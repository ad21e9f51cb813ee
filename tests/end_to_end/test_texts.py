"""Methods on texts: a transformer's sizes by depth, each device at its own, and every reference beside them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from pleat.nets.build import initial, spec
from pleat.nets.trace import model_map
from pleat.nets.transformer import transformer
from pleat_server import app
from pleat_server.config import RunConfig
from pleat_server.keep.journal import Journal
from support.methods import Ran, away
from support.sentences import LENGTH, sentence_shards

torch.set_num_threads(1)
HERE = __name__


def small(input_shape: str, classes: int, exits: int = 0) -> torch.nn.Module:
    """The zoo's, of six narrow layers."""
    return transformer(input_shape, classes, layers=6, width=16, heads=2, vocabulary=20, exits=exits)


def simulate(folder: Path, recipe: str, rounds: int = 2, devices: int = 3, **more: Any) -> Ran:
    """`recipe` on as many devices as there are sizes, each at one of them."""
    parts, test = sentence_shards(devices)
    plan = {"policy": "fixed", "settings": {f"device-{d:03d}": float(d) for d in range(devices)}, "timed": False}
    training = {"epochs": 1, "momentum": 0.0, "clip": 1.0}
    laid = {**more, "plan": plan | more.get("plan", {}), "training": training | more.get("training", {})}
    config = RunConfig(recipe, f"{HERE}:small", folder, rounds, input_shape=(LENGTH,), classes=3, overrides=laid)
    virtual = app.virtual_devices(parts, holdout=0.2 if recipe == "local" else 0.0)
    return Ran(folder, app.simulate(config, virtual, test), virtual)


ONE_SIZE: dict[str, Any] = {"policy": "lookup", "settings": {}}
NEUTRAL = {"holds": {"exits": 0, "depths": [1.0]}, "fold": {"momentum": 0.0}, "plan": ONE_SIZE}
SIZES = {"holds": {"exits": 3, "depths": [1.0, 0.66, 0.33]}, "rule": {"depth": "depth-own"}}


def test_one_size_without_momentum_is_fedavg(tmp_path: Path) -> None:
    fedavg = simulate(tmp_path / "fedavg", "fedavg", plan=ONE_SIZE)
    neutral = simulate(tmp_path / "neutral", "inclusivefl", **NEUTRAL)
    assert away(neutral.params, fedavg.params) == 0
    one = {**NEUTRAL, "holds": {"exits": 3, "depths": [1.0]}}  # the control: a size with a pooler is another net
    assert simulate(tmp_path / "one", "inclusivefl", **one).params.keys() != fedavg.params.keys()


def moved(ran: Ran) -> dict[str, np.ndarray]:
    net = spec(f"{HERE}:small", (LENGTH,), 3, 3)
    return {name: ran.params[name] - first for name, first in initial(net, 0).items()}


def test_in_a_first_round_momentum_takes_a_fifth_of_the_smaller_sizes_own_layers_step_and_nothing_else(
    tmp_path: Path,
) -> None:
    plain = moved(simulate(tmp_path / "plain", "inclusivefl", 1, fold={"momentum": 0.0}))
    mixed = moved(simulate(tmp_path / "mixed", "inclusivefl", 1))
    own = {name for name in plain if name.startswith(("tops.0.layer.", "tops.1.layer."))}
    for name in plain:
        np.testing.assert_allclose(mixed[name], plain[name] * (0.8 if name in own else 1.0), rtol=1e-3, atol=2e-7)
        assert plain[name].any() or name.endswith("in_proj_bias")
    assert len(own) == 24


def test_the_mean_step_of_the_deeper_layers_comes_in_a_round_later_and_outlives_a_stop(tmp_path: Path) -> None:
    mixed = simulate(tmp_path / "two", "inclusivefl", 2)
    one = simulate(tmp_path / "stopped", "inclusivefl", 1)
    config = replace(RunConfig.load(tmp_path / "stopped"), rounds=2)
    app.simulate(config, one.devices, sentence_shards(3)[1])
    again = load_file(tmp_path / "stopped" / "model.safetensors")
    assert away(again, mixed.params) == 0
    assert away(simulate(tmp_path / "none", "inclusivefl", 2, fold={"momentum": 0.0}).params, mixed.params) > 1e-4


def test_a_device_moves_its_own_trunk_and_top_alone(tmp_path: Path) -> None:
    """With one device, at the middle size: four layers, three of them the trunk's."""
    plan = {"settings": {"device-000": 1.0}}
    steps = moved(simulate(tmp_path / "run", "inclusivefl", 1, devices=1, plan=plan))
    units = {t.name: t.unit for t in model_map(spec(f"{HERE}:small", (LENGTH,), 3, 3)).tensors}
    held = {units[name] for name, step in steps.items() if step.any()}
    assert held == {"", "layers.0", "layers.1", "layers.2", "tops.1"}


@pytest.mark.parametrize(
    ("recipe", "more"),
    [
        ("inclusivefl", {}),
        ("all-large", {**SIZES, "holds": {"exits": 3}, "plan": ONE_SIZE}),
        ("all-small", {**SIZES, "holds": {"exits": 3, "depths": [0.33], "widths": [1.0]}, "plan": ONE_SIZE}),
        ("drop-weak", {**SIZES, "holds": {"exits": 3}, "plan": ONE_SIZE}),
        ("local", SIZES),
        ("heterofl", {"holds": {"widths": [1.0, 0.5, 0.25]}}),
        ("elastic", {"holds": {"widths": [1.0, 0.5, 0.25]}}),
        ("elf", {"holds": {"depths": [1.0, 0.67, 0.34]}}),
        ("fiarse", {"holds": {"widths": [1.0, 0.5, 0.25]}}),
    ],
)
def test_a_method_runs_on_texts(recipe: str, more: dict[str, Any], tmp_path: Path) -> None:
    ran = simulate(tmp_path / "run", recipe, 3, **more)
    assert all(d["outcome"] == "done" for line in ran.lines for d in line["devices"])
    assert ran.summary["accuracy"] is not None
    assert all(np.isfinite(a).all() for a in ran.params.values())


def test_sizes_learn_and_each_is_scored_by_its_own_exit(tmp_path: Path) -> None:
    """The smallest alone has been trained: it knows the topics, the larger ones do not."""
    plan = {"settings": {f"device-{d:03d}": 2.0 for d in range(3)}}
    fast = {"training": {"rate": 0.3, "epochs": 4}}
    found = simulate(tmp_path / "run", "inclusivefl", 6, plan=plan, **fast).summary["accuracy_by_size"]
    assert list(found) == ["1", "depth 0.66", "depth 0.33"]
    assert found["depth 0.33"] > 0.9
    assert found["1"] < 0.7


def test_a_device_whose_words_the_net_does_not_know_says_so_and_the_others_go_on(tmp_path: Path) -> None:
    parts, test = sentence_shards(3)
    parts[1].x[:, 2] = 25
    config = RunConfig("fedavg", f"{HERE}:small", tmp_path / "run", 1, input_shape=(LENGTH,), classes=3)
    app.simulate(config, app.virtual_devices(parts), test)
    (line,) = Journal.read(tmp_path / "run" / "journal.jsonl")
    assert [d["outcome"] for d in line["devices"]] == ["done", "failed", "done"]
    assert "samples hold numbers from 0 to 25, the net's embedding has rows 0 to 19" in str(line["devices"][1])


@pytest.mark.parametrize(
    ("model", "shape", "laid", "message"),
    [
        ("mlp", (8,), {"fold": {"momentum": 0.2}}, "exit 'heads.0' has no layer like 'blocks.1' of the trunk"),
        (f"{HERE}:small", (8,), {"holds": {"exits": 0}}, "the net has 0 exits; write holds.exits = 2 or more"),
        (f"{HERE}:small", (8,), {"holds": {"exits": 7}}, "exits of transformer must be a whole number from 0 to its 6"),
        (f"{HERE}:small", (8,), {"fold": {"momentum": 1.0}}, r"fold.momentum must be in \[0, 1\), got 1.0"),
    ],
)
def test_momentum_that_has_nowhere_to_go_is_refused_before_anything_is_written(
    model: str, shape: tuple[int, ...], laid: dict[str, Any], message: str, tmp_path: Path
) -> None:
    parts, test = sentence_shards(3)
    config = RunConfig("inclusivefl", model, tmp_path / "run", 1, input_shape=shape, classes=3, overrides=laid)
    with pytest.raises(app.UseError, match=message):
        app.simulate(config, app.virtual_devices(parts), test)
    assert not (tmp_path / "run").exists()
