"""`pleat prune`: nested masks and the lookup table of a recipe, from proxy data, ahead of a run."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pleat.errors import UseError
from pleat_server.cli import options

if TYPE_CHECKING:
    from pleat.shard import Shard
    from pleat_server.config import RunConfig


def run(
    recipe: options.RecipeName = "elf",
    model: options.ModelName = "mlp",
    source: Annotated[
        str, typer.Option(help="Data to draw the proxy from: digits, FILE.npz, image folder or torchvision name.")
    ] = "digits",
    holdout: Annotated[float, typer.Option(help="Share of it held out for the server, of which the proxy is.")] = 0.2,
    proxy: options.Proxy = None,
    cache: options.Cache = None,
    out: Annotated[Path, typer.Option(help="Folder for scores, table, picture and proxy samples.")] = Path("pruned"),
    seed: options.Seed = 0,
    threads: Annotated[int, typer.Option(min=1, help="torch's threads; small nets are fastest on one.")] = 1,
    set_: options.Set = None,
    json: options.Json = False,
) -> None:
    """Prune on proxy data by cycles, score every size that the recipe offers, and show what each costs and is worth.

    A run of the same recipe, net, seed and proxy samples finds the result in the cache. Ctrl-C loses no full cycle.
    """
    from pleat.shard import write
    from pleat_server import live, lookup_table, prepare
    from pleat_server.config import RunConfig
    from pleat_server.evaluate import use_threads
    from pleat_server.proxy import check
    from pleat_server.run_recipe import checked

    laid = options.overrides(set_)
    config = RunConfig(recipe, model, out, seed=seed, proxy=proxy, cache=cache, overrides=laid)
    chosen = checked(config)
    if not prepare.needed(chosen):
        raise UseError(f'recipe {recipe} does not rank by pruning on proxy data; one that does says rule.score = "imp"')
    use_threads(threads)
    samples, known, where = _samples(config, source, holdout, chosen.proxy.share)
    check(samples, samples.input_shape, samples.classes, known, chosen.proxy.share, where)
    with live.watching(0, sys.stderr if json else None) as watch:
        scores, facts = prepare.pruned(config, chosen, samples.input_shape, samples.classes, samples, watch)
    out.mkdir(parents=True, exist_ok=True)
    prepare.keep(out, scores, facts)
    write(out / "proxy.npz", samples)
    lookup_table.draw(facts, out / "lookup.png")
    if json:
        options.dump(facts)
        return
    lookup_table.show(facts)
    print(f"{out}: {prepare.SCORES}, {prepare.TABLE}, lookup.png, proxy.npz")
    words = [f"--recipe {recipe} --model {model} --seed {seed} --proxy {shlex.quote(str(out / 'proxy.npz'))}"]
    words += [f"--cache {shlex.quote(str(cache))}"] * bool(cache) + [f"--set {shlex.quote(w)}" for w in set_ or []]
    print(f"use it: pleat serve {' '.join(words)}")


def _samples(config: RunConfig, source: str, holdout: float, share: float) -> tuple[Shard, int, str]:
    """The proxy samples, how many there are to train on, and where the samples come from: the file that was named, or
    the very samples that a simulated run on the same source draws."""
    from pleat.shard import read
    from pleat_server.proxy import drawn
    from pleat_server.shards import deal
    from pleat_server.sources import open_source

    if config.proxy is not None:
        return read(config.proxy), 0, f"--proxy {config.proxy}"
    dealt = deal(open_source(source), 1, "iid", holdout=holdout, seed=config.seed)
    if dealt.test is None:
        raise UseError(
            "--holdout 0 leaves the server nothing to draw proxy samples from; write --holdout 0.2, or --proxy FILE.npz"
        )
    known = len(dealt.devices[0])
    return drawn(dealt.test, known, share, config.seed)[0], known, f"proxy data drawn from {source}"
