"""Our ServerApp on a foreign grid: asks devices what it is not told, goes on with a run, leaves nothing half-begun."""

from __future__ import annotations

import json
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import Context, RecordDict

from pleat.errors import PleatError
from pleat.exchange.flower import settings
from pleat.shard import write
from pleat_client.flower_app import app
from pleat_client.lock import turn
from pleat_client.store import Store
from pleat_server.flower_app import run, server_app
from support.digits import digit_shards
from support.flower import LocalGrid
from support.processes import rounds_in


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def nodes(tmp_path: Path) -> dict[int, dict[str, Any]]:
    made = {}
    for number, part in enumerate(digit_shards(2)[0]):
        write(tmp_path / f"{number}.npz", part)
        state = str(tmp_path / f"state-{number}")
        made[number + 1] = {"data": str(tmp_path / f"{number}.npz"), "name": f"d{number}", "state": state, "threads": 1}
    return made


def test_a_run_asks_the_devices_for_their_shape_and_goes_on_where_it_stopped(
    tmp_path: Path, nodes: dict[int, dict[str, Any]]
) -> None:
    folder = tmp_path / "run"
    said = {"model": "mlp", "folder": str(folder), "least": 2}
    run(LocalGrid(app, nodes, {}), settings({**said, "rounds": 1}), 7)
    assert json.loads((folder / "run.json").read_text())["input_shape"] == [1, 8, 8]
    summary = run(LocalGrid(app, nodes, {}), settings({**said, "rounds": 3}), 8)
    assert [line["round"] for line in rounds_in(folder)] == [1, 2, 3]
    assert summary["rounds"] == 3
    assert (folder / "model.safetensors").exists()
    for number in (0, 1):
        past = Store(tmp_path / f"state-{number}").past("run")
        assert {p.order_id.round: p.fate for p in past} == {2: "acked", 3: "staged"}


def test_while_it_waits_it_says_which_node_cannot_take_part(
    tmp_path: Path, nodes: dict[int, dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    nodes[3] = {"data": str(tmp_path / "gone.npz"), "name": "d2"}
    run(LocalGrid(app, nodes, {}), settings({"model": "mlp", "folder": str(tmp_path / "run"), "rounds": 1}), 7)
    assert f"SuperNode 3: data: there is no file {tmp_path}/gone.npz; make shards with" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "line"),
    [
        ({"model": "mlpp"}, "unknown net 'mlpp'; did you mean 'mlp'?"),
        ({"recipe": "elastik"}, "did you mean 'elastic'?"),
        ({"set": "training.epoch=2"}, "did you mean 'epochs'?"),
        ({"set": "training"}, "expected KEY=VALUE"),
        ({"data": "gone.npz"}, "no shard file"),
        ({"input-shape": "1x2x"}, "is no shape of a sample"),
        ({"model": "cnn", "input-shape": "1x1x1"}, "at least 4x4, got 1x1x1"),
        ({"modle": "mlp"}, "run config: unknown key 'modle'; did you mean 'model'?"),
    ],
)
def test_what_cannot_begin_is_one_line_and_leaves_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: dict[str, Any], line: str
) -> None:
    monkeypatch.setattr(sys, "tracebacklimit", 1000, raising=False)  # Flower logs the error with its traceback
    config = {"model": "mlp", "folder": str(tmp_path / "run"), "input-shape": "1x8x8", "classes": 10, **more}
    context = Context(7, 1, {}, RecordDict(), config)
    with pytest.raises(PleatError) as told:
        server_app()(LocalGrid(app, {}, {}), context)
    assert line in str(told.value)
    assert "\n" not in str(told.value)
    assert not (tmp_path / "run").exists()
    assert sys.tracebacklimit == 0


def test_messages_for_one_device_take_turns(tmp_path: Path) -> None:
    done = []

    def second() -> None:
        with turn(tmp_path):
            done.append("second")

    with turn(tmp_path):
        waiting = threading.Thread(target=second)
        waiting.start()
        waiting.join(0.2)
        done.append("first")
    waiting.join(30)
    assert done == ["first", "second"]
