"""The server is stopped after each durable step and resumed: the model is bit-identical to the undisturbed run's."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from pleat.params import Params
from pleat_server import app
from pleat_server.config import RunConfig
from pleat_server.keep.journal import Journal
from pleat_server.simulate.grid import VirtualDevice
from support.digits import digit_shards

ROUNDS = 3
STEPS = ["plan", "spool", "acknowledge", "fold", "checkpoint", "journal", "drop"]


class Stopped(BaseException):
    """The server's process is gone."""


class StopAt:
    """Stops the server at the n-th time it is about to take the step `name`."""

    def __init__(self, name: str, nth: int) -> None:
        self.name, self.left = name, nth

    def __call__(self, name: str) -> None:
        if name == self.name:
            self.left -= 1
            if self.left == 0:
                raise Stopped(name)


def fleet() -> tuple[list[VirtualDevice], object]:
    parts, test = digit_shards(3)
    return app.virtual_devices(parts), test


def config(folder: Path) -> RunConfig:
    return RunConfig("elastic", "mlp", folder / "run", rounds=ROUNDS, policy="fixed", input_shape=(1, 8, 8), classes=10)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Params:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("undisturbed")
    devices, test = fleet()
    app.simulate(config(folder), devices, test)  # type: ignore[arg-type]
    return load_file(folder / "run" / "model.safetensors")


@pytest.mark.parametrize("nth", [1, 2, 3])
@pytest.mark.parametrize("name", STEPS)
def test_a_server_stopped_at_any_step_ends_with_the_same_bits(
    name: str, nth: int, undisturbed: Params, tmp_path: Path
) -> None:
    devices, test = fleet()
    with pytest.raises(Stopped):
        app.simulate(config(tmp_path), devices, test, step=StopAt(name, nth))  # type: ignore[arg-type]
    app.simulate(config(tmp_path), devices, test)  # type: ignore[arg-type]

    model = load_file(tmp_path / "run" / "model.safetensors")
    assert all(np.array_equal(model[n], undisturbed[n]) for n in undisturbed)
    lines = Journal.read(tmp_path / "run" / "journal.jsonl")
    assert [line["round"] for line in lines] == list(range(1, ROUNDS + 1))
    folded = Counter((line["round"], d["name"]) for line in lines for d in line["devices"] if d["outcome"] == "done")
    assert set(folded.values()) == {1}
    assert len(folded) == ROUNDS * len(devices)


@pytest.mark.parametrize("name", ["fold", "checkpoint"])
def test_bytes_that_an_interrupted_sitting_moved_stand_in_the_journal(name: str, tmp_path: Path) -> None:
    def moved(run: Path) -> list[tuple[int, int]]:
        return [(line["bytes_up"], line["bytes_down"]) for line in Journal.read(run / "run" / "journal.jsonl")]

    for folder in ("whole", "stopped"):
        devices, test = fleet()
        if folder == "stopped":
            with pytest.raises(Stopped):
                app.simulate(config(tmp_path / folder), devices, test, step=StopAt(name, 2))  # type: ignore[arg-type]
        app.simulate(config(tmp_path / folder), devices, test)  # type: ignore[arg-type]
    assert moved(tmp_path / "stopped") == moved(tmp_path / "whole")


def test_a_report_folded_twice_would_change_the_bits(undisturbed: Params, tmp_path: Path) -> None:
    """The negative control: a device that forgets what it staged trains and reports again, and the model differs."""
    devices, test = fleet()
    with pytest.raises(Stopped):
        app.simulate(config(tmp_path), devices, test, step=StopAt("journal", 1))  # type: ignore[arg-type]
    devices[0].state = type(devices[0].state)()
    app.simulate(config(tmp_path), devices, test)  # type: ignore[arg-type]
    model = load_file(tmp_path / "run" / "model.safetensors")
    assert any(not np.array_equal(model[n], undisturbed[n]) for n in undisturbed)


def test_a_device_that_lost_its_store_is_sent_the_whole_submodel_in_the_same_round(tmp_path: Path) -> None:
    devices, test = fleet()
    with pytest.raises(Stopped):
        app.simulate(config(tmp_path), devices, test, step=StopAt("journal", 1))  # type: ignore[arg-type]
    devices[0].state = type(devices[0].state)()
    heard: list[str] = []
    app.simulate(config(tmp_path), devices, test, watch=lambda e: heard.append(e.get("text", "")))  # type: ignore[arg-type]
    lines = Journal.read(tmp_path / "run" / "journal.jsonl")
    assert all(d["outcome"] == "done" for line in lines for d in line["devices"])
    assert sum("sending the whole submodel" in text for text in heard) == 1


def test_a_damaged_checkpoint_falls_back_to_the_one_before_and_says_so(tmp_path: Path) -> None:
    devices, test = fleet()
    app.simulate(config(tmp_path), devices, test)  # type: ignore[arg-type]
    newest = max((tmp_path / "run" / "checkpoint").glob("*.safetensors"))
    newest.write_bytes(newest.read_bytes()[:-9])
    heard: list[str] = []
    app.simulate(config(tmp_path), devices, test, watch=lambda e: heard.append(e.get("text", "")))  # type: ignore[arg-type]
    assert any("checkpoint of round 3 passed over" in text for text in heard)
    lines = Journal.read(tmp_path / "run" / "journal.jsonl")
    assert [line["round"] for line in lines] == [1, 2, 3]
    assert all(d["outcome"] == "done" for line in lines for d in line["devices"])
