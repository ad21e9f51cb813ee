"""`pleat devices`: the device-budget table of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pleat_server.cli import options


def run(
    folder: Annotated[
        Path | None, typer.Argument(help="Folder of a run. Default: the newest.", metavar="[RUN]")
    ] = None,
    name: Annotated[str, typer.Option(help="Only this device.")] = "",
    json: options.Json = False,
) -> None:
    """Show every device a run has seen: profile, budgets, fitted cost, link, last submodels."""
    from pleat_server import budget_table

    rows = budget_table.read(folder or options.latest_run(), name)
    if json:
        options.dump(rows)
        return
    budget_table.show(rows)
