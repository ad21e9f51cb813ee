"""The lookup table as a person reads it: sizes, what they cost, what they were worth; and a picture of its front."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from pleat_server.live import size
from pleat_server.plot import INK, SIZES, SOFT, plain

Facts = dict[str, Any]
WIDE = 160  # columns of a table that goes to a file or a pipe
_HEADINGS = ("size", "params", "MACs a sample", "KiB down", "KiB up", "MiB to train", "accuracy", "loss", "front")
_COSTS = (("up_bytes", 1 / 1024, "KiB up a round"), ("macs", 1e-6, "million MACs a sample, trained"))


def show(facts: Facts, console: Console | None = None) -> None:
    """Print the table; a star marks the rows that no other one beats in everything."""
    console = console or Console()
    if not console.is_terminal:
        console = Console(width=WIDE, file=console.file)
    table = Table(*_HEADINGS, box=box.SIMPLE_HEAD, pad_edge=False)
    table.columns[0].no_wrap = True
    for column in table.columns[1:]:
        column.justify = "right"
    for row in facts["rows"]:
        table.add_row(*_cells(row))
    console.print(table)
    console.print(about(facts), highlight=False, soft_wrap=True)


def about(facts: Facts) -> str:
    """How the accuracies came about, in a sentence."""
    tuned = f"after {facts['epochs']} epochs on {facts['trained_on']} proxy samples" if facts["epochs"] else "as it is"
    return (
        f"accuracy: of each size {tuned} from the weights that pruning goes back to, on {facts['scored_on']} others; "
        "*: no size is cheaper in everything and as accurate"
    )


def _cells(row: Facts) -> list[str]:
    coded = f" keep {row['keep']:g}" * (row["keep"] != 1) + f" bits {row['bits']}" * (row["bits"] != 32)
    return [
        size(row["size"]) + coded,
        f"{row['params']:,}",
        f"{row['macs']:,.0f}",
        f"{row['down_bytes'] / 1024:.1f}",
        f"{row['up_bytes'] / 1024:.1f}",
        f"{row['memory_bytes'] / 2**20:.2f}",
        f"{row['accuracy']:.1%}",
        f"{row['loss']:.3f}",
        "*" if row["front"] else "",
    ]


def draw(facts: Facts, path: Path) -> Path:
    """Write the Pareto front as a PNG: accuracy over bytes and over multiply-adds, a colour an architecture."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.5, 3.8), dpi=110, layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for axes, (cost, scale, label) in zip(panels, _COSTS, strict=True):
        _panel(axes, facts["rows"], cost, scale)
        axes.set_xlabel(label)
        plain(axes)
    panels[0].set_ylabel(f"accuracy on {facts['scored_on']} proxy samples, %")
    panels[1].legend(loc="lower right", frameon=False, fontsize=8)
    figure.suptitle(f"{facts['recipe']}, {facts['model']}: budget to size", color=INK, fontsize=11)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png")
    return path


def _panel(axes: Any, rows: list[Facts], cost: str, scale: float) -> None:
    """Every row a point, and a step line over those that none is cheaper than at this cost and as accurate."""
    shapes = list(dict.fromkeys(tuple(r["rates"][:2]) for r in rows))
    for place, shape in enumerate(shapes):
        own = [r for r in rows if tuple(r["rates"][:2]) == shape]
        name = " ".join(f"{axis} {rate:g}" for axis, rate in zip(("width", "depth"), shape, strict=True) if rate != 1)
        x, y = [scale * r[cost] for r in own], [100 * r["accuracy"] for r in own]
        axes.plot(x, y, "o", ms=5, color=SIZES[place % len(SIZES)], label=name or "whole net")
    best, reached = list[Facts](), -1.0
    for row in sorted(rows, key=lambda r: (r[cost], -r["accuracy"])):
        if row["accuracy"] > reached:
            best, reached = [*best, row], row["accuracy"]
    x, y = [scale * r[cost] for r in best], [100 * r["accuracy"] for r in best]
    axes.step([*x, scale * max(r[cost] for r in rows)], [*y, y[-1]], where="post", color=SOFT, lw=1.4, zorder=0)
    axes.set_xscale("log")
