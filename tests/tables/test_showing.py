"""What people see: the live table, log lines, the summary, the budget table, the picture."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from pleat.errors import UseError
from pleat_server import budget_table, live, plot
from pleat_server.keep.history import History
from pleat_server.keep.journal import Journal


def device(name: str, width: float, **more: Any) -> dict[str, Any]:
    seconds = {"wait": 0.1, "down": 0.2, "build": 0.0, "train": 1.5, "encode": 0.1, "up": 0.1}
    return {"name": name, "row": 0, "size": f"{width:g}", "density": width**2, "keep": 0.05, "bits": 4,
            "seconds": seconds, "peak_bytes": 300 << 20, "loss": 0.25, "samples": 100,
            "up": 2048, "down": 4096, "outcome": "done", **more}  # fmt: skip


def record(number: int = 1, **more: Any) -> dict[str, Any]:
    sizes = {"1": 0.9, "0.5": 0.8}
    return {"round": number, "seconds": 2.0, "accuracy": 0.9, "accuracy_by_size": sizes, "loss": 0.3,
            "bytes_up": 2048, "bytes_down": 4096, "devices": [device("pi", 0.5), device("tower", 1.0)],
            "rejected": [], **more}  # fmt: skip


def shown(view: live.View) -> str:
    console = Console(file=io.StringIO(), width=140)
    console.print(live.table(view))
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_the_live_table_has_a_row_a_device_with_units_in_the_head() -> None:
    view = live.View(total=30)
    for event in (
        {"event": "joined", "device": "pi", "address": "ipv4:10.0.0.2:4711"},
        {"event": "round_started", "round": 1, "devices": {"pi": 1, "tower": 0}},
        {"event": "round", **record()},
        {"event": "pulse", "device": "pi", "state": "sending"},
        {"event": "notice", "text": "tower: norm too large"},
    ):
        view = live.absorb(view, event)
    text = shown(view)
    assert "round 1/30   accuracy 90.0%" in text
    pi = next(line for line in text.splitlines() if " pi " in line)
    assert pi.replace("│", " ").split() == ["pi", "sending", "1/2", "1.50", "2.00", "4.0", "2.0", "300", "0.250"]
    assert "KiB up" in text
    assert "tower: norm too large" in text


def test_an_idle_device_says_why_and_a_silent_one_has_no_seconds() -> None:
    silent = device("pi", 0.5, outcome="silent")
    del silent["seconds"], silent["peak_bytes"], silent["loss"]
    event = {"event": "round", **record(devices=[silent], idle={"zero": "idle: nothing fits"})}
    text = shown(live.absorb(live.View(total=1), event))
    assert "silent" in text
    assert "idle: nothing fits" in text


def test_an_unknown_event_changes_nothing() -> None:
    view = live.View(total=3)
    assert live.absorb(view, {"event": "from a later version"}) is view


@pytest.mark.parametrize(
    ("label", "text"),
    [("1", "1"), ("0.5", "1/2"), ("0.125", "1/8"), ("0.75", "3/4"), ("0.3", "0.3"), ("depth 0.5", "depth 1/2")],
)
def test_sizes_read_as_fractions_where_they_are_plain(label: str, text: str) -> None:
    assert live.size(label) == text


def proxy(doing: str, number: int, done: float) -> dict[str, Any]:
    return {"event": "proxy", "doing": doing, "number": number, "of": 4, "done": done, "text": "64.0% of the weights"}


def test_what_is_trained_before_the_first_round_is_shown_while_it_goes_and_logged_when_it_is_done() -> None:
    halfway = live.absorb(live.View(total=10), proxy("pruning", 2, 0.5))
    text = shown(halfway)
    assert text.startswith("━" * 11)
    assert "pruning on proxy data: cycle 2 of 4, 64.0% of the weights\n" in text
    assert len(text.splitlines()) == 1
    assert "device" not in text
    assert live.line(proxy("pruning", 2, 0.5)) == ""
    assert live.line(proxy("scoring", 2, 1.0)) == "scoring on proxy data: size 2 of 4, 64.0% of the weights"
    begun = live.absorb(halfway, {"event": "round_started", "round": 1, "devices": {"a": 0}})
    assert "proxy" not in shown(begun)
    assert "device" in shown(begun)


@pytest.mark.parametrize("after", [[], [{"event": "listening", "address": "a:1", "folder": "runs/x"}]])
def test_who_stops_it_before_the_first_round_is_told_that_the_same_command_goes_on(
    after: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped() -> None:
        with live.watching(3) as watch:
            for event in (proxy("pruning", 2, 0.5), *after):
                watch(event)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    told = capsys.readouterr().err
    assert told == (
        "stopped after round 0; go on with `pleat resume runs/x`\n"
        if after
        else "stopped while pruning; the same command goes on from there\n"
    )


def test_a_round_is_one_line_of_a_log() -> None:
    line = live.line({"event": "round", **record(7)})
    assert line == "round 7: accuracy 90.0%, 2.00 s, 2.0 KiB up, 4.0 KiB down (pi 1/2, tower 1)"


def test_without_a_terminal_the_watcher_prints_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with live.watching(3) as watch:
        watch({"event": "listening", "address": "127.0.0.1:1", "folder": "runs/x"})
        watch({"event": "pulse", "device": "pi", "state": "idle"})
    assert capsys.readouterr().out == "listening on 127.0.0.1:1, run folder runs/x\n"


def stopped_after_two_rounds() -> None:
    with live.watching(3) as watch:
        watch({"event": "listening", "address": "127.0.0.1:1", "folder": "runs/x"})
        watch({"event": "round", **record(2)})
        raise KeyboardInterrupt


def test_a_run_that_is_stopped_says_how_to_go_on(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyboardInterrupt):
        stopped_after_two_rounds()
    assert capsys.readouterr().err == "stopped after round 2; go on with `pleat resume runs/x`\n"


def test_the_summary_compares_bytes_with_dense_fedavg() -> None:
    summary = {"rounds": 30, "wall_s": 20.0, "accuracy": 0.97, "fedavg_accuracy": 0.975,
               "accuracy_by_size": {"1": 0.97, "0.5": 0.96},
               "bytes_up": 1024, "bytes_down": 1024, "dense_bytes_up": 40960, "dense_bytes_down": 40960,
               "devices": [{"name": "pi", "submodel": "0.5", "train_s": 3.0, "peak_bytes": None}]}  # fmt: skip
    text = "\n".join(live.summary_lines(summary))
    assert "97.00%  (FedAvg, all at full size: 97.50%)" in text
    assert "40.0 x as many" in text
    assert "1/2: 96.00%" in text
    assert "pi             submodel 1/2, trained 3.0 s" in text


def written(folder: Path, lines: list[dict[str, Any]]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    journal = Journal(folder / "journal.jsonl")
    for line in lines:
        journal.append(line)
    return folder


def test_the_series_of_a_plot_sum_bytes_and_seconds_over_rounds(tmp_path: Path) -> None:
    series = plot.read(written(tmp_path / "run", [record(1), record(2, devices=[device("pi", 0.25)])]))
    assert series["bytes"] == [6144, 12288]
    assert series["seconds"] == [2.0, 4.0]
    assert list(series["by_size"]) == ["1", "0.5"]
    assert series["submodels"] == {"pi": ["0.5", "0.25"], "tower": ["1", None]}


def test_the_picture_is_a_png_with_something_on_it(tmp_path: Path) -> None:
    run = written(tmp_path / "run", [record(n, accuracy=n / 10) for n in range(1, 6)])
    written(run / "fedavg", [record(n, bytes_up=10**6) for n in range(1, 6)])
    path = plot.draw(plot.read(run), tmp_path / "out" / "plot.png", title="run")
    pixels = np.asarray(Image.open(path).convert("L"))
    assert pixels.shape[1] > 1000
    assert 0.01 < (pixels < 200).mean() < 0.5


def test_a_round_scored_by_nobody_can_still_be_drawn(tmp_path: Path) -> None:
    lines = [record(1), record(2)]
    for line in lines:
        del line["accuracy"], line["accuracy_by_size"]
    plot.draw(plot.read(written(tmp_path / "run", lines)), tmp_path / "plot.png")


def test_plotting_what_is_no_run_says_so(tmp_path: Path) -> None:
    with pytest.raises(UseError, match="name the folder of a run"):
        plot.read(tmp_path)
    (tmp_path / "journal.jsonl").touch()
    with pytest.raises(UseError, match="no finished round"):
        plot.read(tmp_path)


FACTS: dict[str, Any] = {
    "name": "kitchen-pi",
    "profile": {
        "board": "Raspberry Pi 4", "machine": "aarch64", "cores": 4, "memory_bytes": 1 << 30, "samples": 500,
        "budgets": {"memory_bytes": 300 << 20, "seconds": 20, "upload_bytes": 2_000_000, "download_bytes": None},
    },
    "cost": {"theta": [0.002, 1.25], "sigma": 0.1, "changes": 2},
    "link": {"up": {"typical": 2**20}, "down": {"typical": None}},
    "submodels": ["1", "0.5", "0.5"],
    "base_bytes": 200 << 20,
    "here": True,
    "heartbeat": {"celsius": 61.4, "state": "idle"},
}  # fmt: skip


def test_the_budget_table_shows_what_is_known_with_units() -> None:
    assert budget_table.cells(FACTS) == [
        "Raspberry Pi 4, aarch64, 4 cores",
        "500",
        "300 MiB, 20 s, 1953.1 KiB up",
        "200 empty of 1024",
        "2.00 ms a pass, 1.25 s a GMAC, ±10%, changed 2 x",
        "1 MiB/s up",
        "1 1/2 1/2",
        "idle, 61 °C",
    ]


@pytest.mark.parametrize(("columns", "tall"), [(260, False), (80, True)])
def test_the_budget_table_becomes_paragraphs_on_a_narrow_terminal(
    columns: int, tall: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", str(columns))
    budget_table.show([FACTS, {"name": "zero"}])
    text = capsys.readouterr().out
    assert ("kitchen-pi\n  what it is " in text) is tall
    assert "Raspberry Pi 4, aarch64, 4 cores" in text
    assert "2.00 ms a pass, 1.25 s a GMAC, ±10%, changed 2 x" in text


def test_what_is_unknown_is_a_dash_and_never_a_zero() -> None:
    cells = budget_table.cells({"name": "x"})
    assert cells == ["-", "-", "-", "- empty of -", "-", "-", "-", "here"]


def test_a_device_that_nothing_fits_shows_the_nearest_miss() -> None:
    assert budget_table.now({"idle": "idle: nothing fits: width 1/8 needs 9 KiB up, 4 allowed"}).startswith(
        "idle: nothing fits"
    )
    assert budget_table.now({"here": False}) == "away"


def test_an_unknown_device_is_refused_with_the_nearest_name(tmp_path: Path) -> None:
    history = History(tmp_path / budget_table.FILE)
    history.upsert(FACTS)
    history.close()
    assert [r["name"] for r in budget_table.read(tmp_path)] == ["kitchen-pi"]
    assert budget_table.read(tmp_path, "kitchen-pi")[0]["submodels"] == ["1", "0.5", "0.5"]
    with pytest.raises(UseError, match="did you mean 'kitchen-pi'"):
        budget_table.read(tmp_path, "kitchn-pi")
    with pytest.raises(UseError, match="has seen no device yet"):
        budget_table.read(tmp_path / "elsewhere")


def test_who_brought_nothing_is_told_from_who_did() -> None:
    devices = [
        {"name": "a", "size": "1", "outcome": "done"},
        {"name": "b", "size": "0.5", "outcome": "failed", "reason": "loss became nan"},
        {"name": "c", "size": "0.5", "outcome": "silent"},
    ]
    event = {"event": "round", "round": 3, "seconds": 1.0, "bytes_up": 0, "bytes_down": 0, "devices": devices}
    assert live.line(event).endswith("(a 1, b 1/2 failed: loss became nan, c 1/2 silent)")


def test_a_round_in_which_nothing_was_accepted_says_so_in_its_line_and_on_the_screen() -> None:
    event = {"event": "round", "round": 3, "seconds": 1.0, "bytes_up": 0, "bytes_down": 0, "devices": []}
    assert "NO REPORT WAS ACCEPTED" not in live.line(event)
    failed = {**event, "error": "round 3: no report was accepted; the model is unchanged"}
    assert live.line(failed).startswith("round 3: NO REPORT WAS ACCEPTED, the model is unchanged")
    assert any("NO REPORT WAS ACCEPTED" in text for text in live.absorb(live.View(5), failed).notices)


def test_the_summary_tells_who_brought_nothing() -> None:
    device = {"name": "a", "submodel": "0.5", "train_s": 2.0, "peak_bytes": None}
    whole = {"rounds": 1, "wall_s": 1.0, "bytes_up": 0, "bytes_down": 0, "dense_bytes_up": 0, "dense_bytes_down": 0}
    idle, busy = ({**whole, "devices": [{**device, "rounds": rounds}]} for rounds in (0, 3))
    assert live.summary_lines(idle)[-1].endswith("trained 2.0 s, and brought nothing")
    assert live.summary_lines(busy)[-1].endswith("trained 2.0 s")
