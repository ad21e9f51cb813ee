"""`pleat bench`: the figures of the README, measured here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def run(
    name: Annotated[
        str, typer.Argument(help="codec, aggregate, plan, policy, shrink, round, device_memory, demo or all.")
    ] = "all",
    out: Annotated[Path, typer.Option(help="Folder for NAME.json files.")] = Path("build/bench"),
) -> None:
    """Run one benchmark, or all of them one after another, and leave OUT/NAME.json: medians, with n."""
    from pleat_server import bench

    bench.run_all(out) if name == "all" else bench.run_one(name, out)
