"""What a recipe wants of the server before the first round: scores by pruning on proxy data and the lookup table, or
squared gradients of proxy data.

A run keeps them in its folder, so that going on with it needs nothing else; how pruning came about is in the cache, so
that the next run of the same net, seed, data and schedule finds it. Samples that were drawn from the server's own
data for it are never scored on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from pleat import shard as shards
from pleat import tensorfile
from pleat.disk import write_together
from pleat.elastic.choosers import Rung
from pleat.elastic.importance import IMP, SQUARES
from pleat.errors import LocalError, PleatError, UseError
from pleat.exchange.order import Work
from pleat.nets.build import spec
from pleat.nets.trace import model_map
from pleat.params import Params
from pleat.recipes.recipe import Recipe
from pleat.shard import Shard
from pleat_server import proxy
from pleat_server.config import RunConfig, cache_folder
from pleat_server.plan.catalogue import catalogue
from pleat_server.plan.offers import Line, lines
from pleat_server.round import work_of
from pleat_server.simulate.proxy import Job, epochs_made, mean_squares, prune, scores_of, worths

Watch = Callable[[dict[str, Any]], None]
SCORES, TABLE, GRADIENTS = "imp.safetensors", "lookup.json", "squares.safetensors"


def needed(recipe: Recipe) -> bool:
    """Whether the recipe ranks by what pruning came to, and offers more than the whole net."""
    return recipe.rule.score == IMP and recipe.holds.rungs != (Rung(),)


def prepare(
    config: RunConfig,
    recipe: Recipe,
    input_shape: tuple[int, ...],
    classes: int,
    own: Shard | None,
    known: int,
    watch: Watch = lambda event: None,
) -> Shard | None:
    """Leave what the recipe needs in the run's folder, scores and table or gradients, where it is not there yet; what
    may be scored on of the server's `own` samples. `known`: training samples on all devices, 0 = nobody knows.

    Raises UseError where there are no proxy data, or they do not do.
    """
    wanted = _wanted(recipe)
    if not wanted:
        return own
    samples, rest, where = _samples(config, recipe, own, known)
    if not all((config.folder / name).exists() for name in wanted):
        proxy.check(samples, input_shape, classes, known, recipe.proxy.share, where)
    if needed(recipe) and not all((config.folder / name).exists() for name in (SCORES, TABLE)):
        scores, facts = pruned(config, recipe, input_shape, classes, samples, watch)
        keep(config.folder, scores, facts)
    if GRADIENTS in wanted and not (config.folder / GRADIENTS).exists():
        net = spec(config.model, input_shape, classes, recipe.holds.exits)
        found = mean_squares(net, model_map(net), _plain(recipe), samples, config.seed)
        write_together([(config.folder / GRADIENTS, tensorfile.pieces(found))])
        watch({"event": "notice", "text": f"gradients of {len(samples)} proxy samples: {config.folder / GRADIENTS}"})
    return rest


def _wanted(recipe: Recipe) -> tuple[str, ...]:
    """The files that a run by this recipe needs in its folder."""
    return (SCORES, TABLE) * needed(recipe) + (GRADIENTS,) * (recipe.rule.gradients == "proxy")


def check_there_are(config: RunConfig, recipe: Recipe, own: bool) -> None:
    """Raises UseError where the recipe needs data of the server's, and there are neither proxy data nor `own`."""
    if _wanted(recipe) and config.proxy is None and not own:
        raise UseError(
            f"recipe {recipe.name} needs data of the server's before the first round, and there are none: "
            f"{proxy.FILE_HINT}, or --data FILE.npz to draw them from"
        )


def _plain(recipe: Recipe) -> Work:
    """How the server trains: as devices do, with the objective of the net alone."""
    return replace(work_of(recipe), objective="cross_entropy", settings={}, gate="", adjust="", scaler=False)


def _samples(config: RunConfig, recipe: Recipe, own: Shard | None, known: int) -> tuple[Shard, Shard | None, str]:
    """Proxy samples, what is left of the server's own, and where they come from."""
    check_there_are(config, recipe, own is not None)
    if config.proxy is not None:
        return shards.read(config.proxy), own, f"--proxy {config.proxy}"
    assert own is not None  # as was checked
    samples, rest = proxy.drawn(own, known, recipe.proxy.share, config.seed)
    return samples, rest, f"proxy data drawn from {config.data or 'what was held out'}"


def pruned(
    config: RunConfig, recipe: Recipe, input_shape: tuple[int, ...], classes: int, samples: Shard, watch: Watch
) -> tuple[Params, dict[str, Any]]:
    """The scores of pruning on `samples`, and the lookup table of the rows they make, as plain facts."""
    net = spec(config.model, input_shape, classes, recipe.holds.exits)
    model, cache = model_map(net), (config.cache or cache_folder()) / "imp"
    job = Job(net, model, samples, recipe.proxy, _plain(recipe), config.seed)
    state = prune(job, cache, watch)
    scores = scores_of(job, state)
    rows = catalogue(model, recipe, config.seed, scores)
    found = worths(job, state, [(r.rung.label, r.selection) for r in rows], cache, watch)
    parts = proxy.parted(samples)
    return scores, {
        "recipe": recipe.name,
        "model": config.model,
        "seed": config.seed,
        "digest": job.digest,
        "cache": str(cache),
        "trained_on": len(parts.train),
        "scored_on": len(parts.held),
        "epochs": epochs_made(job, recipe.proxy.tune, parts.train) if recipe.proxy.tune else 0,
        "rows": lines(rows, found),
    }


def keep(folder: Path, scores: Params, facts: Mapping[str, Any]) -> None:
    """Write both into `folder`; the table, last, says that they are whole."""
    table = msgspec.json.format(msgspec.json.encode(facts), indent=2)
    write_together([(folder / SCORES, tensorfile.pieces(scores)), (folder / TABLE, table)])


def read(folder: Path, recipe: Recipe | None = None) -> tuple[dict[str, Params], list[Line]]:
    """What was prepared for the run in `folder`: scores and gradients under their names, and the table's lines; nothing
    for most recipes. Raises LocalError for files that cannot be read, or are not there though `recipe` needs them."""
    gone = [name for name in (_wanted(recipe) if recipe else ()) if not (folder / name).exists()]
    if gone:
        raise LocalError(f"{folder}: {gone[0]} is missing; `pleat resume {folder}` makes it again")
    pruned_here, kept = (folder / TABLE).exists(), dict[str, Params]()
    try:
        if (folder / GRADIENTS).exists():
            kept[SQUARES] = tensorfile.load(folder / GRADIENTS)[0]
        if pruned_here:
            kept[IMP] = tensorfile.load(folder / SCORES)[0]
        return kept, facts_in(folder)["rows"] if pruned_here else []
    except (OSError, PleatError, msgspec.DecodeError, KeyError) as error:
        raise LocalError(
            f"{folder}: {SCORES}, {TABLE} or {GRADIENTS} cannot be read ({error}); they can be made again: remove them "
            "and go on with the run"
        ) from None


def facts_in(folder: Path) -> dict[str, Any]:
    """The lookup table in `folder`, as plain facts."""
    facts: dict[str, Any] = msgspec.json.decode((folder / TABLE).read_bytes())
    return facts
