"""`pleat recipes`: the methods that come with pleat, their six choices, and what each saves and costs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from pleat_server.cli import options

if TYPE_CHECKING:
    from pleat.recipes.recipe import Holds, Recipe, Rule

WIDE = 200  # columns of a table that goes to a file or a pipe


def run(
    name: Annotated[str, typer.Argument(help="Show this one in full: a name, or a .toml file.")] = "",
    model: Annotated[str, typer.Option(help="As the recipe applies to this net.")] = "",
    json: options.Json = False,
) -> None:
    """List the recipes with their six choices, or show one with all its numbers."""
    import msgspec

    from pleat.recipes.load import load, names

    if model:
        from pleat.nets.factory import resolve  # torch: the list does without it

        resolve(model)
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
    every = [described(load(n, model=model)) for n in names()]
    if json:
        options.dump(every)
    else:
        _show(every)


def described(recipe: Recipe) -> dict[str, Any]:
    """A recipe's row: method, paper, the six choices in a few words each, what it saves and what it costs."""
    rule, fold, returns, objective = recipe.rule, recipe.fold, recipe.returns, recipe.objective
    ladders = {"": recipe.holds.widths, "depth ": recipe.holds.depths, "density ": recipe.holds.densities}
    rates = (" x " if recipe.holds.crossed else ", ").join(
        axis + " ".join(f"{r:g}" for r in rates) for axis, rates in ladders.items() if rates != (1.0,)
    )
    fill = "zero" if fold.fill == "zero" else {1.0: "coverage", 0.0: "residual"}.get(fold.exponent)
    return {
        "name": recipe.name,
        "summary": recipe.summary,
        "paper": recipe.paper,
        "holds": (rates or "1") + (f", {recipe.holds.exits} exits" if recipe.holds.exits > 1 else ""),
        "rule": ", ".join(_rule(rule, recipe.holds)),
        "objective": ", ".join(
            [
                objective.name,
                *(["nested"] if objective.nested else []),
                *([f"gate {objective.gate}"] if objective.gate else []),
                *(["scaler"] if objective.scaler else []),
                *(["all entries"] if objective.dense else []),
                *([f"dynamic {objective.dynamic:g}"] if objective.dynamic else []),
                *([f"proximal {objective.proximal:g}"] if objective.proximal else []),
                *([objective.subspace] if objective.subspace else []),
                *(["static batch norm"] if objective.statistics else []),
            ]
        ),
        "returns": returns.up + ("" if returns.part == "own" else f", {returns.part}"),
        "fold": f"{fill or f'exponent {fold.exponent:g}'}, by {fold.weights}"
        + (f" x size^{fold.size:g}" if fold.size else "")
        + (", class rows" if fold.rows else "")
        + (f", momentum {fold.momentum:g}" if fold.momentum else "")
        + (f", by vote of {fold.votes:g}" if fold.votes else ""),
        "personal": ", ".join(recipe.personal.tensors) or "nothing",
        "saves": list(recipe.saves),
        "costs": recipe.costs,
    }


def _rule(rule: Rule, holds: Holds) -> list[str]:
    """The chooser, when it chooses, by what, and what a device does to it."""
    often = "anew each round" if rule.redraw else ""
    often = f"fitted to {rule.fit} every {rule.reconfigure} rounds" if rule.reconfigure else often
    score = "" if rule.score == "size" else f"by {rule.score}"
    first = f"first elected of {len(rule.pool)}" if rule.pool else ""
    falls = f"falling over {rule.cubic} rounds" if rule.cubic else ""
    change = f"{rule.adjust} on the device" if rule.adjust else ""
    depth = rule.depth if holds.depths != (1.0,) else ""
    mask = rule.mask if holds.densities != (1.0,) else ""
    width = "" if rule.chooser == "whole" and (depth or mask) else rule.chooser
    return [words for words in (width, depth, mask, first, often, score, falls, change) if words]


HEADINGS = ("method", "paper", "holds", "rule", "trains", "returns", "folds", "personal", "saves", "costs")
KEYS = ("name", "paper", "holds", "rule", "objective", "returns", "fold", "personal", "saves", "costs")


def _show(every: list[dict[str, Any]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDE)
    table = Table(*HEADINGS, box=box.SIMPLE_HEAD, pad_edge=False)
    for one in every:
        table.add_row(*(", ".join(v) or "nothing" if isinstance(v := one[k], list) else v for k in KEYS))
    table.columns[0].no_wrap = True
    console.print(table)
