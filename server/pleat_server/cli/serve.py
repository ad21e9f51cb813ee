"""`pleat serve`: the server of a run, for devices that connect over gRPC."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pleat_server.cli import options


def run(
    recipe: options.RecipeName = "elastic",
    model: options.ModelName = "cnn",
    rounds: options.Rounds = 30,
    listen: Annotated[str, typer.Option(help="HOST:PORT to listen on; port 0 takes a free one.")] = "127.0.0.1:8470",
    data: Annotated[
        Path | None, typer.Option(help="Test data, .npz with x and y. Default: score on the devices' hold-outs.")
    ] = None,
    seed: options.Seed = 0,
    policy: options.Policy = "",
    least: Annotated[int, typer.Option(min=0, help="Devices to wait for before a round begins, 0: the recipe's.")] = 0,
    folder: options.Folder = None,
    cert: Annotated[Path | None, typer.Option(help="TLS certificate chain, PEM.")] = None,
    key: Annotated[Path | None, typer.Option(help="TLS private key, PEM.")] = None,
    ca: Annotated[Path | None, typer.Option(help="Certificate authority that devices must be signed by, PEM.")] = None,
    insecure: Annotated[bool, typer.Option("--insecure", help="Allow plaintext beyond this machine.")] = False,
    proxy: options.Proxy = None,
    cache: options.Cache = None,
    input_shape: Annotated[str, typer.Option(help="Shape of a sample, such as 1x28x28. Default: from the data.")] = "",
    classes: Annotated[int, typer.Option(min=0, help="Number of classes, 0: from the data.")] = 0,
    set_: options.Set = None,
    json: options.JsonFile = None,
) -> None:
    """Serve a run: plan, send, fold and keep, round by round.

    Devices join with `pleat-client run --server HOST:PORT --data shard.npz --name NAME`, before or after this starts.
    Ctrl-C stops cleanly (exit code 130); `pleat resume RUN` goes on.
    """
    from pleat_server import app, live
    from pleat_server.config import RunConfig

    config = RunConfig(
        recipe=recipe,
        model=model,
        rounds=rounds,
        seed=seed,
        folder=folder or options.new_folder(recipe, model),
        data=data,
        listen=listen,
        insecure=insecure,
        cert=cert,
        key=key,
        ca=ca,
        policy=policy,
        proxy=proxy,
        cache=cache,
        least=least,
        overrides=options.overrides(set_),
        input_shape=options.shape(input_shape),
        classes=classes,
    )
    with live.watching(rounds) as watch:
        summary = app.serve(config, watch)
    live.report(summary, config.folder)
    if json:
        options.write_json(json, summary)
