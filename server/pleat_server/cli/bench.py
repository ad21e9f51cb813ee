"""`pleat bench`: the figures of the README, measured here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pleat.errors import UseError


def run(
    name: Annotated[
        str,
        typer.Argument(
            help="codec, aggregate, plan, policy, shrink, round, device_memory, demo, methods, text, elf or all."
        ),
    ] = "all",
    option: Annotated[
        list[str] | None,
        typer.Option(
            "--option",
            help="Of methods: setting=s (s, s-macs, s-iid), data=FILE.npz, only='NAME;NAME', seeds=0,1,2, rounds=100, "
            "jobs=2, part=test; of text all of them but setting, and data=FILE.json.xz; of elf: data, model, rounds, "
            "devices, splits, seeds. Repeatable.",
            metavar="KEY=VALUE",
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for NAME.json files.")] = Path("build/bench"),
) -> None:
    """Run one benchmark, or all of them one after another, and leave OUT/NAME.json: medians, with n."""
    from pleat_server import bench

    odd = [word for word in option or [] if "=" not in word]
    if odd:
        raise UseError(f"--option {odd[0]}: expected KEY=VALUE, such as seeds=0,1,2")
    options = dict(word.split("=", 1) for word in option or [])
    bench.run_all(out) if name == "all" else bench.run_one(name, out, options)
