"""A net of one's own, from the command line: a recurrent net with a tied weight, cut, trained, stopped and resumed."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pleat.shard import write
from pleat_server.cli import main
from support.digits import digit_shards
from support.processes import Processes, free_port, rounds_in, until

NET = "support.strangers:OfDigits"
TESTS = Path(__file__).parent.parent


def test_a_net_of_ones_own_is_simulated_in_several_sizes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"
    words = ["--model", NET, "--devices", "4", "--rounds", "2", "--afford", "1,0.25", "--folder", str(folder)]
    assert main(["simulate", *words, "--recipe", "heterofl"]) == 0
    assert "device-001 1/4" in capsys.readouterr().out
    assert json.loads((folder / "summary.json").read_bytes())["rounds"] == 2


def test_a_net_that_does_not_fit_the_data_begins_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"
    assert main(["simulate", "--model", "support.strangers:Excite", "--devices", "2", "--folder", str(folder)]) == 2
    assert "does not fit the input: at module 'stem'" in capsys.readouterr().err
    assert not folder.exists()


@pytest.fixture
def processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Processes]:
    """Server and devices that can import the net."""
    monkeypatch.setenv("PYTHONPATH", str(TESTS), prepend=":")
    parts, test = digit_shards(2)
    for name, part in zip(("ada", "bob"), parts, strict=True):
        write(tmp_path / f"{name}.npz", part)
    write(tmp_path / "test.npz", test)
    started = Processes(tmp_path)
    yield started
    started.stop()


def test_a_device_without_the_nets_file_says_so_and_the_others_go_on(
    processes: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    address, run = f"127.0.0.1:{free_port()}", processes.folder / "run"
    words = ["--model", NET, "--recipe", "heterofl", "--rounds", "2", "--data", "test.npz", "--folder", "run"]
    server = processes.server("serve", *words, "--least", "2", "--listen", address)
    until(lambda: "listening on" in processes.log("server"), "the server to listen")
    processes.device("ada", address, processes.folder / "ada.npz")
    paths = os.environ["PYTHONPATH"].split(":")
    monkeypatch.setenv("PYTHONPATH", ":".join(p for p in paths if p != str(TESTS)))
    processes.device("bob", address, processes.folder / "bob.npz")
    assert server.wait(timeout=120) == 0, processes.log("server")
    for line in rounds_in(run):
        ada, bob = line["devices"]
        assert (ada["outcome"], bob["outcome"]) == ("done", "failed")
        assert bob["reason"].startswith(f"net {NET}: cannot be imported here: ModuleNotFoundError")
        assert bob["reason"].endswith("install it, or put the folder it is in into PYTHONPATH")
    assert len(rounds_in(run)) == 2


def test_a_net_of_ones_own_is_served_to_real_devices_and_resumed(processes: Processes) -> None:
    address, run = f"127.0.0.1:{free_port()}", processes.folder / "run"
    serve = ["serve", "--model", NET, "--rounds", "1", "--listen", address, "--data", "test.npz", "--folder", "run"]
    for words in ([*serve, "--least", "2"], ["resume", "run", "--rounds", "2"]):
        before = processes.log("server").count("listening on")
        server = processes.server(*words)
        until(lambda before=before: processes.log("server").count("listening on") > before, "the server to listen")
        for name in ("ada", "bob"):
            processes.device(name, address, processes.folder / f"{name}.npz")
        assert server.wait(timeout=120) == 0, processes.log("server")
        processes.stop()  # devices that are started anew look for the server at once
    assert [line["round"] for line in rounds_in(run)] == [1, 2]
    assert {d["outcome"] for line in rounds_in(run) for d in line["devices"]} == {"done"}
