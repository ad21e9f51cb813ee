"""`pleat demo`: one server and four device daemons on this machine, on real data."""

from __future__ import annotations

from typing import Annotated

import typer

from pleat_server.cli import options


def run(
    seed: options.Seed = 0,
    model: Annotated[str, typer.Option(help="mlp or cnn.")] = "mlp",
    rounds: options.Rounds = 30,
    recipe: options.RecipeName = "elastic",
    policy: options.Policy = "",
    fedavg: Annotated[
        bool, typer.Option(help="Afterwards run FedAvg, all devices at full size, to compare with.")
    ] = True,
    folder: options.Folder = None,
    json: options.JsonFile = None,
) -> None:
    """Run the main job: four daemons of four classes of device, separate processes, scikit-learn's digits.

    The classes differ by their upload budgets alone, which afford just the widths 1, 1/2, 1/4 and 1/8.
    """
    from pleat_server import demo, live

    settings = demo.Demo(seed, model, rounds, recipe, policy, fedavg, folder or options.new_folder("demo", model))
    with live.watching(rounds) as watch:
        summary = demo.run(settings, watch)
    live.report(summary, settings.folder)
    if json:
        options.write_json(json, summary)
