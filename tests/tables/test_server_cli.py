"""The `pleat` command: what it prints, its one-line complaints and its exit codes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from pleat.shard import read
from pleat_server import cli
from pleat_server.cli import main, options
from pleat_server.config import RunConfig


@pytest.fixture(autouse=True)
def _signals_as_before() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


REFUSED = [
    (["nonsense"], "No such command 'nonsense'"),
    (["shard"], "No such command 'shard'. Did you mean 'shards'? See `pleat --help`"),
    (["serve", "--dat", "x"], "No such option '--dat'."),
    (["shards"], "Missing argument 'SOURCE'"),
    (["shards", "digits", "--devices", "many"], "'many' is not a valid int"),
    (["shards", "digits", "--split", "zipf:2"], "unknown split 'zipf:2'"),
    (["shards", "digits", "--shape", "8by8"], "is no shape"),
    (["shards", "gone.npz"], "no shard file gone.npz"),
    (["recipes", "elastc"], "did you mean 'elastic'?"),
    (["recipes", "elastic", "--model", "cnnn"], "unknown net 'cnnn'; did you mean 'cnn'?"),
    (["recipes", "--model", "cnnn"], "unknown net 'cnnn'; did you mean 'cnn'?"),
    (["serve", "--listen", "127.0.0.1:0", "--policy", "swep"], "unknown policy 'swep'; did you mean 'sweep'?"),
    (["simulate", "--devices", "2", "--policy", "swep"], "unknown policy 'swep'; did you mean 'sweep'?"),
    (["plot", "gone"], "name the folder of a run"),
    (["devices"], "no run under runs/"),
    (["devices", "gone"], "has seen no device yet"),
    (["bench", "speed"], "unknown benchmark 'speed'"),
    (["serve", "--listen", "127.0.0.1:0", "--set", "training"], "expected KEY=VALUE"),
    (["demo", "--rounds", "0"], "0 is not in the range"),
]


@pytest.mark.parametrize(("words", "complaint"), REFUSED, ids=[" ".join(w) for w, _ in REFUSED])
def test_a_mistake_at_the_keyboard_is_one_line_and_exit_code_2(
    words: list[str], complaint: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert captured.err.startswith("pleat: ")
    assert complaint in captured.err


def test_no_command_at_all_is_answered_with_the_help_and_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    captured = capsys.readouterr()
    assert "Usage: pleat" in captured.out
    assert captured.err == "pleat: no command given. See `pleat --help`\n"


def raising(error: BaseException) -> Callable[[], None]:
    def verb() -> None:
        raise error

    return verb


@pytest.mark.parametrize(
    ("error", "code"),
    [(KeyboardInterrupt(), 130), (cli.Terminated(), 143), (BrokenPipeError(), 0)],
    ids=["Ctrl-C", "SIGTERM", "a reader that left"],
)
def test_being_stopped_has_its_own_exit_code_and_no_traceback(
    error: BaseException, code: int, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli.recipes, "run", raising(error))
    monkeypatch.setattr(os, "dup2", lambda *ends: None)
    assert main(["recipes"]) == code
    assert "Traceback" not in capfd.readouterr().err


def test_a_broken_pipe_ends_a_real_command_quietly() -> None:
    command = [sys.executable, "-m", "pleat_server.cli", "recipes", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""


def test_every_verb_has_help_that_says_what_it_does(capsys: pytest.CaptureFixture[str]) -> None:
    for verb in cli.VERBS:
        name = verb.__name__.rpartition(".")[2]
        assert main([name, "--help"]) == 0
        text = capsys.readouterr().out
        assert f"Usage: pleat {name}" in text
        assert (verb.run.__doc__ or "").split(".")[0].split("\n")[0][:40] in text


def test_reads_have_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes", "--json"]) == 0
    assert {"elastic", "fedavg", "fjord", "heterofl"} <= {r["name"] for r in json.loads(capsys.readouterr().out)}
    assert main(["recipes", "elastic", "--model", "mlp", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["objective"]["name"] == "joint"


def test_recipes_are_a_table_of_six_choices_with_what_they_save_and_cost(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes", "--json"]) == 0
    rolex = next(r for r in json.loads(capsys.readouterr().out) if r["name"] == "fedrolex")
    assert rolex["rule"] == "rolling, anew each round"
    assert rolex["objective"] == "masked, scaler, static batch norm"
    assert (rolex["holds"], rolex["personal"]) == ("1 0.5 0.25 0.125 0.0625", "nothing")
    assert rolex["saves"] == ["compute", "memory", "down", "up"]
    assert main(["recipes"]) == 0
    heading, *rows = [line for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert heading.split() == list(cli.recipes.HEADINGS)
    assert sum(row.startswith((" fedrolex ", " fedavg ")) for row in rows) == 2


def test_shards_are_written_and_listed(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["shards", "digits", "--devices", "3", "--split", "labels:4", "--seed", "5", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [Path(r["file"]).name for r in rows] == ["device-0.npz", "device-1.npz", "device-2.npz", "test.npz"]
    assert [len(read(r["file"])) for r in rows] == [r["samples"] for r in rows]
    assert [len(r["labels"]) for r in rows[:3]] == [4, 4, 4]


def files_of(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir()}


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["--devices", "2"], "device-2.npz of another deal"),
        (["--devices", "11"], "device-0.npz and 2 more of another deal"),
        (["--devices", "3", "--holdout", "0"], "rm 'my shards'/device-*.npz 'my shards'/test.npz"),
    ],
    ids=["fewer devices", "longer numbers", "nothing held out"],
)
def test_a_deal_that_would_leave_files_of_another_beside_its_own_is_refused(
    words: list[str], names: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["shards", "digits", "--devices", "3", "--out", "my shards"]) == 0
    before = files_of(here / "my shards")
    capsys.readouterr()
    assert main(["shards", "digits", *words, "--seed", "1", "--out", "my shards"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("pleat: my shards holds ")
    assert names in said
    assert said.count("\n") == 1
    assert files_of(here / "my shards") == before


def test_a_deal_that_replaces_all_of_another_is_made(here: Path) -> None:
    (here / "shards").mkdir()
    (here / "shards" / "notes.txt").touch()
    assert main(["shards", "digits", "--devices", "2"]) == 0
    assert main(["shards", "digits", "--devices", "3", "--seed", "1"]) == 0
    names = ["device-0.npz", "device-1.npz", "device-2.npz", "notes.txt", "test.npz"]
    assert sorted(files_of(here / "shards")) == names


@pytest.mark.parametrize("out", ["afile", "afile/shards"])
def test_shards_that_are_to_go_into_a_file_are_refused(
    out: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "afile").touch()
    assert main(["shards", "digits", "--out", out]) == 2
    said = capsys.readouterr().err
    assert "is a file; name a folder" in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "tables"),
    [
        (["training.epochs=4"], {"training": {"epochs": 4}}),
        (["training.rate=0.1", "training.clip=1"], {"training": {"rate": 0.1, "clip": 1}}),
        (["plan.policy=ducb"], {"plan": {"policy": "ducb"}}),
        (["holds.widths=[1.0, 0.5]"], {"holds": {"widths": [1.0, 0.5]}}),
        (["rule.redraw=true"], {"rule": {"redraw": True}}),
        (["returns.up=topk:{keep}/f32"], {"returns": {"up": "topk:{keep}/f32"}}),
    ],
)
def test_set_lays_toml_values_or_plain_words_over_a_recipe(words: list[str], tables: dict[str, object]) -> None:
    assert options.overrides(words) == tables


def test_a_new_run_takes_the_first_free_number(here: Path) -> None:
    assert options.new_folder("elastic", "cnn") == Path("runs/elastic-cnn-1")
    (here / "runs" / "elastic-cnn-1").mkdir(parents=True)
    assert options.new_folder("elastic", "cnn") == Path("runs/elastic-cnn-2")
    assert options.new_folder("my/own.toml", "pkg.nets:tiny") == Path("runs/own-tiny-1")


def test_the_latest_run_is_the_one_begun_last(here: Path) -> None:
    for number, name in enumerate(("b", "a")):
        folder = here / "runs" / name
        folder.mkdir(parents=True)
        (folder / "run.json").touch()
        os.utime(folder / "run.json", (number, number))
    assert options.latest_run() == Path("runs/a")


SIMULATED = ["simulate", "--model", "mlp", "--devices", "3", "--afford", "1,0.5"]


def test_a_simulated_run_goes_on_in_process_from_anywhere_and_ends_with_the_same_bits(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["shards", "digits", "--devices", "1"]) == 0
    words = [*SIMULATED, "--recipe", "heterofl", "--source", "shards/device-0.npz"]
    assert main([*words, "--rounds", "2", "--folder", "whole"]) == 0
    assert main([*words, "--rounds", "1", "--folder", "parted/whole"]) == 0
    (here / "elsewhere").mkdir()
    monkeypatch.chdir(here / "elsewhere")
    assert main(["resume", "../parted/whole", "--rounds", "2", "--json", "out.json"]) == 0
    assert json.loads((here / "elsewhere" / "out.json").read_bytes())["rounds"] == 2
    whole, parted = (load_file(here / f / "model.safetensors") for f in ("whole", "parted/whole"))
    assert {n: a.tobytes() for n, a in whole.items()} == {n: a.tobytes() for n, a in parted.items()}


def test_a_simulated_run_whose_devices_held_what_is_lost_is_not_gone_on_with(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["simulate", "--recipe", "local", "--devices", "2", "--rounds", "1", "--folder", "run"]) == 0
    capsys.readouterr()
    assert main(["resume", "run", "--rounds", "2"]) == 2
    said = capsys.readouterr().err
    assert "kept personal tensors in memory alone" in said
    assert "begin anew: pleat simulate --recipe local --model mlp --seed 0" in said


@pytest.mark.parametrize(
    ("carried", "said"),
    [
        ("flower", "flwr run . --run-config 'folder="),
        ("beside", "is part of another run; go on with `pleat resume "),
        ("simulate", "simulated by a program, not by a command"),
        ("pigeon", "carried by 'pigeon', which this version of pleat cannot do"),
    ],
)
def test_a_run_that_cannot_go_on_from_here_is_told_in_one_line_and_not_listened_for(
    carried: str, said: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "run").mkdir()
    RunConfig("fedavg", "mlp", Path("run"), listen="127.0.0.1:0", carried=carried).save()
    assert main(["resume", "run"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert said in captured.err
    assert captured.err.count("\n") == 1


def test_a_simulation_that_is_stopped_says_how_to_go_on(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("pleat_server.app._finish", stopped)
    assert main([*SIMULATED, "--folder", "run"]) == 130
    assert "go on with `pleat resume run`" in capsys.readouterr().err
