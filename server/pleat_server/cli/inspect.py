"""`pleat inspect`: what pleat sees in a net, and what it makes of it."""

from __future__ import annotations

from typing import Annotated

import typer

from pleat_server.cli import options


def run(
    model: Annotated[str, typer.Argument(help="Net: a name as for --model, or package.module:function.")],
    input_shape: Annotated[
        str, typer.Option("--input-shape", help="Shape of one sample, such as 3,32,32.", metavar="C,H,W")
    ],
    classes: Annotated[int, typer.Option(min=1, help="Number of classes.")] = 10,
    recipe: options.RecipeName = "elastic",
    json: options.Json = False,
) -> None:
    """Show a net's channel groups, depth units, sizes and submodels, and what stays whole and why."""
    from pleat.errors import UseError
    from pleat_server import inspection

    shape = options.shape(input_shape.replace(",", "x"))
    if not shape:
        raise UseError("--input-shape is empty; write the shape of one sample, such as 3,32,32")
    facts = inspection.inspect(model, shape, classes, recipe)
    if json:
        options.dump(facts)
        return
    inspection.show(facts)
