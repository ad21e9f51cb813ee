"""`pleat simulate`: the same strategy and device task in one process, without a network or a virtual clock."""

from __future__ import annotations

from typing import Annotated

import typer

from pleat_server.cli import options

HOLDOUT = 0.2  # of a device's shard, where devices score their own models


def run(
    recipe: options.RecipeName = "elastic",
    model: options.ModelName = "mlp",
    devices: Annotated[int, typer.Option(min=1, help="Number of simulated devices.")] = 20,
    rounds: options.Rounds = 30,
    source: Annotated[str, typer.Option(help="Data: digits, FILE.npz, image folder or torchvision name.")] = "digits",
    split: Annotated[str, typer.Option(help="iid, dirichlet:A, quantity:A, labels:K or client.")] = "dirichlet:0.3",
    holdout: Annotated[float, typer.Option(help="Share of the data held out for the server to score on.")] = 0.2,
    afford: Annotated[
        str, typer.Option(help="Upload budgets that afford just these widths, dealt to devices in turn, such as 1,0.5.")
    ] = "",
    threads: Annotated[int, typer.Option(min=1, help="torch's threads; small nets are fastest on one.")] = 1,
    seed: options.Seed = 0,
    policy: options.Policy = "",
    folder: options.Folder = None,
    set_: options.Set = None,
    json: options.JsonFile = None,
) -> None:
    """Run a recipe on simulated devices in this process."""
    from pleat_server import app, demo, live
    from pleat_server.config import RunConfig
    from pleat_server.evaluate import use_threads
    from pleat_server.shards import deal
    from pleat_server.sources import open_source

    use_threads(threads)
    dealt = deal(open_source(source), devices, split, holdout=holdout, seed=seed)
    config = RunConfig(
        recipe=recipe,
        model=model,
        rounds=rounds,
        seed=seed,
        folder=folder or options.new_folder(recipe, model),
        policy=policy,
        overrides=options.overrides(set_),
        input_shape=dealt.devices[0].input_shape,
        classes=max(s.classes for s in (*dealt.devices, *([dealt.test] if dealt.test else []))),
    )
    widths = demo.widths(afford)
    limits = demo.afford(demo.offered(config), widths) if widths else []
    budgets = [limits[i % len(limits)] for i in range(devices)] if limits else None
    kept = HOLDOUT if app.read_recipe(config).personal.tensors else 0.0  # such models are scored where they are
    with live.watching(rounds) as watch:
        summary = app.simulate(config, app.virtual_devices(dealt.devices, budgets, kept, seed), dealt.test, watch)
    live.report(summary, config.folder)
    if json:
        options.write_json(json, summary)
