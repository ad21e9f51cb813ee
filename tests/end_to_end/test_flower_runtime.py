"""Flower's own runtime: a SuperLink and two SuperNodes as processes, by the commands of deploy/flower/README.md.

The same seed and the same shards end with the same model under Flower, over our own link and in one process.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from pleat.nets.build import initial, spec
from pleat.params import Params
from pleat.shard import Shard, read
from pleat_client.store import Store
from pleat_server import app
from pleat_server.config import RunConfig
from pleat_server.link.grid import FleetGrid
from pleat_server.simulate.grid import VirtualDevice
from pleat_server.strategy import ElasticStrategy
from support.processes import Processes, rounds_in, until
from support.superlink import README, Runtime, commands

NAMES = ("device-0", "device-1")
SAME = 'policy="fixed" holdout=0.0 threads=1'  # so that three carriers do the same arithmetic


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runtime]:
    made = Runtime(tmp_path_factory.mktemp("flower"))
    (line,) = [c for c in commands("pleat shards") if "--devices 2" in c]
    dealt = made.shell(line.replace("pleat ", "python -m pleat_server.cli "))
    assert dealt.returncode == 0, dealt.stderr
    try:
        made.start()
        yield made
    finally:
        made.stop()


@pytest.fixture(scope="module")
def submitted(runtime: Runtime) -> dict[str, str]:
    """Runs that Flower is at side by side, by what they are: most of their time is waiting for one another's polls."""
    (line,) = [c for c in commands("flwr run deploy/flower") if "rounds=2" in c]
    folder = runtime.folder / "stock"
    folder.mkdir()
    blocks = README.read_text(encoding="utf-8").split("## A stock strategy")[1].split("## ")[0]
    code = "\n".join(line[4:] if line.startswith("    ") else "" for line in blocks.splitlines())
    settings, python = code[: code.index("from flwr")], code[code.index("from flwr") :]
    project = '[project]\nname = "my-app"\nversion = "1.0.0"\n\n[tool.flwr.app]\npublisher = "me"\n\n'
    (folder / "pyproject.toml").write_text(project + settings)
    (folder / "my_app.py").write_text(python)
    return {
        "ours": runtime.submit(f"{line} -c '{SAME}'"),
        "stock": runtime.submit("flwr run stock here"),
        "wrong": runtime.submit("flwr run deploy/flower here -c 'model=\"mlpp\"'"),
    }


def config(folder: Path, test: Shard) -> RunConfig:
    laid = {"plan": {"policy": "fixed"}, "server": {"least": 2}}
    return RunConfig(
        "elastic", "mlp", folder, rounds=2, overrides=laid, input_shape=test.input_shape, classes=test.classes
    )


def in_process(runtime: Runtime) -> Params:
    torch.set_num_threads(1)
    test = read(runtime.folder / "shards" / "test.npz")
    devices = [VirtualDevice(name, read(runtime.folder / "shards" / f"{name}.npz")) for name in NAMES]
    app.simulate(config(runtime.folder / "simulated" / "run", test), devices, test)
    return load_file(runtime.folder / "simulated" / "run" / "model.safetensors")


def over_our_link(runtime: Runtime) -> Params:
    test = read(runtime.folder / "shards" / "test.npz")
    said = config(runtime.folder / "linked" / "run", test)
    strategy = ElasticStrategy(
        said.recipe,
        said.model,
        input_shape=said.input_shape,
        classes=said.classes,
        folder=said.folder,
        overrides=said.overrides,
    )
    processes = Processes(runtime.folder / "linked")
    with FleetGrid.listen("127.0.0.1:0", said.folder, strategy.setup.net) as grid:
        try:
            for name in NAMES:
                processes.device(name, grid.address, runtime.folder / "shards" / f"{name}.npz", "--holdout", "0")
            strategy.start(grid, num_rounds=2)
        finally:
            processes.stop()
    return strategy.state.evaluated


def furthest(one: Params, other: Params) -> float:
    assert one.keys() == other.keys()
    return max(float(np.abs(one[n] - other[n]).max()) for n in one)


def test_the_readmes_run_ends_with_the_model_of_the_other_carriers(runtime: Runtime, submitted: dict[str, str]) -> None:
    run = submitted["ours"]
    here, linked = in_process(runtime), over_our_link(runtime)  # while Flower is at it
    assert runtime.ended(run) == "finished:completed", runtime.logs()
    (shown,) = commands("flwr log")
    log = runtime.shell(shown, RUN=run).stdout
    assert "round 2: accuracy" in log
    folder = runtime.folder / "runs" / f"flower-{run}"
    assert [line["round"] for line in rounds_in(folder)] == [1, 2]
    flower = load_file(folder / "model.safetensors")
    assert furthest(flower, here) <= 1e-6
    assert furthest(flower, initial(spec("mlp", (1, 8, 8), 10), 0)) > 1e-2
    assert furthest(flower, linked) <= 1e-6


def test_device_state_survives_the_processes_that_flower_starts_for_messages(
    runtime: Runtime, submitted: dict[str, str]
) -> None:
    for name in NAMES:
        past = Store(runtime.folder / "states" / "pleat" / name).past(f"flower-{submitted['ours']}")
        assert {p.order_id.round: p.fate for p in past} == {1: "acked", 2: "staged"}


def test_a_stock_fedavg_from_the_readme_trains_our_client_app(runtime: Runtime, submitted: dict[str, str]) -> None:
    assert runtime.ended(submitted["stock"]) == "finished:completed", runtime.logs()
    log = runtime.shell("flwr log RUN here --show", RUN=submitted["stock"]).stdout
    assert log.count("Received 2 results and 0 failures") == 2
    first, second = (float(loss) for loss in re.findall(r"Aggregated MetricRecord: \{'loss': ([0-9.]+)", log))
    assert second < first


def test_flwr_stop_ends_a_running_run(runtime: Runtime) -> None:
    (line,) = [c for c in commands("flwr run deploy/flower") if "rounds=2" in c]
    run = runtime.submit(f"{line} -c 'rounds=500'")
    folder = runtime.folder / "runs" / f"flower-{run}"
    until(lambda: (folder / "run.json").exists(), "the run to begin")
    (stop,) = commands("flwr stop")
    stopped = runtime.shell(stop, RUN=run)
    assert stopped.returncode == 0, stopped.stdout + stopped.stderr
    assert runtime.ended(run) == "finished:stopped"
    assert len(rounds_in(folder)) < 500


def test_a_wrong_value_ends_the_run_with_one_line_and_leaves_no_folder(
    runtime: Runtime, submitted: dict[str, str]
) -> None:
    run = submitted["wrong"]
    assert runtime.ended(run) == "finished:failed"
    assert "unknown net 'mlpp'; did you mean 'mlp'?" in runtime.listed(run)["status-details"]
    log = runtime.shell("flwr log RUN here --show", RUN=run).stdout
    assert "Traceback" not in log
    assert not (runtime.folder / "runs" / f"flower-{run}").exists()
