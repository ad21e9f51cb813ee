"""`pleat simulate`: the same strategy and device task in one process, without a network or a virtual clock."""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pleat_server.cli import options

if TYPE_CHECKING:
    from pleat.recipes.recipe import Recipe
    from pleat_server.config import RunConfig

HOLDOUT = 0.2  # of a device's shard, where devices score their own models


@dataclass(frozen=True)
class Fleet:
    """The simulated devices of a run, as the options below tell of them."""

    devices: int
    source: str
    split: str
    holdout: float
    afford: str
    threads: int


def run(
    recipe: options.RecipeName = "elastic",
    model: options.ModelName = "mlp",
    devices: Annotated[int, typer.Option(min=1, help="Number of simulated devices.")] = 20,
    rounds: options.Rounds = 30,
    source: Annotated[
        str, typer.Option(help="Data: digits, FILE.npz, FILE.json[.xz], image folder or torchvision name.")
    ] = "digits",
    split: Annotated[
        str, typer.Option(help="iid, dirichlet:A, quantity:A, labels:K, client or domain.")
    ] = "dirichlet:0.3",
    holdout: Annotated[float, typer.Option(help="Share of the data held out for the server to score on.")] = 0.2,
    afford: Annotated[
        str, typer.Option(help="Upload budgets that afford just these widths, dealt to devices in turn, such as 1,0.5.")
    ] = "",
    threads: Annotated[int, typer.Option(min=1, help="torch's threads; small nets are fastest on one.")] = 1,
    seed: options.Seed = 0,
    policy: options.Policy = "",
    folder: options.Folder = None,
    proxy: options.Proxy = None,
    cache: options.Cache = None,
    set_: options.Set = None,
    json: options.JsonFile = None,
) -> None:
    """Run a recipe on simulated devices in this process."""
    from pleat_server.config import RunConfig

    fleet = Fleet(devices, _kept(source), split, holdout, afford, threads)
    config = RunConfig(
        recipe=recipe,
        model=model,
        rounds=rounds,
        seed=seed,
        folder=folder or options.new_folder(recipe, model),
        policy=policy,
        proxy=proxy,
        cache=cache,
        overrides=options.overrides(set_),
        carried="simulate",
        how=asdict(fleet),
    )
    carry(config, json)


def _kept(source: str) -> str:
    """A file or folder of data by its whole path, so that the run can go on from anywhere; else the name."""
    is_path = source != "digits" and (source.endswith((".npz", ".json", ".json.xz")) or Path(source).is_dir())
    return str(Path(source).resolve()) if is_path else source


def carry(config: RunConfig, json: Path | None) -> None:
    """The run of `config` from where its folder stands, on the simulated devices that `config.how` tells of."""
    from pleat_server import app, demo, live
    from pleat_server.evaluate import use_threads
    from pleat_server.held_out import dealt_again
    from pleat_server.run_recipe import checked

    fleet = Fleet(**config.how)
    recipe = checked(config)
    use_threads(fleet.threads)
    dealt = dealt_again(config)
    classes = max(s.classes for s in (*dealt.devices, *([dealt.test] if dealt.test else [])))
    config = replace(config, input_shape=dealt.devices[0].input_shape, classes=classes)
    widths = demo.widths(fleet.afford)
    limits = demo.afford(demo.offered(config), widths) if widths else []
    budgets = [limits[i % len(limits)] for i in range(fleet.devices)] if limits else None
    kept = HOLDOUT if recipe.personal.tensors else 0.0  # such models are scored where they are
    try:
        with live.watching(config.rounds) as watch:
            virtual = app.virtual_devices(dealt.devices, budgets, kept, config.seed)
            summary = app.simulate(config, virtual, dealt.test, watch)
    except (KeyboardInterrupt, SystemExit):
        if (config.folder / "run.json").exists() and not held(recipe):
            print(f"go on with `pleat resume {config.folder}`", file=sys.stderr)
        raise
    live.report(summary, config.folder)
    if json:
        options.write_json(json, summary)


def held(recipe: Recipe) -> str:
    """What simulated devices alone hold of a run, and lose when the process ends; "" if a run does without."""
    if recipe.personal.tensors:
        return "personal tensors"
    return "masks of their own" if recipe.rule.own else ""
