"""The device-budget table for people: profile, budgets, fitted cost, link and last submodels of every device of a run.

Unknown is shown as a dash, never as 0; no limit as a dash too.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from pleat.errors import UseError, hint
from pleat_server.keep.history import History
from pleat_server.live import size

Row = Mapping[str, Any]
FILE = "devices.sqlite"
SHOWN = 5  # last submodels shown
HEADINGS = ("what it is", "samples", "budgets", "memory MiB", "cost", "link", "last submodels", "now")
UNLIMITED = 10_000  # columns


def read(folder: Path, name: str = "") -> list[dict[str, Any]]:
    """Every device the run in `folder` has seen, or the one called `name`. Raises UseError for an unknown one."""
    path = folder / FILE
    if not path.is_file():
        raise UseError(f"{folder} has seen no device yet (no {FILE}); name the folder of a run")
    history = History(path)
    try:
        rows = history.rows()
    finally:
        history.close()
    if not name:
        return rows
    found = [row for row in rows if row["name"] == name]
    if not found:
        known = [row["name"] for row in rows]
        raise UseError(f"{folder} has seen no device {name!r}; {hint(name, known, 'it has seen')}")
    return found


def show(rows: Sequence[Row]) -> None:
    """Print the table; where the terminal is too narrow for it, a paragraph a device."""
    table = Table()
    for heading in ("device", *HEADINGS):
        table.add_column(heading, no_wrap=True)
    for row in rows:
        table.add_row(row["name"], *cells(row))
    wide = Console(width=UNLIMITED)
    width = wide.measure(table).maximum
    terminal = shutil.get_terminal_size((UNLIMITED, 1)).columns if sys.stdout.isatty() else UNLIMITED
    if width <= terminal:
        Console(width=width).print(table)
        return
    for row in rows:
        print(row["name"])
        for heading, cell in zip(HEADINGS, cells(row), strict=True):
            print(f"  {heading:16} {cell}")


def cells(row: Row) -> list[str]:
    """What stands behind a device's name."""
    profile = row.get("profile") or {}
    return [
        what(profile),
        str(profile.get("samples") or "-"),
        budgets(profile.get("budgets") or {}),
        _mib(row.get("base_bytes")) + " empty of " + _mib(profile.get("memory_bytes")),
        cost(row.get("cost")),
        link(row.get("link") or {}),
        " ".join(size(w) for w in (row.get("submodels") or [])[-SHOWN:]) or "-",
        now(row),
    ]


def what(profile: Row) -> str:
    """Board, architecture, cores, accelerator."""
    cores = profile.get("cores")
    parts = [
        profile.get("board"),
        profile.get("machine"),
        f"{cores:g} cores" if cores else "",
        profile.get("accelerator"),
    ]
    return ", ".join(str(p) for p in parts if p) or "-"


def budgets(limits: Row) -> str:
    """The limits its owner set, with units."""
    seconds = limits.get("seconds")
    parts = [
        f"{_mib(limits['memory_bytes'])} MiB" if limits.get("memory_bytes") else "",
        f"{seconds:g} s" if seconds else "",
        f"{_kib(limits['upload_bytes'])} KiB up" if limits.get("upload_bytes") else "",
        f"{_kib(limits['download_bytes'])} KiB down" if limits.get("download_bytes") else "",
    ]
    return ", ".join(p for p in parts if p) or "-"


def cost(fit: Row | None) -> str:
    """Seconds a pass and a GMAC, how sure, and how often the detector found the device changed."""
    if not fit:
        return "-"
    a_pass, a_gmac = fit["theta"]
    changed = f", changed {fit['changes']} x" if fit.get("changes") else ""
    return f"{1e3 * a_pass:.2f} ms a pass, {a_gmac:.3g} s a GMAC, ±{fit['sigma']:.0%}{changed}"


def link(fitted: Row) -> str:
    """Typical rates both ways."""
    rates = {way: (fitted.get(way) or {}).get("typical") for way in ("up", "down")}
    return ", ".join(f"{rate / 2**20:.3g} MiB/s {way}" for way, rate in rates.items() if rate) or "-"


def now(row: Row) -> str:
    """What it is doing, or why it is idle."""
    if row.get("idle"):
        return str(row["idle"])
    if row.get("here") is False:
        return "away"
    beat = row.get("heartbeat") or {}
    heat = f", {beat['celsius']:.0f} °C" if beat.get("celsius") is not None else ""
    return str(beat.get("state") or "here") + heat


def _mib(count: int | None) -> str:
    return "-" if count is None else f"{count / 2**20:.0f}"


def _kib(count: int) -> str:
    return f"{count / 1024:.1f}"
