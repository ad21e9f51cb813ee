"""`pleat-client status`: what the device on this machine is doing."""

from __future__ import annotations

import json
import os
import platform
from pathlib import Path
from typing import Annotated, Any

import typer

from pleat_client import config
from pleat_client import status as kept


def status(
    name: Annotated[str | None, typer.Option(help="The device's label. Default: the host's name.")] = None,
    state: Annotated[Path | None, typer.Option(help="Its state folder. Default: ~/.local/state/pleat/NAME.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> int:
    """Tell what the device on this machine is doing: run, order, memory, heat, unsent reports."""
    folder = state if state is not None else config.default_state(name or platform.node(), os.environ)
    found = kept.read(folder)
    typer.echo(json.dumps(found) if as_json else "\n".join(_lines(found)))
    return 0


def _lines(found: dict[str, Any]) -> list[str]:
    """What is known, one fact a line; what the board does not tell is left out."""
    shown = {key: value for key, value in found.items() if value not in (None, "")}
    for key in ("rss_bytes", "free_bytes"):
        if key in shown:
            shown[key.replace("bytes", "mib")] = f"{shown.pop(key) / 2**20:.0f}"
    if "hertz" in shown:
        shown["mhz"] = f"{shown.pop('hertz') / 1e6:.0f}"
    shown.pop("since", None)
    width = max(len(key) for key in shown)
    return [f"{key.replace('_', ' '):<{width}}  {value}" for key, value in shown.items()]
