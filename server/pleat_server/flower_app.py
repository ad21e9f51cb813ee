"""The server under Flower: `ElasticStrategy` as a `ServerApp`, told by the run config what to run.

    [tool.flwr.app.components]
    serverapp = "pleat_server.flower_app:app"

The run's folder is `folder`, else runs/flower-RUN below the directory that the SuperLink was started in; it is a run's
folder like any other. Naming it again goes on where it stopped, whatever stopped it.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from pleat import shard as shards
from pleat.errors import PleatError
from pleat.exchange import flower, limits
from pleat.exchange.flower import Settings
from pleat_server import app as runs
from pleat_server.cli.options import overrides
from pleat_server.config import RunConfig
from pleat_server.desk import OrderBook
from pleat_server.keep.spool import Spool
from pleat_server.link.flower_carrier import FlowerCarrier
from pleat_server.link.grid import FleetGrid
from pleat_server.live import line
from pleat_server.run_recipe import checked, keep_recipe, laid_over, read_recipe
from pleat_server.strategy import ElasticStrategy


def server_app(defaults: Mapping[str, Any] | None = None) -> ServerApp:
    """A `ServerApp`; `defaults` stand where the run config says nothing, as under `run_simulation`, which has none."""
    made, below = ServerApp(), dict(defaults or {})

    @made.main()
    def main(grid: Grid, context: Context) -> None:
        try:
            run(grid, flower.settings({**below, **context.run_config}), context.run_id)
        except PleatError:
            sys.tracebacklimit = 0  # Flower logs what ended the app, and the process ends: the line alone is enough
            raise

    return made


def run(grid: Grid, said: Settings, run_id: int) -> dict[str, Any]:
    """One run to its end; returns the summary. Raises PleatError; what could not begin leaves nothing behind."""
    config = _config(said, Path(said.folder or f"runs/flower-{run_id}").absolute())
    test = shards.read(config.data) if config.data else None
    checked(config)
    with runs.begun(config.folder):
        return _run(grid, config, test)


def _run(grid: Grid, config: RunConfig, test: shards.Shard | None) -> dict[str, Any]:
    folder, run = config.folder, config.folder.name
    spool = Spool(folder / "spool")
    book = OrderBook(run, spool.has)
    carrier = FlowerCarrier(grid, spool, book, run)
    _watch({"event": "notice", "text": f"run folder {folder}"})
    if not config.input_shape:
        config = _shaped(config, test, carrier)
    if not (folder / "run.json").exists():
        keep_recipe(config, read_recipe(config))
        config.save()
    strategy = ElasticStrategy(
        config.recipe,
        config.model,
        input_shape=config.input_shape,
        classes=config.classes,
        folder=folder,
        seed=config.seed,
        overrides=laid_over(config),
        test=test,
        proxy=config.proxy,
        watch=_watch,
    )
    setup = strategy.setup
    fleet = FleetGrid(carrier, book, spool, run, setup.model, setup.net, hosted=True)
    strategy.start(fleet, num_rounds=config.rounds)
    return runs.conclude(config, setup, strategy.state, _watch)


def _config(said: Settings, folder: Path) -> RunConfig:
    """What a run that is there began with, for as many rounds as said now; else what is said now."""
    limits.check_run(folder.name)
    if (folder / "run.json").exists():
        return replace(RunConfig.load(folder), rounds=said.rounds)
    return RunConfig(
        recipe=said.recipe,
        model=said.model,
        folder=folder,
        rounds=said.rounds,
        seed=said.seed,
        data=Path(said.data).absolute() if said.data else None,
        proxy=Path(said.proxy).absolute() if said.proxy else None,
        policy=said.policy,
        least=said.least,
        overrides=overrides(said.set.split()),
        input_shape=flower.shape(said.input_shape),
        classes=said.classes,
        carried="flower",
    )


def _shaped(config: RunConfig, test: shards.Shard | None, carrier: FlowerCarrier) -> RunConfig:
    """The configuration with the shape of a sample and the number of classes: from the test data, else the devices."""
    if test is not None:
        shape, classes = test.input_shape, test.classes
    else:
        shape, classes = runs.ask_devices(carrier, max(1, read_recipe(config).server.least), _watch)
    return replace(config, input_shape=shape, classes=config.classes or classes)


def _watch(event: Mapping[str, Any]) -> None:
    text = line(event)
    if text:
        print(text, flush=True)


app = server_app()
