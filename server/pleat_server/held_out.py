"""Held out: the samples that a run is scored on, made again from its configuration alone."""

from __future__ import annotations

from pathlib import Path

from pleat.errors import UseError
from pleat.shard import Shard, read
from pleat_server.config import RunConfig
from pleat_server.shards import Dealt, deal
from pleat_server.sources import open_source


def dealt_again(config: RunConfig) -> Dealt:
    """The data of a simulated run, dealt as it was, from `config.how`. Raises UseError where they are gone."""
    how = config.how
    return deal(open_source(how["source"]), how["devices"], how["split"], holdout=how["holdout"], seed=config.seed)


def scored_on(config: RunConfig, given: Path | None) -> tuple[Shard | None, str]:
    """The samples in the file `given`, or else the run's own test data, with where they are from; or None, and why
    there are none. Raises UseError where `given` is not a usable file."""
    if given is not None:
        return read(given), str(given)
    beside = RunConfig.load(config.folder.resolve().parent) if config.carried == "beside" else config
    try:
        if beside.data is not None:
            return read(beside.data), str(beside.data)
        if beside.carried == "simulate" and beside.how:
            held = dealt_again(beside).test
            return held, "the run's own test data" if held is not None else "the run held nothing out"
    except UseError as error:
        return None, f"the run's own test data are gone: {error}"
    return None, "the run keeps no test data of its own"
