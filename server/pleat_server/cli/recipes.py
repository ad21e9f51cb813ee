"""`pleat recipes`: the methods that come with pleat."""

from __future__ import annotations

from typing import Annotated

import typer

from pleat_server.cli import options


def run(
    name: Annotated[str, typer.Argument(help="Show this one in full.")] = "",
    model: Annotated[str, typer.Option(help="As the recipe applies to this net.")] = "",
    json: options.Json = False,
) -> None:
    """List the recipes, or show one: its six choices and its numbers."""
    import msgspec

    from pleat.recipes.recipe import load, names

    if name:
        plain = msgspec.to_builtins(load(name, model=model))
        if json:
            options.dump(plain)
            return
        for key, value in plain.items():
            if not isinstance(value, dict):
                print(f"{key} = {value}")
            elif key != "models":
                print(f"{key}:  " + ", ".join(f"{k} = {v}" for k, v in value.items()))
        return
    every = [load(n) for n in names()]
    if json:
        options.dump([{"name": r.name, "summary": r.summary, "paper": r.paper} for r in every])
        return
    width = max((len(r.name) for r in every), default=0)
    for recipe in every:
        print(f"{recipe.name:{width}}  {recipe.summary}")
