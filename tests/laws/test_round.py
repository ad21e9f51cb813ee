"""FedAvg of ours is the textbook's; the round is a function of its state; the neutral recipes are FedAvg."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from pleat.errors import Fatal
from pleat.exchange.report import Profile
from pleat.nets.build import build, initial
from pleat.nets.shrink import load, read
from pleat.params import Params
from pleat.shard import Shard
from pleat_client.trainer import batches
from pleat_server import app
from pleat_server.config import RunConfig
from pleat_server.fleet import stranger
from pleat_server.keep.journal import Journal
from pleat_server.round import seed_of
from pleat_server.run_recipe import read_recipe
from pleat_server.simulate.grid import VirtualDevice
from support.digits import digit_shards

FAST: dict[str, Any] = {"training": {"epochs": 1}}


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def simulate(folder: Path, recipe: str, rounds: int, **more: Any) -> tuple[dict[str, Any], Params]:
    parts, test = digit_shards(3)
    config = RunConfig(recipe, "mlp", folder, rounds=rounds, input_shape=(1, 8, 8), classes=10, **more)
    summary = app.simulate(config, app.virtual_devices(parts), test)
    return summary, load_file(folder / "model.safetensors")


def textbook_step(config: RunConfig, params: Params, shard: Shard, seed: int) -> Params:
    """One device's local training, written with torch's own optimiser."""
    recipe = read_recipe(config)
    setup = app.set_up(config, recipe, (1, 8, 8), 10)
    net = build(setup.net.factory, setup.net.arguments)
    load(net, params)
    t = recipe.training
    optimiser = torch.optim.SGD(net.parameters(), lr=t.rate, momentum=t.momentum)
    x, y = torch.from_numpy(shard.x), torch.from_numpy(shard.y)
    for index in batches(len(shard), t.batch, t.epochs, seed):
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(net(x[index]), y[index]).backward()
        optimiser.step()
    return read(net)


def test_fedavg_equals_a_textbook_fedavg_on_real_shards(tmp_path: Path) -> None:
    parts, test = digit_shards(3)
    config = RunConfig("fedavg", "mlp", tmp_path / "run", rounds=2, input_shape=(1, 8, 8), classes=10, overrides=FAST)
    app.simulate(config, app.virtual_devices(parts), test)
    ours = load_file(tmp_path / "run" / "model.safetensors")

    setup = app.set_up(config, read_recipe(config), (1, 8, 8), 10)
    params = initial(setup.net, config.seed)
    for number in (1, 2):
        trained = [
            textbook_step(config, params, part, seed_of(config.seed, "train", number, f"device-{i:03d}"))
            for i, part in enumerate(parts)
        ]
        total = sum(len(p) for p in parts)
        params = {
            name: sum(
                (len(p) / total * t[name].astype(np.float64) for p, t in zip(parts, trained, strict=True)),
                np.zeros(params[name].shape),
            ).astype(np.float32)
            for name in params
        }
    for name, values in params.items():
        np.testing.assert_allclose(ours[name], values, atol=1e-6, rtol=0)


def test_a_wrong_seed_is_seen_by_the_comparison_above(tmp_path: Path) -> None:
    _, one = simulate(tmp_path / "a", "fedavg", 1, overrides=FAST)
    _, other = simulate(tmp_path / "b", "fedavg", 1, seed=1, overrides=FAST)
    assert max(float(np.abs(one[n] - other[n]).max()) for n in one) > 1e-3


@pytest.mark.parametrize("recipe", ["heterofl", "fjord", "elastic"])
def test_a_recipe_at_its_neutral_setting_is_fedavg(tmp_path: Path, recipe: str) -> None:
    neutral = {
        "holds": {"widths": [1.0]},
        "objective": {"name": "cross_entropy", "nested": False},
        "returns": {"up": "raw", "down": "raw", "keeps": [1.0], "bits": [32]},
        "fold": {"exponent": 1.0, "weights": "samples", "rows": False},
        "training": {"epochs": 1, "batch": 32, "rate": 0.05, "momentum": 0.9, "decay": 0.0, "clip": 0.0},
        "server": {"momentum": 0.0, "average": 0.0},
        "plan": {"policy": "fixed", "settings": {}},
    }
    fedavg = {k: neutral[k] for k in ("training", "plan")}
    _, theirs = simulate(tmp_path / "a", "fedavg", 2, overrides=fedavg)
    _, ours = simulate(tmp_path / "b", recipe, 2, overrides=neutral)
    for name in theirs:
        np.testing.assert_array_equal(ours[name], theirs[name])


@pytest.mark.parametrize("recipe", ["heterofl", "fjord", "elastic"])
def test_a_recipe_at_its_own_setting_is_not_fedavg(tmp_path: Path, recipe: str) -> None:
    _, theirs = simulate(tmp_path / "a", "fedavg", 1)
    _, ours = simulate(tmp_path / "b", recipe, 1)
    assert any(not np.array_equal(ours[n], theirs[n]) for n in theirs)


def test_the_same_seed_gives_the_same_model_bit_for_bit(tmp_path: Path) -> None:
    one, first = simulate(tmp_path / "a", "elastic", 2, policy="fixed")
    two, second = simulate(tmp_path / "b", "elastic", 2, policy="fixed")
    assert all(np.array_equal(first[n], second[n]) for n in first)
    assert one["accuracy_by_size"] == two["accuracy_by_size"]


def test_a_round_in_which_nothing_was_accepted_says_so_and_ends_the_run_after_three(tmp_path: Path) -> None:
    parts, test = digit_shards(2)
    devices = app.virtual_devices(parts)
    broken = [replace_shard(d) for d in devices]
    config = RunConfig("fedavg", "mlp", tmp_path / "run", rounds=5, input_shape=(1, 8, 8), classes=10)
    with pytest.raises(Fatal, match="no report was accepted in 3 rounds"):
        app.simulate(config, broken, test)
    lines = Journal.read(tmp_path / "run" / "journal.jsonl")
    assert [line["round"] for line in lines] == [1, 2, 3]
    assert all("the model is unchanged" in line["error"] for line in lines)


def replace_shard(device: VirtualDevice) -> VirtualDevice:
    """A device whose samples have grown out of all bounds, so that its training diverges."""
    return VirtualDevice(device.name, replace(device.shard, x=device.shard.x * np.float32(1e30)))


@pytest.mark.parametrize(
    ("odd", "told"),
    [
        (Shard(np.zeros((20, 1, 9, 9), np.float32), np.arange(20) % 10), "its samples have shape (1, 9, 9), the model"),
        (Shard(np.zeros((20, 1, 8, 8), np.float32), np.arange(20)), "its labels go up to 19, the model has classes 0"),
    ],
)
def test_a_device_whose_data_do_not_fit_the_model_is_told_so_and_sent_nothing(
    odd: Shard, told: str, tmp_path: Path
) -> None:
    parts, test = digit_shards(2)
    config = RunConfig("fedavg", "mlp", tmp_path / "run", rounds=2, input_shape=(1, 8, 8), classes=10, overrides=FAST)
    heard: list[str] = []
    devices = app.virtual_devices([*parts, odd])
    app.simulate(config, devices, test, watch=lambda event: heard.append(str(event.get("text", ""))))
    assert sum(told in text for text in heard) == 1
    for line in Journal.read(tmp_path / "run" / "journal.jsonl"):
        assert [d["name"] for d in line["devices"]] == [d.name for d in devices[:2]]
        assert told in line["idle"][devices[2].name]
    assert devices[2].trained == 0


def test_a_device_that_tells_nothing_of_its_data_is_taken_at_its_word(tmp_path: Path) -> None:
    config = RunConfig("fedavg", "mlp", tmp_path / "run", input_shape=(1, 8, 8), classes=10)
    setup = app.set_up(config, read_recipe(config), (1, 8, 8), 10)
    assert stranger(setup, "a", Profile()) == ""
    assert stranger(setup, "a", Profile(input_shape=(1, 8, 8), classes=10)) == ""
