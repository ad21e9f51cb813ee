"""Scoring on the server: the same numbers as the net itself gives, whole and cut; and the benchmark harness."""

from __future__ import annotations

import importlib
import json
import pkgutil
from pathlib import Path

import numpy as np
import pytest
import torch

from pleat.elastic.choosers import Draw, choose
from pleat.elastic.selection import WHOLE, extract
from pleat.errors import UseError
from pleat.nets.build import build, initial, spec
from pleat.nets.shrink import load, shrink
from pleat.nets.trace import model_map
from pleat.shard import Shard
from pleat_client.trainer import score
from pleat_server import bench
from pleat_server.bench.demo import means
from pleat_server.evaluate import KEPT_MODULES, Evaluator

NET = spec("mlp", (1, 8, 8), 10)
MODEL = model_map(NET)
PARAMS = initial(NET, 0)


def shard(count: int = 50) -> Shard:
    rng = np.random.default_rng(1)
    return Shard(rng.random((count, 1, 8, 8), np.float32), rng.integers(0, 10, count))


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.mark.parametrize("width", [1.0, 0.5, 0.125])
def test_a_submodel_scores_as_the_smaller_net_itself_does(width: float) -> None:
    selection = choose("prefix", MODEL, width, Draw(0, 0, "", None))
    module = shrink(build(NET.factory, NET.arguments), MODEL, selection).eval()
    load(module, extract(MODEL, selection, PARAMS))
    data = shard()
    with torch.no_grad():
        logits = module(torch.from_numpy(data.x))
        loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(data.y), reduction="sum")
    expected = (int((logits.argmax(1).numpy() == data.y).sum()), len(data), float(loss))
    assert Evaluator(NET, MODEL, data)(PARAMS, selection) == pytest.approx(expected, rel=1e-5)


def test_batches_of_any_size_give_the_same_score() -> None:
    whole, small = (Evaluator(NET, MODEL, shard(), batch=b)(PARAMS) for b in (50, 7))
    assert small == pytest.approx(whole, rel=1e-5)


def test_the_last_scored_model_leaves_nothing_behind() -> None:
    evaluate = Evaluator(NET, MODEL, shard())
    first = evaluate(PARAMS)
    evaluate({name: a + 1 for name, a in PARAMS.items()})
    assert evaluate(PARAMS) == first


def test_only_so_many_shrunk_modules_are_kept() -> None:
    evaluate = Evaluator(NET, MODEL, shard(2))
    for seed in range(KEPT_MODULES + 3):
        evaluate(PARAMS, choose("random", MODEL, 0.5, Draw(seed, 0, "a", None)))
    assert len(evaluate._modules) == KEPT_MODULES


def test_test_data_that_does_not_fit_the_net_is_refused_by_name() -> None:
    with pytest.raises(UseError, match=r"test\.npz: samples have shape \(1, 4, 4\)"):
        Evaluator(NET, MODEL, Shard(np.zeros((3, 1, 4, 4), np.float32), np.zeros(3, np.int64)), where="test.npz")
    with pytest.raises(UseError, match="labels go up to 11"):
        Evaluator(NET, MODEL, Shard(np.zeros((3, 1, 8, 8), np.float32), np.array([0, 1, 11])))


@pytest.mark.parametrize("name", [*bench.NAMES, *bench.LONG])
def test_every_benchmark_on_the_list_can_be_run(name: str) -> None:
    assert callable(importlib.import_module(f"pleat_server.bench.{name}").run)


def test_every_benchmark_is_on_the_list() -> None:
    found = {m.name for m in pkgutil.iter_modules(bench.__path__) if not m.name.startswith("_")}
    assert {n for n in found if hasattr(importlib.import_module(f"pleat_server.bench.{n}"), "run")} == {
        *bench.NAMES,
        *bench.LONG,
    }


def test_a_benchmark_leaves_a_flat_file_that_names_the_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = importlib.import_module("pleat_server.bench.codec")
    monkeypatch.setattr(module, "run", lambda: {"encode_mb_per_s": 812.5, "n": 5})
    bench.run_one("codec", tmp_path / "new")
    found = json.loads((tmp_path / "new" / "codec.json").read_bytes())
    assert found == {"encode_mb_per_s": 812.5, "n": 5, "machine": found["machine"]}
    assert "cores" in found["machine"]
    assert "812.5" in capsys.readouterr().out


def test_means_over_seeds_are_per_size_with_the_worst_seed_and_bytes_both_ways() -> None:
    runs = [
        {"accuracy": a, "fedavg_accuracy": 0.97, "accuracy_by_size": {"1": a, "0.5": a - 0.01}, "wall_s": w,
         "bytes_up": 100, "bytes_down": 300, "dense_bytes_up": 8000, "dense_bytes_down": 8000}
        for a, w in ((0.96, 10.0), (0.98, 30.0), (0.97, 20.0))
    ]  # fmt: skip
    found = means(runs)
    assert found["accuracy"] == pytest.approx(0.97)
    assert found["accuracy_at_0.5"] == pytest.approx(0.96)
    assert (found["accuracy_worst_seed"], found["fewer_bytes"], found["wall_s"]) == (0.96, 40.0, 20.0)


def test_of_several_exits_the_deepest_answers_or_the_mean_of_all() -> None:
    net = spec("mlp", (1, 8, 8), 10, exits=2)
    model, params, data = model_map(net), initial(net, 0), shard()
    module = build(net.factory, net.arguments).eval()
    load(module, params)
    with torch.no_grad():
        near, far = module(torch.from_numpy(data.x))
    labels = torch.from_numpy(data.y)

    def expected(logits: torch.Tensor) -> tuple[int, int, float]:
        loss = torch.nn.functional.cross_entropy(logits, labels, reduction="sum")
        return int((logits.argmax(1) == labels).sum()), len(data), pytest.approx(float(loss), rel=1e-5)

    shallow = choose("depth-prefix", model, 0.5, Draw())
    assert Evaluator(net, model, data)(params) == expected(far)
    assert Evaluator(net, model, data, ensemble=True)(params) == expected((near + far) / 2)
    for ensemble in (False, True):
        assert Evaluator(net, model, data, ensemble=ensemble)(params, shallow) == expected(near)
        assert score(net, model, shallow, extract(model, shallow, params), data, ensemble=ensemble) == expected(near)
    assert score(net, model, WHOLE, params, data) == expected(far)
    assert score(net, model, WHOLE, params, data, ensemble=True) == expected((near + far) / 2)
