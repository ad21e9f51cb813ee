"""eLF in full: prune on proxy data, look sizes up by what they were worth, train, and be stopped at any of it."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from pleat.errors import LocalError
from pleat.exchange.report import Budgets
from pleat.params import digest
from pleat.shard import Shard, write
from pleat_server import app, prepare
from pleat_server.cli import main
from pleat_server.config import RunConfig, cache_folder
from pleat_server.keep.journal import Journal
from pleat_server.round import Setup, sizes_of
from pleat_server.run_recipe import read_recipe
from pleat_server.state import State
from support.digits import digit_shards
from support.methods import FAST

torch.set_num_threads(1)
PARTS, TEST = digit_shards(3)
SHORT: dict[str, Any] = {"proxy": {"cycles": 3, "epochs": 2, "steps": 20, "tune": 2}}
LADDER: dict[str, Any] = {"holds": {"depths": [1.0, 0.5], "densities": [1.0, 0.5, 0.25]}}


@pytest.fixture(autouse=True)
def _signals_as_before() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def config(folder: Path, rounds: int = 1, **changes: Any) -> RunConfig:
    made = RunConfig("elf", "mlp", folder, rounds, input_shape=(1, 8, 8), classes=10, cache=folder.parent / "cache")
    return replace(made, overrides={**FAST, **SHORT, **LADDER}, **changes)


def go(run: RunConfig, budgets: list[Budgets] | None = None, watch: Any = lambda event: None) -> dict[str, Any]:
    return app.simulate(run, app.virtual_devices(PARTS, budgets), TEST, watch)


def set_up(run: RunConfig) -> Setup:
    return app.set_up(run, read_recipe(run), (1, 8, 8), 10)


def test_each_device_gets_the_best_size_its_budgets_afford_and_every_density_nests(tmp_path: Path) -> None:
    run = config(tmp_path / "run")
    small, large = Budgets(upload_bytes=40_000), Budgets()
    go(run, [small, large, small])
    setup, table = set_up(run), prepare.facts_in(run.folder)["rows"]
    (line,) = Journal.read(run.folder / "journal.jsonl")
    taken = {d["name"]: setup.rows[d["row"]] for d in line["devices"]}
    affordable = [r for r in table if r["up_bytes"] <= 40_000]
    best = max(r["accuracy"] for r in affordable)
    assert 0 < len(affordable) < len(table)
    for name in ("device-000", "device-002"):
        row = taken[name]
        assert row.up_bytes <= 40_000
        assert row.worth is not None
        assert row.worth.accuracy >= best - np.sqrt(0.25 / row.worth.samples)
    masks = {r.rung: r.selection.masks for r in setup.rows if r.rung.depth == 1 and r.rung.density < 1}
    (wide, narrow) = (masks[rung] for rung in sorted(masks, key=lambda rung: -rung.density))
    assert all(not (narrow[n] & ~wide[n]).any() for n in narrow)
    assert wide["first.weight"].mean() == 0.5


def test_the_masks_are_those_of_pruning_and_not_of_the_first_weights(tmp_path: Path) -> None:
    run = config(tmp_path / "run")
    unprepared = {r.rung: r.selection for r in set_up(run).rows}
    go(run)
    changed = [r.rung for r in set_up(run).rows if r.selection != unprepared[r.rung]]
    assert changed == [r.rung for r in set_up(run).rows if r.rung.density < 1]


def test_a_second_run_finds_scores_and_table_in_the_cache_and_a_run_keeps_its_own(tmp_path: Path) -> None:
    told = list[dict[str, Any]]()
    go(config(tmp_path / "one"))
    go(config(tmp_path / "two"), watch=told.append)
    for name in (prepare.SCORES, prepare.TABLE):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert not [e for e in told if e["event"] == "proxy"]
    notices = [e["text"] for e in told if e["event"] == "notice"]
    assert any("3 of 3 cycles are there already" in t for t in notices)
    for path in (tmp_path / "cache" / "imp").iterdir():
        path.unlink()
    go(config(tmp_path / "one", rounds=2), watch=told.append)  # goes on with what its folder has
    assert not [e for e in told if e["event"] == "proxy"]


class Stopped(KeyboardInterrupt):
    """Ctrl-C, at a chosen moment."""


@pytest.mark.parametrize(("doing", "number"), [("pruning", 2), ("scoring", 4)])
def test_a_run_stopped_before_its_first_round_leaves_nothing_and_the_next_goes_on(
    doing: str, number: int, tmp_path: Path
) -> None:
    def stopping(event: dict[str, Any]) -> None:
        if event.get("doing") == doing and event["number"] == number and event["done"] > 0.4:
            raise Stopped

    whole = go(config(tmp_path / "a" / "run", 2))
    with pytest.raises(Stopped):
        go(config(tmp_path / "b" / "run", 2), watch=stopping)
    assert not (tmp_path / "b" / "run").exists()
    told = list[dict[str, Any]]()
    again = go(config(tmp_path / "b" / "run", 2), watch=told.append)
    again_done = [e["number"] for e in told if e.get("doing") == "pruning"]
    assert set(again_done) == ({2, 3} if doing == "pruning" else set())
    one, other = (load_file(tmp_path / f"{name}/run/model.safetensors") for name in "ab")
    assert digest(one) == digest(other)
    assert again["accuracy"] == whole["accuracy"]


def test_proxy_samples_of_the_server_s_own_are_not_scored_on(tmp_path: Path) -> None:
    run = config(tmp_path / "run")
    run.folder.mkdir()
    recipe, samples = read_recipe(run), sum(map(len, PARTS))
    rest = prepare.prepare(run, recipe, (1, 8, 8), 10, TEST, samples)
    facts = prepare.facts_in(run.folder)
    assert rest is not None
    assert len(rest) == len(TEST) - int(0.05 * samples)
    assert facts["trained_on"] + facts["scored_on"] == int(0.05 * samples)
    file = tmp_path / "proxy.npz"
    write(file, Shard(TEST.x[:71], TEST.y[:71]))
    assert prepare.prepare(replace(run, proxy=file), recipe, (1, 8, 8), 10, TEST, samples) is TEST
    plain = read_recipe(replace(run, recipe="fedavg", overrides={}))
    assert prepare.prepare(run, plain, (1, 8, 8), 10, TEST, samples) is TEST


def test_under_flower_the_strategy_prunes_on_a_part_of_its_own_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pleat_server.strategy import ElasticStrategy

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder, laid = tmp_path / "run", {**SHORT, **LADDER}
    made = ElasticStrategy("elf", "mlp", input_shape=(1, 8, 8), classes=10, folder=folder, overrides=laid, test=TEST)
    assert all(row.worth is not None for row in made.setup.rows)
    facts = prepare.facts_in(folder)
    assert facts["trained_on"] + facts["scored_on"] == 40  # nobody knows the devices: four of each class


def test_the_mask_of_a_size_travels_once(tmp_path: Path) -> None:
    laid = {**LADDER, "holds": {"depths": [1.0], "densities": [0.25]}}
    run = replace(config(tmp_path / "run", 3), overrides={**FAST, **SHORT, **laid})
    go(run)
    down = [line["bytes_down"] for line in Journal.read(run.folder / "journal.jsonl")]
    masks = 3 * 50_000 * 0.81 / 8  # the entropy of a quarter, for three devices
    assert down[0] - down[1] == pytest.approx(masks, rel=0.1)
    assert down[2] == pytest.approx(down[1], abs=30)


def test_scores_that_stay_serve_masks_that_are_drawn_anew(tmp_path: Path) -> None:
    more = {**LADDER, **SHORT, "rule": {"redraw": True}}
    run = replace(config(tmp_path / "run", 2), overrides={**FAST, **more})
    go(run)
    setup = set_up(run)
    drawn = sizes_of(setup, State(run="run", seed=0, params={}))  # no weights: the scores alone are looked at
    fixed = {r.rung: r.selection for r in setup.rows}
    assert {rung: s for rung, s in drawn.items() if rung in fixed} == fixed


def test_damaged_scores_in_a_run_s_folder_are_told_with_what_to_do(tmp_path: Path) -> None:
    run = config(tmp_path / "run")
    go(run)
    (run.folder / prepare.SCORES).write_bytes(b"nothing")
    with pytest.raises(LocalError, match="remove them and go on with the run"):
        set_up(run)
    (run.folder / prepare.SCORES).unlink()
    go(replace(run, rounds=2))
    assert len(Journal.read(run.folder / "journal.jsonl")) == 2


def test_the_cache_lies_where_the_system_says() -> None:
    assert cache_folder({"XDG_CACHE_HOME": "/c", "HOME": "/home/a"}) == Path("/c/pleat")
    assert cache_folder({"HOME": "/home/a"}) == Path("/home/a/.cache/pleat")


def words(verb: str, folder: Path, *more: str) -> list[str]:
    laid = [w for key, value in SHORT["proxy"].items() for w in ("--set", f"proxy.{key}={value}")]
    return [verb, "--recipe", "elf", "--model", "mlp", "--cache", str(folder / "cache"), *laid, *more]


def test_pruning_ahead_of_a_run_leaves_all_of_it_in_a_folder_and_the_run_trains_nothing_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(words("prune", tmp_path, "--out", "made")) == 0
    out = capsys.readouterr().out
    assert "pruning on proxy data: cycle 3 of 3, 51." in out
    assert "use it: pleat serve --recipe elf --model mlp --seed 0 --proxy made/proxy.npz --cache " in out
    assert "--set proxy.cycles=3" in out
    assert sorted(p.name for p in Path("made").iterdir()) == [
        "imp.safetensors", "lookup.json", "lookup.png", "proxy.npz",
    ]  # fmt: skip
    assert main(words("simulate", tmp_path, "--devices", "3", "--rounds", "1", "--folder", "run")) == 0
    out = capsys.readouterr().out
    assert "3 of 3 cycles are there already" in out
    assert "on proxy data: " not in out
    assert Path("made/lookup.json").read_bytes() == Path("run/lookup.json").read_bytes()
    assert Path("run/lookup.png").is_file()
    named = words("simulate", tmp_path, "--devices", "3", "--rounds", "1", "--proxy", "made/proxy.npz", "--folder", "2")
    assert main(named) == 0
    assert "on proxy data: " not in capsys.readouterr().out


def test_the_table_as_json_is_all_that_standard_output_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(words("prune", tmp_path, "--json")) == 0
    captured = capsys.readouterr()
    facts = json.loads(captured.out)
    assert facts == json.loads(Path("pruned/lookup.json").read_text())
    assert len(facts["rows"]) == 16
    assert any(row["front"] for row in facts["rows"])
    assert "cycle 3 of 3" in captured.err


def proxy_file(folder: Path, where: Any) -> str:
    write(folder / "proxy.npz", Shard(TEST.x[where], TEST.y[where]))
    return str(folder / "proxy.npz")


REFUSED: list[tuple[str, Any, str]] = [
    ("simulate", TEST.y != 7, "fewer than 2 of class 7 (0); a net pruned by them would forget it"),
    ("simulate", slice(0, 300), "300 proxy samples are 20.9% of the 1438 training samples known, at most 5% may be"),
    ("prune", TEST.y > 2, "fewer than 2 of class 0 (0), 1 (0), 2 (0)"),
    ("serve", TEST.y != 7, "fewer than 2 of class 7 (0)"),
]


@pytest.mark.parametrize(("verb", "where", "complaint"), REFUSED)
def test_proxy_data_that_do_not_do_are_one_line_and_nothing_is_left(
    verb: str, where: Any, complaint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    more = ["--listen", "127.0.0.1:0"] if verb == "serve" else []
    assert main(words(verb, tmp_path, "--proxy", proxy_file(tmp_path, where), *more)) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert complaint in captured.err
    assert sorted(p.name for p in tmp_path.iterdir() if p.name != "runs") == ["proxy.npz"]
    assert not list(tmp_path.glob("runs/*"))


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        (["prune", "--recipe", "fedavg"], "recipe fedavg does not rank by pruning on proxy data"),
        (["prune", "--holdout", "0"], "leaves the server nothing to draw proxy samples from"),
        (["prune", "--proxy", "gone.npz"], "no shard file gone.npz"),
        (["prune", "--model", "mlpp"], "unknown net 'mlpp'; did you mean 'mlp'?"),
        (
            ["serve", "--recipe", "elf", "--model", "mlp", "--input-shape", "1x8x8", "--classes", "10"],
            "there are none: name a file with --proxy FILE.npz, or --data FILE.npz to draw them from",
        ),
        (["simulate", "--recipe", "elf", "--holdout", "0"], "there are none: name a file with --proxy FILE.npz"),
    ],
)
def test_what_cannot_be_prepared_is_one_line(
    more: list[str], complaint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(more) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert complaint in captured.err
    assert not list(tmp_path.glob("runs/*"))


def test_proxy_data_of_another_shape_than_the_devices_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "flat.npz", Shard(TEST.x[:71].reshape(71, 64), TEST.y[:71]))
    with pytest.raises(Exception, match=r"samples have shape \(64,\), the model takes \(1, 8, 8\)"):
        go(config(tmp_path / "run", proxy=tmp_path / "flat.npz"))
    assert not (tmp_path / "run").exists()


def test_elf_s_first_model_is_fedavg_s_whatever_was_pruned(tmp_path: Path) -> None:
    """Masks come of the proxy data, weights do not."""
    run = config(tmp_path / "run")
    go(run)
    fedavg = app.begin(set_up(replace(run, recipe="fedavg", overrides={})), "x", 0)
    assert digest(app.begin(set_up(run), "x", 0).params) == digest(fedavg.params)
