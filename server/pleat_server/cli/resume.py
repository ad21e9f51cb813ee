"""`pleat resume`: go on with a run that was stopped, or was to be longer."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from pleat.errors import UseError
from pleat_server.cli import options, simulate
from pleat_server.cli.simulate import held

if TYPE_CHECKING:
    from pleat_server.config import RunConfig


def run(
    folder: options.Run,
    rounds: Annotated[int, typer.Option(min=0, help="New total of rounds, 0: as it was begun.")] = 0,
    json: options.JsonFile = None,
) -> None:
    """Go on with a run from its last good checkpoint, at the address it had; simulated ones and demos in their own way.

    Nothing that was acknowledged is lost and nothing is counted twice; devices that were waiting find it again.
    """
    from pleat_server import app, demo, live
    from pleat_server.config import RunConfig

    config = RunConfig.load(folder)
    config = replace(config, rounds=rounds or config.rounds)
    _check(config)
    if config.carried == "simulate":
        simulate.carry(config, json)
        return
    demonstrated = config.carried == "demo"
    with live.watching(config.rounds) as watch:
        summary = demo.resume(config, watch) if demonstrated else app.resume(folder, watch, config.rounds)
    live.report(summary, folder)
    if json:
        options.write_json(json, summary)


def _check(config: RunConfig) -> None:
    """Raises UseError for a run that cannot be gone on with from here, saying what can be done."""
    from pleat_server.run_recipe import read_recipe

    folder = config.folder
    if config.carried == "flower":
        words = f'folder="{folder.resolve()}" rounds={config.rounds}'
        raise UseError(f"{folder} is a run under Flower, which goes on with it: flwr run . --run-config '{words}'")
    if config.carried == "beside":
        raise UseError(f"{folder} is part of another run; go on with `pleat resume {folder.resolve().parent}`")
    if config.carried == "simulate" and not config.how:
        raise UseError(f"{folder} was simulated by a program, not by a command; go on by running that program again")
    if config.carried == "simulate" and (lost := held(read_recipe(config))):
        again = f"pleat simulate --recipe {config.recipe} --model {config.model} --seed {config.seed}"
        raise UseError(
            f"{folder}: its simulated devices kept {lost} in memory alone, so it cannot go on; begin anew: {again}"
        )
    if config.carried not in ("grpc", "simulate", "demo"):
        raise UseError(f"{folder / 'run.json'}: carried by {config.carried!r}, which this version of pleat cannot do")
