"""`pleat resume`: go on with a run that was stopped, or was to be longer."""

from __future__ import annotations

from typing import Annotated

import typer

from pleat_server.cli import options


def run(
    folder: options.Run,
    rounds: Annotated[int, typer.Option(min=0, help="New total of rounds, 0: as it was begun.")] = 0,
    json: options.JsonFile = None,
) -> None:
    """Go on with a run from its last good checkpoint, at the address it had.

    Nothing that was acknowledged is lost and nothing is counted twice; devices that were waiting find it again.
    """
    from pleat_server import app, live
    from pleat_server.config import RunConfig

    total = rounds or RunConfig.load(folder).rounds
    with live.watching(total) as watch:
        summary = app.resume(folder, watch, rounds)
    live.report(summary, folder)
    if json:
        options.write_json(json, summary)
