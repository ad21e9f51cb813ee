"""Runs of nets with exits: depth classes by budget, what each trains and is scored by, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from pleat.errors import UseError
from pleat.exchange.report import Budgets
from pleat.nets.build import spec
from pleat.nets.trace import model_map
from pleat.shard import write
from pleat_server.cli import main
from support.digits import digit_shards
from support.methods import away, simulate
from support.processes import Processes, free_port, rounds_in, until

torch.set_num_threads(1)

SMALL = Budgets(upload_bytes=110_000)  # of the mlp with two exits: one of 77 kB fits, both of 216 kB do not


def test_a_device_of_a_shallow_class_moves_nothing_beyond_its_exit(tmp_path: Path) -> None:
    before = simulate(tmp_path / "none", "depthfl", 1, budgets=[SMALL] * 3)
    after = simulate(tmp_path / "more", "depthfl", 2, budgets=[SMALL] * 3)
    deep = [n for n in after.params if n.startswith(("blocks.1", "heads.1"))]
    assert len(deep) == 4
    assert all(np.array_equal(before.params[n], after.params[n]) for n in deep)
    assert all(not np.array_equal(before.params[n], after.params[n]) for n in set(after.params) - set(deep))
    assert all(set(d.state.sets["drift"]) == set(after.params) - set(deep) for d in after.devices)


def test_every_class_is_scored_and_the_whole_net_by_all_its_exits(tmp_path: Path) -> None:
    mixed = {"budgets": [SMALL, Budgets(), Budgets()], "holdout": 0.2, "training": {"momentum": 0.9}}
    ran = simulate(tmp_path / "run", "depthfl", 4, **mixed)
    assert set(ran.summary["accuracy_by_size"]) == {"1", "depth 0.5"}
    assert ran.summary["accuracy"] == ran.summary["accuracy_by_size"]["1"]
    assert min(ran.summary["accuracy_by_size"].values()) > 0.5
    lone = simulate(tmp_path / "lone", "depthfl", 4, **mixed, objective={"ensemble": False})
    assert lone.summary["accuracy_by_size"]["1"] != ran.summary["accuracy_by_size"]["1"]
    assert away(lone.params, ran.params) == 0


@pytest.mark.parametrize(("net", "exits", "depths"), [("resnet8", 3, 3), ("resnet6", 4, 4)])
def test_residual_nets_run_with_an_exit_a_class(net: str, exits: int, depths: int, tmp_path: Path) -> None:
    ran = simulate(tmp_path / "run", "depthfl", 1, model=net)
    assert len(ran.summary["accuracy_by_size"]) == depths
    assert set(ran.params) == {t.name for t in model_map(spec(net, (1, 8, 8), 10, exits)).tensors}


def test_a_level_of_scalefl_is_a_width_and_an_exit_together(tmp_path: Path) -> None:
    ran = simulate(tmp_path / "run", "scalefl", 1, model="resnet6")
    assert list(ran.summary["accuracy_by_size"]) == [
        "1",
        "width 0.75 depth 0.75",
        "width 0.7 depth 0.5",
        "width 0.7 depth 0.25",
    ]
    before = simulate(tmp_path / "one", "scalefl", 1, budgets=[SMALL] * 3)
    after = simulate(tmp_path / "two", "scalefl", 2, budgets=[SMALL] * 3)
    moved = {n: (before.params[n] != after.params[n]) for n in after.params}
    assert moved["blocks.0.0.weight"][:180].any(1).mean() > 0.9
    assert not moved["blocks.0.0.weight"][180:].any()
    assert not any(moved[n].any() for n in moved if n.startswith(("blocks.1", "heads.1")))


def test_the_round_number_reaches_the_ramp(tmp_path: Path) -> None:
    """Distillation of full strength from the first round on leads elsewhere than one that has only begun."""
    runs = [
        simulate(tmp_path / str(ramp), "depthfl", 1, objective={"settings": {"distil": 1.0, "ramp": ramp}})
        for ramp in (1, 30, 1e9)
    ]
    off = simulate(tmp_path / "off", "depthfl", 1, objective={"settings": {"distil": 0.0}})
    assert away(runs[0].params, off.params) > away(runs[1].params, off.params) > 0
    assert away(runs[1].params, runs[2].params) > 0


def test_a_net_that_cannot_have_exits_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(UseError, match="net cnn: cannot be built with 4 exits, its factory takes no keyword exits"):
        simulate(tmp_path / "run", "depthfl", 1, model="cnn")
    assert not (tmp_path / "run").exists()


def test_on_the_command_line_that_is_one_line_and_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = ["--folder", str(tmp_path / "run")]
    assert main(["simulate", "--recipe", "depthfl", "--model", "caldas", "--devices", "2", *run]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "cannot be built with 4 exits" in told
    assert main(["simulate", "--recipe", "depthfl", "--model", "resnet8", "--set", "holds.exits=7", *run]) == 2
    assert (
        "exits of resnet8 must be a whole number from 0 (one head, as without) to 3, got 7" in capsys.readouterr().err
    )
    assert not (tmp_path / "run").exists()


NET = "support.early:build"
DEEP = {"exits": 3, "depths": [1.0, 0.67, 0.34]}


@pytest.fixture
def processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Processes]:
    """Server and devices that can import the net."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent.parent), prepend=":")
    parts, test = digit_shards(3)
    for number, part in enumerate(parts):
        write(tmp_path / f"device-{number:03d}.npz", part)
    write(tmp_path / "test.npz", test)
    started = Processes(tmp_path)
    yield started
    started.stop()


def test_a_net_of_ones_own_with_exits_is_served_to_real_devices_that_keep_their_drift_when_restarted(
    processes: Processes, tmp_path: Path
) -> None:
    """The same model as in one process: exits, objective, round number and drift all reached the devices."""
    address, run = f"127.0.0.1:{free_port()}", processes.folder / "run"
    serve = ["serve", "--model", NET, "--recipe", "depthfl", "--listen", address, "--data", "test.npz"]
    serve += ["--folder", "run", "--least", "3", "--rounds", "1", "--set", "training.momentum=0.0"]
    serve += ["--set", "training.epochs=1", "--set", "holds.exits=3", "--set", "holds.depths=[1.0, 0.67, 0.34]"]
    for words in (serve, ["resume", "run", "--rounds", "3"]):
        before = processes.log("server").count("listening on")
        server = processes.server(*words)
        until(lambda before=before: processes.log("server").count("listening on") > before, "the server to listen")
        for number in range(3):
            name = f"device-{number:03d}"
            processes.device(name, address, processes.folder / f"{name}.npz", "--holdout", "0")
        assert server.wait(timeout=120) == 0, processes.log("server")
        processes.stop()
    assert [[d["outcome"] for d in line["devices"]] for line in rounds_in(run)] == [["done"] * 3] * 3
    ran = simulate(tmp_path / "alike", "depthfl", 3, model=NET, holds=DEEP)
    assert away(load_file(run / "model.safetensors"), ran.params) < 1e-6
    assert all("drift" in d.state.sets for d in ran.devices)
