"""Scores the model a run has come to, from its folder alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pleat.elastic.choosers import Draw, Rung
from pleat.errors import UseError
from pleat.params import Params
from pleat.shard import read
from pleat_server import app
from pleat_server.config import RunConfig
from pleat_server.keep import checkpoint
from pleat_server.plan.catalogue import chosen


def score_run(folder: Path, data: Path, width: float = 1.0) -> dict[str, Any]:
    """Accuracy and mean loss of the evaluated copy, cut to `width`, on the samples in `data`. Raises UseError."""
    if not 0 < width <= 1:
        raise UseError(f"--width must be a rate in (0, 1], got {width:g}")
    config = RunConfig.load(folder)
    if not (folder / "checkpoint").is_dir():
        raise UseError(f"{folder} has no checkpoint yet: no round was finished")
    number, arrays, _, _ = checkpoint.load(folder / "checkpoint")
    params: Params = dict(arrays["average"] if "average" in arrays else arrays["params"])
    recipe = app.read_recipe(config)
    setup = app.set_up(config, recipe, config.input_shape, config.classes)
    selection = chosen(recipe.rule, setup.model, Rung(width), Draw(config.seed, number, "", params))
    score = app.evaluator(setup, read(data), str(data)).score(params, selection)
    return {
        "run": folder.name,
        "round": number,
        "width": width,
        "data": str(data),
        "accuracy": score.accuracy,
        "loss": score.loss,
        "samples": score.samples,
    }
