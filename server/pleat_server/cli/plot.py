"""`pleat plot`: a picture of a run from its journal."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pleat_server.cli import options


def run(
    folder: options.Run,
    out: Annotated[Path | None, typer.Option(help="PNG to write. Default: RUN/plot.png.")] = None,
    json: options.Json = False,
) -> None:
    """Draw accuracy over bytes and over seconds, and who trained which submodel when."""
    from pleat_server import plot

    series = plot.read(folder)
    if json:
        options.dump(series)
        return
    path = plot.draw(series, out or folder / "plot.png", title=folder.name)
    print(path)
