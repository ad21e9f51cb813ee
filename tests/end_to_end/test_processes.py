"""Real processes that die and come back: nothing is lost, nothing is counted twice, no device is forgotten."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pleat.shard import write
from support.digits import digit_shards
from support.processes import Processes, free_port, rounds_in, until

ROUNDS = 6
NAMES = ("ada", "bob", "cid", "dot")


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    parts, test = digit_shards(len(NAMES))
    for name, part in zip(NAMES, parts, strict=True):
        write(tmp_path / f"{name}.npz", part)
    write(tmp_path / "test.npz", test)
    started = Processes(tmp_path)
    yield started
    started.stop()


def training(processes: Processes, name: str, number: int) -> bool:
    """Whether `name` trains for round `number` or a later one."""
    status = processes.status(name)
    return status.get("state") == "training" and int(status["order"].split("/")[1]) >= number


def json_of(processes: Processes, *words: str) -> Any:
    command = [sys.executable, "-m", "pleat_server.cli", *words]
    return json.loads(subprocess.run(command, cwd=processes.folder, capture_output=True, check=True).stdout)


def test_a_run_outlives_a_killed_device_a_late_one_and_two_killed_servers(processes: Processes) -> None:
    address, run = f"127.0.0.1:{free_port()}", processes.folder / "run"
    serve = ["serve", "--model", "mlp", "--rounds", str(ROUNDS), "--listen", address, "--data", "test.npz"]
    serve += ["--folder", "run", "--least", "3", "--policy", "fixed", "--set", "training.epochs=30"]
    devices = {n: processes.device(n, address, processes.folder / f"{n}.npz") for n in NAMES[:2]}  # before the server
    server = processes.server(*serve)
    devices["cid"] = processes.device("cid", address, processes.folder / "cid.npz")

    until(lambda: training(processes, "bob", 1), "bob to train")
    devices["bob"].kill()
    devices["bob"].wait()
    devices["bob"] = processes.device("bob", address, processes.folder / "bob.npz")
    until(lambda: len(rounds_in(run)) >= 1, "the first round")
    devices["dot"] = processes.device("dot", address, processes.folder / "dot.npz")  # late

    for number in (2, 4):
        until(lambda number=number: training(processes, "ada", number), f"round {number} to be trained")
        server.kill()
        server.wait()
        server = processes.server("resume", "run")
    assert server.wait(timeout=120) == 0, processes.log("server")

    lines = rounds_in(run)
    assert [line["round"] for line in lines] == list(range(1, ROUNDS + 1))
    done = Counter((line["round"], d["name"]) for line in lines for d in line["devices"] if d["outcome"] == "done")
    assert set(done.values()) == {1}
    assert {name for number, name in done if number == ROUNDS} == set(NAMES)
    assert {d["name"] for d in lines[0]["devices"]} == {"ada", "bob", "cid"}, "a killed device's order is answered"
    assert json.loads((run / "summary.json").read_bytes())["rounds"] == ROUNDS
    assert lines[-1]["accuracy"] > 0.8
    assert [d["name"] for d in json_of(processes, "devices", "run", "--json")] == list(NAMES)
    assert [devices[n].poll() for n in NAMES] == [None] * 4, "devices stay for the next run"
    assert stop(devices["ada"]) == 130
    assert json_of(processes, "eval", "run", "--data", "test.npz", "--json")["accuracy"] == lines[-1]["accuracy"]


def stop(process: subprocess.Popen[bytes]) -> int:
    process.send_signal(signal.SIGINT)
    return process.wait(timeout=30)


def test_ctrl_c_ends_a_server_with_130_and_the_command_to_go_on_with(processes: Processes) -> None:
    server = processes.server(
        "serve", "--model", "mlp", "--listen", "127.0.0.1:0", "--data", "test.npz", "--folder", "run"
    )
    until(lambda: "waiting" in processes.log("server"), "the server to wait for devices")
    assert stop(server) == 130
    assert "go on with `pleat resume run`" in processes.log("server")
    assert "Traceback" not in processes.log("server")


def test_a_port_in_use_is_one_line_and_exit_code_2(processes: Processes) -> None:
    words = ["serve", "--model", "mlp", "--data", "test.npz", "--listen"]
    processes.server(*words, "127.0.0.1:0", "--folder", "first")
    text = until(lambda: processes.log("server").partition("listening on ")[2], "the first server to listen")
    command = [sys.executable, "-m", "pleat_server.cli", *words, text.split(",")[0], "--folder", "second"]
    second = subprocess.run(command, cwd=processes.folder, capture_output=True, text=True, check=False)
    assert second.returncode == 2, second.stderr
    assert second.stderr.count("\n") == 1
    assert "another program has this port" in second.stderr
