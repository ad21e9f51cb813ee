"""`pleat eval`: score a run's model, whole or cut to a width and depth, on any data of its shape."""

from __future__ import annotations

from typing import Annotated

import typer

from pleat_server.cli import options


def run(
    folder: options.Run,
    data: options.TestData = None,
    width: Annotated[float, typer.Option(help="Width rate of the submodel, 1 = the whole model.")] = 1.0,
    depth: options.Depth = "",
    json: options.Json = False,
) -> None:
    """Score the model a run has come to (its averaged copy, where the recipe keeps one)."""
    from pleat_server.exported import score_run

    result = score_run(folder, data, width, options.depth(depth))
    if json:
        options.dump(result)
        return
    print(
        f"accuracy {result['accuracy']:.2%}  loss {result['loss']:.4f}  on {result['samples']} samples, "
        f"width {result['width']:g}, round {result['round']}"
    )
