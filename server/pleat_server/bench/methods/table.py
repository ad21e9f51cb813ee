"""Table: what methods came to, for people and as JSON: means over seeds, their spread, and shares of FedAvg's cost."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from pleat_server.bench.methods.setting import Setting

REFERENCE = "all-large"
Result = dict[str, Any]
WIDE = 140  # columns of a table that goes to a file


def figures(setting: Setting, found: Mapping[str, Sequence[Result]]) -> dict[str, Any]:
    """{"setting", "n", "methods": {name: means, spreads and totals}}; costs also as shares of all-large's, if it is
    among them."""
    methods = {name: _means(results) for name, results in found.items()}
    beside = methods.get(REFERENCE)
    for one in methods.values():
        if beside:
            one |= {f"{k}_share": one[k] / beside[k] for k in ("bytes_up", "bytes_down", "macs")}
    return {"setting": asdict(setting), "n": min(map(len, found.values())), "methods": methods}


def _means(results: Sequence[Result]) -> dict[str, Any]:
    full = [r["full"] for r in results if r["full"] is not None]
    small = [r["smallest"] for r in results if r["smallest"] is not None]
    return {
        "full": statistics.fmean(full) if full else None,
        "full_spread": max(full) - min(full) if full else None,
        "smallest": statistics.fmean(small) if small else None,
        "smallest_spread": max(small) - min(small) if small else None,
        "by_size": [
            statistics.fmean(values) for values in zip(*(r["by_size"].values() for r in results), strict=False)
        ],
        **{key: statistics.fmean(r[key] for r in results) for key in ("bytes_up", "bytes_down", "macs", "cpu_s")},
        "seeds": [r["seed"] for r in results],
    }


def show(figures: Mapping[str, Any]) -> None:
    """Print it, best first."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDE)
    setting, n = figures["setting"], figures["n"]
    title = f"setting {setting['name']}, {setting['rounds']} rounds, seeds: {n}, scored on {setting['part']}"
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left")
    table.add_column("method", no_wrap=True)
    for heading in (
        "full size %",
        "by size, largest first %",
        "sizes, % of the largest",
        "MB up",
        "MB down",
        "T multiply-adds",
    ):
        table.add_column(heading, justify="right")
    for name, one in ranked(figures):
        table.add_row(
            name,
            _percent(one["full"], one["full_spread"] if n > 1 else None),
            " ".join(f"{100 * a:.0f}" for a in one["by_size"]) or "-",
            _sizes(one.get("shares", []), setting["budgets"]),
            f"{one['bytes_up'] / 1e6:.0f}",
            f"{one['bytes_down'] / 1e6:.0f}",
            f"{one['macs'] / 1e12:.2f}",
        )
    console.print(table)


def _sizes(shares: Sequence[float], budgets: Sequence[float]) -> str:
    """What each class trains, a star behind what is more than its budget."""
    pairs = zip(shares, budgets, strict=False)
    return " ".join(f"{100 * share:.0f}" + "*" * (share > 1.02 * budget) for share, budget in pairs) or "-"


def ranked(figures: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Best first; those without a score last."""
    return sorted(figures["methods"].items(), key=lambda pair: -(pair[1]["full"] or 0.0))


def _percent(mean: float | None, spread: float | None) -> str:
    if mean is None:
        return "-"
    return f"{100 * mean:.1f}" + ("" if spread is None else f" ±{50 * spread:.1f}")


def draw(figures: Mapping[str, Any], path: Path) -> None:
    """A bar a method: accuracy at full size, and a mark for the smallest."""
    from matplotlib.figure import Figure

    rows = [(name, one) for name, one in reversed(ranked(figures)) if one["full"] is not None]
    figure = Figure(figsize=(8, 1 + 0.26 * len(rows)), dpi=110, layout="constrained")
    axes = figure.subplots()
    axes.barh([n for n, _ in rows], [100 * one["full"] for _, one in rows], color="#8fb4d9", label="full size")
    small = [(100 * one["smallest"], n) for n, one in rows if one["smallest"] is not None]
    axes.plot([s for s, _ in small], [n for _, n in small], "o", color="#d1495b", ms=5, label="smallest size")
    axes.set_xlabel("accuracy, %")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="lower right", frameon=False, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png")
