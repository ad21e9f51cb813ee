"""The demo as people start it: what it shows and leaves, and that its daemons end with it, however it ends."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from PIL import Image

from pleat.errors import UseError
from pleat_server.config import RunConfig
from pleat_server.demo import WIDTHS, afford, offered, widths
from pleat_server.keep.journal import Journal
from support.processes import until

COMMAND = [sys.executable, "-m", "pleat_server.cli", "demo"]
SUMMARY = {"accuracy", "fedavg_accuracy", "accuracy_by_size", "rounds", "wall_s", "bytes_up", "bytes_down",
           "dense_bytes_up", "dense_bytes_down", "devices", "model", "seed", "folder"}  # fmt: skip


def config(model: str, recipe: str = "elastic") -> RunConfig:
    return RunConfig(recipe, model, Path("unused"), input_shape=(1, 8, 8), classes=10)


@pytest.mark.parametrize("model", ["mlp", "cnn"])
def test_each_budget_affords_just_its_own_width(model: str) -> None:
    rows = offered(config(model))
    for width, budget in zip(WIDTHS, afford(rows, WIDTHS), strict=True):
        assert budget.upload_bytes is not None
        assert max(r.rung.width for r in rows if r.up_bytes <= budget.upload_bytes) == width


def test_a_budget_for_a_width_that_is_not_on_offer_is_refused() -> None:
    with pytest.raises(UseError, match=r"width 0\.3 is not on offer"):
        afford(offered(config("mlp")), [0.3])
    with pytest.raises(UseError, match="commas between"):
        widths("1;2")
    assert widths("1,0.5") == (1.0, 0.5)


def test_the_demo_trains_four_classes_of_device_and_leaves_its_findings(tmp_path: Path) -> None:
    words = ["--rounds", "4", "--seed", "3", "--json", "out.json", "--folder", "run"]
    ended = subprocess.run([*COMMAND, *words], cwd=tmp_path, capture_output=True, text=True, timeout=200, check=False)
    assert ended.returncode == 0, ended.stderr
    found = json.loads((tmp_path / "out.json").read_bytes())
    assert found.keys() >= SUMMARY
    assert found["rounds"] == 4
    assert sorted((float(d["submodel"]) for d in found["devices"]), reverse=True) == list(WIDTHS)
    assert set(found["accuracy_by_size"]) == {"1", "0.5", "0.25", "0.125"}
    assert found["accuracy_by_size"]["1"] == found["accuracy"] > 0.2
    assert all(d["peak_bytes"] > 100 << 20 for d in found["devices"])
    assert 0 < found["bytes_up"] < found["dense_bytes_up"] == 4 * 4 * 4 * found["parameters"]
    with Image.open(tmp_path / "run" / "plot.png") as picture:
        assert picture.width > 1000
    for name in ("journal.jsonl", "model.safetensors", "summary.json"):
        assert (tmp_path / "run" / name).stat().st_size > 0
    assert "x as many" in ended.stdout
    assert "Traceback" not in ended.stderr


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[psutil.Popen]:
    log = (tmp_path / "log").open("wb")
    process = psutil.Popen([*COMMAND, "--rounds", "500", "--folder", "run"], cwd=tmp_path, stdout=log, stderr=log)
    yield process
    log.close()
    if process.poll() is None:
        process.kill()
    process.wait()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_however_the_demo_ends_its_daemons_end_with_it(
    number: signal.Signals, code: int, demo: psutil.Popen, tmp_path: Path
) -> None:
    until(lambda: b"round 1: accuracy" in (tmp_path / "log").read_bytes(), "the first round")
    children = demo.children(recursive=True)
    assert len(children) >= 4
    demo.send_signal(number)
    assert demo.wait(60) == code
    _, alive = psutil.wait_procs(children, timeout=30)
    assert not alive


def test_a_demo_that_was_stopped_goes_on_with_its_daemons(demo: psutil.Popen, tmp_path: Path) -> None:
    until(lambda: b"round 1: accuracy" in (tmp_path / "log").read_bytes(), "the first round")
    demo.send_signal(signal.SIGINT)
    assert demo.wait(60) == 130
    assert b"go on with `pleat resume run`" in (tmp_path / "log").read_bytes()
    total = len(Journal.read(tmp_path / "run" / "journal.jsonl")) + 2
    words = [*COMMAND[:-1], "resume", "run", "--rounds", str(total), "--json", "out.json"]
    ended = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False)
    assert ended.returncode == 0, ended.stderr
    found = json.loads((tmp_path / "out.json").read_bytes())
    assert found["rounds"] == total
    assert "fedavg_accuracy" in found
    last = Journal.read(tmp_path / "run" / "journal.jsonl")[-1]
    assert [d["outcome"] for d in last["devices"]] == ["done"] * 4
