"""Settings under Flower: the run config of an app and the config of a node, and every mistake as one clear line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tomllib

from pleat.errors import UseError
from pleat.exchange.flower import KEYS, Settings, settings, shape
from pleat_client.flower_app import device_config
from pleat_server.cli.options import overrides
from pleat_server.flower_app import _config

APP = Path(__file__).parent.parent.parent / "deploy" / "flower" / "pyproject.toml"
NOWHERE = Path("/nonexistent/client.toml")


def test_the_apps_own_config_names_every_key_with_its_default() -> None:
    config = tomllib.loads(APP.read_text())["tool"]["flwr"]["app"]["config"]
    assert sorted(config) == sorted(KEYS)
    assert settings(config) == Settings(model="mlp")


@pytest.mark.parametrize(
    ("config", "line"),
    [
        ({"model": "mlp", "recpie": "elastic"}, "run config: unknown key 'recpie'; did you mean 'recipe'?"),
        ({"model": "mlp", "input_shape": "1x8x8"}, "unknown key 'input_shape'; did you mean 'input-shape'?"),
        ({"model": "mlp", "zzz": 1}, "unknown key 'zzz'; known are model, recipe, rounds"),
        ({}, "run config: no key 'model'; add it"),
        ({"model": ""}, "run config: no key 'model'; add it"),
        ({"model": "mlp", "rounds": "ten"}, "run config: Expected `int`, got `str` - at `$.rounds`; see"),
        ({"model": "mlp", "rounds": 0}, "run config: Expected `int` >= 1 - at `$.rounds`; see"),
    ],
)
def test_a_mistake_in_the_run_config_is_one_line(config: dict[str, Any], line: str) -> None:
    with pytest.raises(UseError) as told:
        settings(config)
    assert line in str(told.value)
    assert "\n" not in str(told.value)


def test_a_shape_that_is_none_is_refused() -> None:
    assert shape("1x28x28") == (1, 28, 28)
    assert shape("") == ()
    with pytest.raises(UseError, match="'1x0' is no shape of a sample"):
        shape("1x0")


def test_what_is_set_is_laid_over_the_recipe(tmp_path: Path) -> None:
    said = settings({"model": "mlp", "set": "training.epochs=2 plan.policy=fixed", "policy": "lookup"})
    config = _config(said, tmp_path / "run")
    assert config.overrides == overrides(["training.epochs=2", "plan.policy=fixed"])
    assert config.policy == "lookup"


def test_a_run_that_is_there_goes_on_as_it_began_for_as_many_rounds_as_said_now(tmp_path: Path) -> None:
    begun = _config(settings({"model": "mlp", "seed": 3, "input-shape": "1x8x8", "classes": 10}), tmp_path / "run")
    (tmp_path / "run").mkdir()
    begun.save()
    again = _config(settings({"model": "cnn", "rounds": 9}), tmp_path / "run")
    assert (again.model, again.seed, again.rounds, again.input_shape) == ("mlp", 3, 9, (1, 8, 8))


@pytest.fixture
def shard(tmp_path: Path) -> str:
    path = tmp_path / "device-07.npz"
    path.write_bytes(b"x")
    return str(path)


def test_a_node_says_itself_what_it_is(shard: str) -> None:
    node = {"data": shard, "name": "kitchen-pi", "memory": "300MiB", "state": "/var/lib/pleat", "threads": 2}
    found = device_config(node, {"holdout": 0.3, "threads": 9, "state": "/elsewhere"}, NOWHERE)
    assert (found.name, found.memory, found.threads) == ("kitchen-pi", 300 * 2**20, 2)
    assert (found.state, found.holdout) == (Path("/var/lib/pleat"), 0.3)


def test_a_partition_finds_its_shard_and_its_state_in_the_runs_folders(shard: str, tmp_path: Path) -> None:
    run = {"shards": str(tmp_path), "state": str(tmp_path / "states"), "holdout": 0.0, "threads": 1}
    found = device_config({"partition-id": 7, "num-partitions": 10}, run, NOWHERE)
    assert (found.name, found.data) == ("device-007", Path(shard))
    assert (found.state, found.threads) == (tmp_path / "states" / "device-007", 1)


def test_the_nodes_own_file_wins_over_the_run_config_and_the_node_config_over_both(shard: str, tmp_path: Path) -> None:
    file = tmp_path / "client.toml"
    file.write_text('data = "device-07.npz"\nname = "pi"\nholdout = 0.2\nthreads = 3\n')
    found = device_config({"threads": 4}, {"holdout": 0.5, "threads": 5}, file)
    assert (found.name, found.data, found.holdout, found.threads) == ("pi", Path(shard), 0.2, 4)


@pytest.mark.parametrize(
    ("node", "run", "line"),
    [
        ({}, {}, "this node names no data; start it with --node-config 'data="),
        ({"dta": "x"}, {}, "--node-config of the SuperNode: unknown key 'dta'; did you mean 'data'?"),
        ({"data": "nope.npz"}, {}, "data: there is no file nope.npz; make shards with: pleat shards"),
        ({"partition-id": 3}, {"shards": "/nowhere"}, "data: there is no file /nowhere/device-3.npz"),
        ({"data": __file__, "name": "a b"}, {}, "name: 'a b' is no device name"),
        ({"data": __file__, "holdout": 2.0}, {}, "holdout: 2.0 is no share"),
        ({"config": "/nowhere.toml"}, {}, "settings /nowhere.toml: cannot be read"),
    ],
)
def test_a_mistake_in_a_nodes_config_is_one_line(node: dict[str, Any], run: dict[str, Any], line: str) -> None:
    with pytest.raises(UseError) as told:
        device_config(node, run, NOWHERE)
    assert line in str(told.value)
    assert "\n" not in str(told.value)
