"""Exported submodels: what the run scores, what `pleat eval` scores, and what the file computes are one thing."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from pleat.elastic.selection import extract
from pleat.errors import LocalError, UseError
from pleat.nets.exported import load_exported, read_exported
from pleat.shard import write
from pleat_server import export as exporting
from pleat_server.cli import main
from pleat_server.config import RunConfig
from pleat_server.exported import opened, score_run
from pleat_server.held_out import scored_on
from support.digits import digit_shards
from support.methods import simulate

torch.set_num_threads(1)
ONNX = [pytest.param("onnx", marks=pytest.mark.skipif(
    any(importlib.util.find_spec(p) is None for p in ("onnx", "onnxscript", "onnxruntime")),
    reason="ONNX is not installed; type: pip install -c constraints.txt '.[export]'",
))]  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a net with blocks and norms, begun by the command, so that its test data can be made again."""
    folder = tmp_path_factory.mktemp("runs") / "r"
    words = ["simulate", "--recipe", "heterofl", "--model", "resnet6", "--devices", "3", "--folder", str(folder)]
    assert main([*words, "--rounds", "1", "--set", "training.epochs=1"]) == 0
    return folder


def exported(run: Path, *words: str, code: int = 0) -> dict[str, Any]:
    out = run.parent / "out.json"
    program = [sys.executable, "-m", "pleat_server.cli", "export", str(run), "--json", *words]
    with out.open("w") as file:
        done = subprocess.run(program, stdout=file, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == code, done.stderr
    return dict(json.loads(out.read_text())) if code == 0 else {"said": done.stderr}


# recipe -> a setting at which its submodel is not what the chooser alone would make of today's weights
SCORED: dict[str, dict[str, Any]] = {
    "heterofl": {},
    "elastic": {},
    "elf": {"holds": {"densities": [1.0], "crossed": False}, "rule": {"score": "size"}},
    "fedrolex": {},
    "federated-dropout": {},
    "all-small": {},
    "fiarse": {},
    "fedmp-prune": {},
    "feddst": {},
    "fedsparsify": {},
    "complement": {},
    "prunefl": {"rule": {"reconfigure": 2}},
}


@pytest.mark.parametrize("recipe", SCORED)
def test_eval_scores_every_size_as_the_round_did(recipe: str, tmp_path: Path) -> None:
    ran = simulate(tmp_path / "run", recipe, **SCORED[recipe])
    write(tmp_path / "test.npz", digit_shards(3)[1])
    sizes = ran.lines[-1]["accuracy_by_size"]
    found = {w: score_run(tmp_path / "run", tmp_path / "test.npz", w)["accuracy"] for w in sizes}
    assert found == sizes


def test_a_size_of_several_rates_is_opened_by_the_name_that_the_run_gives_it(tmp_path: Path) -> None:
    simulate(tmp_path / "run", "elf", model="resnet6")
    run = opened(tmp_path / "run")
    for rung, selection in run.setup.sizes.items():
        assert run.submodel(rung.label if rung.label != "1" else "depth 1") == selection
    assert len({run.submodel(rung.label).digest for rung in run.setup.sizes}) > 4


def test_the_mask_that_a_run_keeps_is_exported_with_it(tmp_path: Path) -> None:
    simulate(tmp_path / "run", "prunefl", rule={"reconfigure": 2})
    facts = exporting.export(tmp_path / "run", "0.3", (), "safetensors", None, None)
    masks = opened(tmp_path / "run").state.extras["mask"]
    found = read_exported(facts["file"])
    assert facts["masked"]
    assert len(found.masks) == 64
    for name, mask in masks.items():
        assert not found.params[name][mask == 0].any()
        assert found.params[name].any()
    assert facts["parameters"] < 0.5 * facts["of_parameters"]


@pytest.mark.parametrize("name", ["safetensors", "torch-export", *ONNX])
def test_a_submodel_of_any_rate_and_depth_scores_as_eval_does_and_is_checked(name: str, run: Path) -> None:
    facts = exported(run, "--rate", "0.6", "--depth", "2,1,1", "--format", name)
    assert facts["depth"] == [2, 1, 1]
    assert facts["checked"] == 64
    assert facts["checked_on"] == "test data"
    assert facts["difference"] < 1e-5
    assert facts["batch"] == "any"
    scored = score_run(run, None, "0.6", (2, 1, 1))
    assert [facts[k] for k in ("accuracy", "loss", "samples")] == [scored[k] for k in ("accuracy", "loss", "samples")]
    assert facts["macs"] < 0.6 * facts["of_macs"]


def test_a_safetensors_file_is_the_submodels_own_tensors_and_makes_the_same_net(run: Path, tmp_path: Path) -> None:
    facts = exporting.export(run, "0.5", (1, 2, 1), "safetensors", tmp_path / "new" / "s.safetensors", None)
    again = exporting.export(run, "0.5", (1, 2, 1), "safetensors", tmp_path / "t.safetensors", None)
    assert Path(facts["file"]).read_bytes() == Path(again["file"]).read_bytes()
    at = opened(run)
    selection = at.submodel("0.5", (1, 2, 1))
    own = extract(at.setup.model, selection, at.state.evaluated)
    held = load_file(facts["file"])
    assert held.keys() == own.keys()
    assert all(np.array_equal(held[n], own[n]) for n in own)
    net = load_exported(facts["file"])
    assert not net.training
    assert sum(p.numel() for p in net.parameters()) == facts["parameters"]
    assert sum(p.numel() for p in load_exported(run / "model.safetensors").parameters()) == facts["of_parameters"]


@pytest.mark.parametrize("name", ["safetensors", "torch-export"])
def test_a_submodel_with_exits_is_exported_with_those_it_has(name: str, tmp_path: Path) -> None:
    exits = {"holds": {"exits": 3, "widths": [1.0, 0.66, 0.33]}, "rule": {"chooser": "depth-prefix"}}
    simulate(tmp_path / "run", "fedavg", 1, model="resnet6", **exits, objective={"name": "exits"})
    facts = exporting.export(tmp_path / "run", "0.66", (1, 1, 1), name, None, None)
    assert facts["depth"] == [1, 1, 0]  # the deepest exit and its stage are not of this size
    assert facts["difference"] < 1e-5
    if name == "safetensors":
        assert len(load_exported(facts["file"])(torch.zeros(2, 1, 8, 8))) == 2


ALONE = """
import json, sys
import numpy as np
for name in ("pleat", "pleat_server", "pleat_client"):
    sys.modules[name] = None  # whoever imports it fails
import torch
net = torch.export.load(sys.argv[1]).module()
x = torch.from_numpy(np.load(sys.argv[2]))
print(json.dumps([net(x).tolist(), net(x[:1]).tolist()]))
"""


def test_a_torch_export_file_runs_in_a_process_without_pleat(run: Path, tmp_path: Path) -> None:
    facts = exporting.export(run, "0.5", (2, 1, 1), "torch-export", tmp_path / "s.pt2", None)
    x = np.random.default_rng(0).random((5, 1, 8, 8), np.float32)
    np.save(tmp_path / "x.npy", x)
    words = [sys.executable, "-c", ALONE, facts["file"], str(tmp_path / "x.npy")]
    done = subprocess.run(words, capture_output=True, text=True, check=True, cwd=tmp_path)
    exporting.export(run, "0.5", (2, 1, 1), "safetensors", tmp_path / "s.safetensors", None)
    with torch.no_grad():
        expected = load_exported(tmp_path / "s.safetensors")(torch.from_numpy(x)).numpy()
    many, one = json.loads(done.stdout)
    assert np.allclose(many, expected, atol=1e-5)
    assert np.allclose(one, expected[:1], atol=1e-5)


REFUSED = [
    (["--rate", "0"], "size '0': expected a rate in (0, 1]"),
    (["--rate", "1.5"], "size '1.5': expected a rate"),
    (["--depth", "2,2"], "depth 2,2: expected blocks to keep in each of 3 stages, from 1 to 2,2,2"),
    (["--depth", "2,x,1"], "--depth 2,x,1: expected how many blocks"),
    (["--format", "onyx"], "unknown format 'onyx'; did you mean 'onnx'?"),
    (["--data", "gone.npz"], "no shard file gone.npz"),
    (["--out", "/"], "--out / is a folder; name the file to write in it"),
    (["--out", __file__ + "/x.pt2"], "is a file; name a file in a folder"),
]


@pytest.mark.parametrize(("words", "said"), REFUSED, ids=[" ".join(w)[:16] for w, _ in REFUSED])
def test_what_cannot_be_exported_is_one_line_and_leaves_nothing(
    words: list[str], said: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(run.iterdir())
    capsys.readouterr()
    assert main(["export", str(run), *words]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert said in captured.err
    assert sorted(run.iterdir()) == before


def test_a_folder_that_holds_no_run_or_no_round_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(tmp_path)]) == 2
    assert "holds no run (no run.json)" in capsys.readouterr().err
    simulate(tmp_path / "run", "fedavg", 1)
    for path in (tmp_path / "run" / "checkpoint").iterdir():
        path.unlink()
    assert main(["export", str(tmp_path / "run")]) == 2
    assert "has no checkpoint yet: no round was finished; go on with `pleat resume" in capsys.readouterr().err


def test_without_onnx_one_line_says_what_to_type(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UseError, match=r"needs onnx, onnxscript, onnxruntime; .* '\.\[export\]'$"):
        exporting.export(run, "1.0", (), "onnx", None, None)


def test_accuracy_is_unknown_where_the_test_data_cannot_be_made_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    simulate(tmp_path / "run", "fedavg", 1)  # by a program, so that nothing tells of its data
    assert main(["export", str(tmp_path / "run")]) == 0
    out = capsys.readouterr().out
    assert "test accuracy unknown: the run keeps no test data of its own; give --data FILE.npz" in out
    assert "checked on 64 samples (random numbers from 0 to 1), largest difference 0" in out
    assert main(["eval", str(tmp_path / "run")]) == 2
    assert "nothing to score" in capsys.readouterr().err


def test_a_file_that_computes_something_else_is_not_put_in_place(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "s.safetensors"
    out.write_bytes(b"what was there")
    right = exporting.FORMATS["safetensors"]

    def wrong(path: Path) -> Any:
        net = right.run(path)
        return lambda x: net(x) + 0.01

    monkeypatch.setattr(exporting, "FORMATS", {"safetensors": replace(right, run=wrong)})
    with pytest.raises(LocalError, match=r"was not written: loaded again, its outputs differ .* by up to 0\.01"):
        exporting.export(run, "0.5", (), "safetensors", out, None)
    assert out.read_bytes() == b"what was there"
    assert list(tmp_path.iterdir()) == [out]


def test_a_file_of_another_version_of_the_net_or_of_no_net_is_refused(run: Path, tmp_path: Path) -> None:
    facts = exporting.export(run, "0.5", (), "safetensors", tmp_path / "s.safetensors", None)
    data = Path(facts["file"]).read_bytes()
    digest = opened(run).setup.model.digest.hex().encode()
    other = tmp_path / "other.safetensors"
    other.write_bytes(data.replace(digest, digest[::-1]))
    with pytest.raises(UseError, match="is not the version here that it was exported from"):
        load_exported(other)
    other.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(LocalError, match="do not have the digest they were written with"):
        load_exported(other)
    other.write_bytes(data.replace(b"factory", b"fabrica"))
    with pytest.raises(UseError, match="does not say of what net it is"):
        load_exported(other)


def test_a_run_beside_another_is_scored_on_the_others_test_data(run: Path) -> None:
    """As FedAvg beside a demo is."""
    own, _ = scored_on(RunConfig.load(run), None)
    beside, where = scored_on(RunConfig("fedavg", "mlp", run / "fedavg", carried="beside"), None)
    assert own is not None
    assert beside is not None
    assert np.array_equal(own.x, beside.x)
    assert where == "the run's own test data"
    gone = replace(RunConfig.load(run), data=run / "gone.npz")
    assert scored_on(gone, None) == (None, f"the run's own test data are gone: no shard file {run}/gone.npz; make one "
                                           f"with `pleat shards SOURCE --devices N`")  # fmt: skip
