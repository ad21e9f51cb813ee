"""A picture of a run, from its journal: accuracy over bytes and over seconds, and who trained which submodel when."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from pleat.errors import UseError
from pleat_server.keep.journal import Journal
from pleat_server.live import size

Series = dict[str, Any]
INK, SOFT = "#1f2933", "#9aa5b1"
SIZES = ("#0b3c5d", "#328cc1", "#d9822b", "#b03a5b", "#5b8c5a", "#7b5ea7", "#8d6e63", "#546e7a")  # largest width first


def read(folder: Path) -> Series:
    """What there is to draw: per round cumulative bytes and seconds, accuracies, widths by device. Raises UseError."""
    if not (folder / "journal.jsonl").is_file():
        raise UseError(f"{folder} holds no run with a finished round (no journal.jsonl); name the folder of a run")
    lines = Journal.read(folder / "journal.jsonl")
    if not lines:
        raise UseError(f"{folder} has no finished round yet; draw it later")
    series = _series(lines)
    if (folder / "fedavg" / "journal.jsonl").is_file():
        series["fedavg"] = _series(Journal.read(folder / "fedavg" / "journal.jsonl"))
    return series


def _series(lines: list[dict[str, Any]]) -> Series:
    sizes = dict.fromkeys(s for line in lines for s in line.get("accuracy_by_size", {}))  # largest first
    names = sorted({d["name"] for line in lines for d in line["devices"]})
    return {
        "round": [line["round"] for line in lines],
        "bytes": np.cumsum([line["bytes_up"] + line["bytes_down"] for line in lines]).tolist(),
        "seconds": np.cumsum([line["seconds"] for line in lines]).tolist(),
        "accuracy": [line.get("accuracy") for line in lines],
        "by_size": {s: [line.get("accuracy_by_size", {}).get(s) for line in lines] for s in sizes},
        "submodels": {
            name: [next((d["size"] for d in line["devices"] if d["name"] == name), None) for line in lines]
            for name in names
        },
    }


def draw(series: Series, path: Path, title: str = "") -> Path:
    """Write the picture as a PNG and return its path."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.8), dpi=110, layout="constrained")
    by_bytes, by_seconds, who = figure.subplots(1, 3, gridspec_kw={"width_ratios": [1, 1, 1.15]})
    _accuracy(by_bytes, series, [b / 2**20 for b in series["bytes"]], "MiB moved, both ways")
    _accuracy(by_seconds, series, series["seconds"], "seconds")
    if "fedavg" in series:
        _beside(by_bytes, series["fedavg"])
    by_bytes.set_ylabel("test accuracy, %")
    handles, labels = by_bytes.get_legend_handles_labels()
    if handles:
        by_seconds.legend(handles, labels, loc="lower right", frameon=False, fontsize=8)
    _submodels(who, series)
    figure.suptitle(title, color=INK, fontsize=11)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png")
    return path


def _percent(values: list[float | None]) -> list[float]:
    return [float("nan") if v is None else 100 * v for v in values]


def _accuracy(axes: Any, series: Series, x: list[float], label: str) -> None:
    sizes = series["by_size"] or {"1": series["accuracy"]}
    for place, (label, values) in enumerate(sizes.items()):
        name = "full size" if label == "1" else size(label)
        axes.plot(x, _percent(values), color=SIZES[place % len(SIZES)], lw=2.0 if label == "1" else 1.2, label=name)
    axes.set_xlabel(label)
    plain(axes)


def _beside(axes: Any, fedavg: Series) -> None:
    """FedAvg beside it; bytes span decades, so the axis becomes logarithmic."""
    x = [b / 2**20 for b in fedavg["bytes"]]
    axes.plot(x, _percent(fedavg["accuracy"]), color=SOFT, lw=1.6, ls="--", label="FedAvg, dense float32")
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")


def _submodels(axes: Any, series: Series) -> None:
    """One row a device, one square a round, coloured by the width it trained; white where it did not take part."""
    names = list(series["submodels"])
    trained = {s for row in series["submodels"].values() for s in row if s is not None}
    ladder = _ladder(series, trained)
    colours = {s: SIZES[i % len(SIZES)] for i, s in enumerate(ladder)}
    for y, name in enumerate(names):
        for at, label in zip(series["round"], series["submodels"][name], strict=True):
            if label is not None:
                axes.add_patch(_square(at, y, colours[label]))
    axes.set_xlim(series["round"][0] - 0.5, series["round"][-1] + 0.5)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel("round: submodel trained")
    shown = [s for s in ladder if s in trained]
    for label in shown:
        axes.plot([], [], "s", color=colours[label], label=size(label))
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, 1.14), ncols=max(1, len(shown)), frameon=False, fontsize=8)
    plain(axes, grid=False)


def _ladder(series: Series, trained: set[str]) -> list[str]:
    """Sizes in the order in which the accuracy curves have their colours."""
    return [*series["by_size"], *sorted(trained - series["by_size"].keys(), reverse=True)]


def _square(x: float, y: float, colour: str) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((x - 0.5, y - 0.36), 1.0, 0.72, facecolor=colour, edgecolor="white", linewidth=0.6)


def plain(axes: Any, grid: bool = True) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=INK, labelsize=8)
    if grid:
        axes.grid(True, color="#e4e7eb", lw=0.7)
        axes.set_axisbelow(True)
