"""The model a run has come to, from its folder alone: opened, cut to a width and a depth, and scored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pleat.elastic.choosers.depth import by_stage, stages
from pleat.elastic.selection import Selection, compose
from pleat.errors import UseError
from pleat.nets.build import initial
from pleat.params import Params
from pleat_server import app
from pleat_server.config import RunConfig
from pleat_server.evaluate import Score
from pleat_server.held_out import scored_on
from pleat_server.keep import checkpoint
from pleat_server.round import Setup, rung_of, size_of
from pleat_server.run_recipe import read_recipe
from pleat_server.state import State, from_checkpoint, seen_at


@dataclass(frozen=True)
class Opened:
    """A run as its folder tells of it."""

    config: RunConfig
    setup: Setup
    state: State

    def submodel(self, size: str, depth: Sequence[int] = ()) -> Selection:
        """What the run scores at `size`, a rate in (0, 1] or rates by name, with its stored masks; of its blocks those
        alone that `depth` keeps of every stage, where it is given. Raises UseError."""
        chosen = size_of(self.setup, self.state, rung_of(self.setup, size), initial(self.setup.net, self.config.seed))
        return compose(self.setup.model, chosen, by_stage(self.setup.model, depth)) if depth else chosen

    def kept_blocks(self, selection: Selection) -> list[int]:
        """How many blocks of every stage `selection` keeps."""
        return [sum(b not in selection.dropped for b in blocks) for blocks in stages(self.setup.model)]

    def params(self, size: str) -> Params:
        """The model that is scored and shipped, with the running statistics that `size` has of its own."""
        return seen_at(self.state.evaluated, self.state.extras, rung_of(self.setup, size))

    def score(self, selection: Selection, size: str, data: Path | None) -> tuple[Score | None, str]:
        """The submodel's score on the samples in `data`, or on the run's own test data, and where those are from; or
        None, and why it has none. Raises UseError for data that do not fit."""
        shard, where = scored_on(self.config, data)
        if shard is None:
            return None, where
        return app.evaluator(self.setup, shard, where).score(self.params(size), selection), where


def opened(folder: Path) -> Opened:
    """The run in `folder` at its last good checkpoint; nothing in the folder is changed. Raises UseError."""
    config = RunConfig.load(folder)
    if not checkpoint.present(folder / "checkpoint"):
        raise UseError(f"{folder} has no checkpoint yet: no round was finished; go on with `pleat resume {folder}`")
    _, arrays, facts, _ = checkpoint.load(folder / "checkpoint")
    setup = app.set_up(config, read_recipe(config), config.input_shape, config.classes)
    app.check_same_net(facts, setup, config, folder / "checkpoint")
    return Opened(config, setup, from_checkpoint(arrays, facts, setup.model))


def score_run(folder: Path, data: Path | None, size: str = "1", depth: Sequence[int] = ()) -> dict[str, Any]:
    """Accuracy and mean loss of the evaluated copy, cut to `size` and `depth`, on the samples in `data` or the run's
    own test data. Raises UseError."""
    run = opened(folder)
    selection = run.submodel(size, depth)
    score, where = run.score(selection, size, data)
    if score is None:
        raise UseError(f"nothing to score {folder} on: {where}; give --data FILE.npz")
    return {
        "run": folder.name,
        "round": run.state.round,
        "size": size,
        "depth": run.kept_blocks(selection),
        "data": where,
        "accuracy": score.accuracy,
        "loss": score.loss,
        "samples": score.samples,
    }
