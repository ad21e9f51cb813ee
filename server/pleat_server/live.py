"""What a run shows while it goes: a live table on a terminal, one line a round anywhere else; and its summary.

`View` is everything on the screen as one value; `absorb(view, event)` is pure. Events are those that the loop tells
its watcher: listening, joined, left, pulse, round_started, report, round, notice, resumed, done; and proxy, of what is
trained on proxy data before the first round.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

Event = Mapping[str, Any]
NOTICES = 3  # notices kept on the screen


@dataclass(frozen=True)
class View:
    total: int
    round: int = 0
    accuracy: float | None = None
    by_size: Mapping[str, float] = field(default_factory=dict)
    up: int = 0
    down: int = 0
    seconds: float = 0.0
    states: Mapping[str, str] = field(default_factory=dict)  # device -> what it is doing
    devices: Mapping[str, Event] = field(default_factory=dict)  # device -> its part of the last round
    notices: tuple[str, ...] = ()
    folder: str = ""
    before: Event | None = None  # what is done before the first round


def absorb(view: View, event: Event) -> View:
    """The view after one event; unknown events change nothing."""
    kind = event.get("event")
    if kind == "round":
        done = {d["name"]: d for d in event["devices"]}
        return replace(
            view,
            round=event["round"],
            accuracy=event.get("accuracy", view.accuracy),
            by_size=event.get("accuracy_by_size", view.by_size),
            up=view.up + event["bytes_up"],
            down=view.down + event["bytes_down"],
            seconds=view.seconds + event["seconds"],
            devices={**view.devices, **done},
            states={**view.states, **{n: d["outcome"] for n, d in done.items()}, **event.get("idle", {})},
            notices=(*view.notices, line(event))[-NOTICES:] if event.get("error") else view.notices,
        )
    if kind in ("joined", "left", "report", "pulse"):
        words = {"joined": "joined", "left": "away", "report": "reported", "pulse": event.get("state", "")}
        return replace(view, states={**view.states, event["device"]: words[kind]})
    if kind == "proxy":
        return replace(view, before=event)
    if kind == "round_started":
        view = replace(view, before=None)
        states = {**view.states, **dict.fromkeys(event["devices"], "training")}
        return replace(view, states=states, notices=tuple(n for n in view.notices if "waiting" not in n))
    if kind == "resumed":
        return replace(view, round=event["round"])
    if kind == "listening":
        view = replace(view, folder=event["folder"], before=None)
    text = line(event) if kind in ("notice", "listening") else ""
    return replace(view, notices=(*view.notices, text)[-NOTICES:]) if text else view


def line(event: Event) -> str:
    """One event as a line of a log; "" for events that are not worth one."""
    kind = event.get("event")
    if kind == "listening":
        return f"listening on {event['address']}, run folder {event['folder']}"
    if kind == "notice":
        return str(event["text"])
    if kind == "joined":
        return f"{event['device']} joined from {event['address']}"
    if kind == "left":
        return f"{event['device']} left: {event['reason']}"
    if kind == "resumed":
        return f"resumed after round {event['round']}"
    if kind == "proxy":
        return proxy_text(event) if event["done"] == 1 else ""
    if kind != "round":
        return ""
    sizes = ", ".join(_part(d) for d in event["devices"])
    scored = "" if event.get("accuracy") is None else f"accuracy {event['accuracy']:.1%}, "
    moved = f"{event['bytes_up'] / 1024:.1f} KiB up, {event['bytes_down'] / 1024:.1f} KiB down"
    failed = "NO REPORT WAS ACCEPTED, the model is unchanged; " if event.get("error") else ""
    return f"round {event['round']}: {failed}{scored}{event['seconds']:.2f} s, {moved} ({sizes})"


def _part(device: Event) -> str:
    """A device's part of a round; what it brought, where that was no update."""
    outcome = device.get("outcome", "done")
    what = f"{device['name']} {size(device['size'])}"
    if outcome == "done":
        return what
    return f"{what} {outcome}: {device['reason']}" if device.get("reason") else f"{what} {outcome}"


def proxy_text(event: Event) -> str:
    """What is trained on proxy data, and how far it has come."""
    unit = {"pruning": "cycle", "scoring": "size"}[event["doing"]]
    return f"{event['doing']} on proxy data: {unit} {event['number']} of {event['of']}, {event['text']}"


def progress(event: Event) -> Table:
    """The same with a bar, for a terminal."""
    share = (event["number"] - 1 + event["done"]) / event["of"]
    grid = Table.grid(padding=(0, 1))
    grid.add_row(ProgressBar(total=1.0, completed=share, width=30), Text(proxy_text(event)))
    return grid


def size(label: str) -> str:
    """A size as it is shown: rates as fractions where they are simple, 1/8 for 0.125; 0.3 stays 0.3."""
    return " ".join(_fraction(word) for word in label.split(" "))


def _fraction(word: str) -> str:
    try:
        numerator, denominator = float(word).as_integer_ratio()
    except ValueError:
        return word
    return f"{numerator}/{denominator}" if 1 < denominator <= 64 else word


def table(view: View) -> Group:
    """The view as a table with its headline above and notices below."""
    grid = Table(expand=False)
    grid.add_column("device")
    grid.add_column("state")
    for name in ("submodel", "train s", "round s", "KiB down", "KiB up", "peak MiB", "loss"):
        grid.add_column(name, justify="right")
    for name in sorted({*view.states, *view.devices}):
        grid.add_row(name, view.states.get(name, ""), *_cells(view.devices.get(name)))
    notices = [Text(n, style="dim") for n in view.notices]
    if view.before is not None or not view.total:
        return Group(*([progress(view.before)] if view.before else []), *notices)
    return Group(Text(headline(view), style="bold"), grid, *notices)


def headline(view: View) -> str:
    parts = [f"round {view.round}/{view.total}"]
    if view.accuracy is not None:
        parts.append(f"accuracy {view.accuracy:.1%}")
    if len(view.by_size) > 1:
        parts.append("by size " + "  ".join(f"{size(w)}: {a:.1%}" for w, a in view.by_size.items()))
    parts.append(f"{view.up / 1024:.0f} KiB up, {view.down / 1024:.0f} KiB down, {view.seconds:.1f} s")
    return "   ".join(parts)


def _cells(device: Event | None) -> list[str]:
    if device is None:
        return [""] * 7
    seconds = device.get("seconds") or {}
    peak, loss = device.get("peak_bytes"), device.get("loss")
    return [
        size(device["size"]),
        f"{seconds['train']:.2f}" if seconds else "",
        f"{sum(seconds.values()):.2f}" if seconds else "",
        f"{device['down'] / 1024:.1f}",
        f"{device['up'] / 1024:.1f}",
        "" if peak is None else f"{peak / 2**20:.0f}",
        "" if loss is None else f"{loss:.3f}",
    ]


@contextmanager
def watching(total: int, stream: TextIO | None = None) -> Iterator[Callable[[Event], None]]:
    """A watcher for a run of `total` rounds, 0 = for what is done before one, showing on `stream`, by default standard
    output. What is stopped says how to go on."""
    view, stream = View(total), stream or sys.stdout
    console = Console(file=stream)
    try:
        with Live(table(view), console=console, refresh_per_second=8) if stream.isatty() else nullcontext() as screen:

            def watch(event: Event) -> None:
                nonlocal view
                view = absorb(view, event)
                if screen is not None:
                    screen.update(table(view))
                elif text := line(event):
                    print(text, file=stream, flush=True)

            yield watch
    except (KeyboardInterrupt, SystemExit):
        if view.before is not None:
            print(f"stopped while {view.before['doing']}; the same command goes on from there", file=sys.stderr)
        elif view.folder:
            print(f"stopped after round {view.round}; go on with `pleat resume {view.folder}`", file=sys.stderr)
        raise


def report(summary: Mapping[str, Any], folder: Path) -> None:
    """Draw the run and print what came of it."""
    from pleat_server import lookup_table, plot, prepare

    if (folder / prepare.TABLE).exists():
        lookup_table.draw(prepare.facts_in(folder), folder / "lookup.png")
    picture = plot.draw(plot.read(folder), folder / "plot.png", title=folder.name)
    for text in summary_lines(summary):
        print(text)
    print(f"run folder     {folder} (journal.jsonl, model.safetensors, {picture.name})")


def summary_lines(summary: Mapping[str, Any]) -> list[str]:
    """The summary in words: accuracy at full size and every size, bytes against dense float32 FedAvg, seconds."""
    out = [f"rounds         {summary['rounds']} in {summary['wall_s']:.1f} s"]
    if summary.get("accuracy") is not None:
        beside = (
            f"  (FedAvg, all at full size: {summary['fedavg_accuracy']:.2%})" if summary.get("fedavg_accuracy") else ""
        )
        out.append(f"accuracy       {summary['accuracy']:.2%}{beside}")
    sizes = summary.get("accuracy_by_size") or {}
    if len(sizes) > 1:
        out.append("by size        " + "  ".join(f"{size(w)}: {a:.2%}" for w, a in sizes.items()))
    up, down = summary["bytes_up"], summary["bytes_down"]
    dense = summary["dense_bytes_up"] + summary["dense_bytes_down"]
    out.append(f"bytes          {up / 1024:.0f} KiB up, {down / 1024:.0f} KiB down, everything on the wire counted")
    if up + down:
        out.append(f"dense FedAvg   {dense / 1024:.0f} KiB at the least: {dense / (up + down):.1f} x as many")
    for device in summary["devices"]:
        peak = "" if device["peak_bytes"] is None else f", peak {device['peak_bytes'] / 2**20:.0f} MiB"
        brought = "" if device.get("rounds", 1) else ", and brought nothing"
        trained = f"submodel {size(device['submodel'])}, trained {device['train_s']:.1f} s{peak}{brought}"
        out.append(f"{device['name']:14} {trained}")
    return out
