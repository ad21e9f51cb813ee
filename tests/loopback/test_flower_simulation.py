"""Flower's simulation engine on Ray: the same apps, many devices; without Ray, one line that says what to install."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from pleat.shard import write
from pleat_server.simulate.ray import main
from support.digits import digit_shards
from support.processes import rounds_in


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs the extra 'ray'")
@pytest.mark.filterwarnings("ignore")  # Ray's and Flower's own
def test_the_apps_run_on_ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLWR_TELEMETRY_ENABLED", "0")
    monkeypatch.setenv("FLWR_HOME", str(tmp_path / "flwr"))
    for number, part in enumerate(digit_shards(2)[0]):
        write(tmp_path / f"device-{number}.npz", part)
    run = tmp_path / "runs" / "ray"
    assert main(["2", "model=mlp", "rounds=2", "policy=fixed", f"shards={tmp_path}", f"folder={run}"]) == 0
    assert [line["round"] for line in rounds_in(run)] == [1, 2]
    assert sorted(p.name for p in (run / "devices").iterdir()) == ["device-000", "device-001"]


@pytest.mark.skipif(importlib.util.find_spec("ray") is not None, reason="Ray is installed")
def test_without_ray_the_line_says_what_to_install(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["2", "model=mlp", "shards=shards"]) == 2
    assert (
        "Ray is not installed here; type in pleat's folder: pip install -c constraints.txt '.[server,ray]'"
        in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ([], "expected a number of devices, then KEY=VALUE"),
        (["none", "model=mlp"], "expected a number of devices, then KEY=VALUE"),
        (["2", "model"], "expected KEY=VALUE"),
        (["2", "modle=mlp"], "unknown key 'modle'; did you mean 'model'?"),
    ],
)
def test_a_mistake_is_one_line(words: list[str], line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    told = capsys.readouterr().err
    assert line in told
    assert told.count("\n") == 1
