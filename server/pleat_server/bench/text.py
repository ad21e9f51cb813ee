"""Text: InclusiveFL and its five baselines on sentences, a transformer of six layers in sizes of two, four and six.

A third of the devices affords each size. All train alike, by plain SGD from random weights (the paper's begin with a
pretrained BERT), and are scored on the same sentences; `local` too, device by device. HeteroFL's widths cost no
more than the depths do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from pleat.errors import UseError
from pleat.nets.transformer import transformer
from pleat.shard import Shard
from pleat_server.bench.methods import table
from pleat_server.bench.methods.contenders import Contender, picked
from pleat_server.bench.methods.runs import results
from pleat_server.bench.methods.setting import VALIDATION, Setting, numbers
from pleat_server.shards import Source, deal
from pleat_server.sources import open_source

WORDS, VOCABULARY = 16, 2048
OPTIONS = ("data", "only", "seeds", "rounds", "jobs", "part")

_SIZES = {"exits": 3, "depths": [1.0, 0.66, 0.33]}
_LARGE, _OWN = {"exits": 3}, {"depth": "depth-own"}
_SMALL = {"exits": 3, "depths": [0.33], "widths": [1.0], "scaled_start": False}


def encoder(input_shape: str, classes: int, exits: int = 0) -> nn.Module:
    """The zoo's transformer with six layers."""
    return transformer(input_shape, classes, layers=6, vocabulary=VOCABULARY, exits=exits)


@dataclass(frozen=True)
class Sentences(Setting):
    """`taken`: sentences that are trained on, drawn by the seed; 0: all. What they are told apart by is the third entry
    of a row, where there is one (CLINC150's ten domains), else the label."""

    taken: int = 3000

    def shards(self, seed: int) -> tuple[tuple[Shard, ...], Shard]:
        """Sentences to train on and to score on; of a file that sets none aside for that, a part."""
        source = open_source(self.data, words=WORDS, vocabulary=VOCABULARY)
        if source.clients is not None:
            source = replace(source, shard=Shard(source.shard.x, source.clients))
        if source.test is not None and self.part == "validation":
            source = _only(source, np.setdiff1d(np.arange(len(source.shard)), source.test), ())
        rng, test = np.random.default_rng([seed, 7]), () if source.test is None else source.test
        rest = np.setdiff1d(np.arange(len(source.shard)), np.asarray(test, np.int64))
        if 0 < self.taken < rest.size:
            source = _only(source, np.sort(rng.permutation(rest)[: self.taken]), test)
        dealt = deal(source, self.devices, self.split, holdout=VALIDATION, seed=seed)
        assert dealt.test is not None  # a share is held out
        return dealt.devices, dealt.test

    @property
    def training(self) -> dict[str, Any]:
        """With momentum, without which a transformer from random weights hardly begins to learn in these rounds."""
        return {**super().training, "momentum": 0.9}

    @property
    def common(self) -> int:
        """Few, since every device scores its model in every round."""
        return 300


def _only(source: Source, rest: Any, test: Any) -> Source:
    """The source without the samples that are in neither."""
    rows = np.concatenate([rest, np.asarray(test, np.int64)])
    shard = Shard(source.shard.x[rows], source.shard.y[rows])
    clients = None if source.clients is None else source.clients[rows]
    held = np.arange(len(rest), len(rows)) if len(rows) > len(rest) else None
    return replace(source, shard=shard, clients=clients, test=held)


SETTING = Sentences(
    "text",
    split="dirichlet:1",
    budgets=(1.0, 0.67, 0.34),
    measure="macs",
    model="pleat_server.bench.text:encoder",
    devices=30,
    cohort=0.4,
    rounds=30,
    rate=0.05,
    clip=1.0,
    every=2,
)


def every() -> list[Contender]:
    """InclusiveFL with and without momentum, and what its paper holds it against."""
    sizes, no_momentum = {"holds": _SIZES, "rule": _OWN}, {"fold": {"momentum": 0.0}}
    return [
        Contender("all-large", "all-large", {"holds": _LARGE, "rule": _OWN}),
        Contender("inclusivefl", "inclusivefl", ladder=True),
        Contender("inclusivefl, no momentum", "inclusivefl", no_momentum, ladder=True),
        Contender("drop-weak", "drop-weak", {"holds": _LARGE, "rule": _OWN}, level=0),
        Contender("all-small", "all-small", {"holds": _SMALL, "rule": _OWN}),
        Contender("heterofl", "heterofl", ladder=True),
        Contender("local", "local", sizes, ladder=True),
    ]


def run(options: Mapping[str, str], out: Path) -> dict[str, Any]:
    """Every contender at every seed, from the cache where it was run before; the table as JSON.

    Options: `data` (a .json or .json.xz of texts), `only` (contenders, with ; between), `seeds` (0,1,2), `rounds`,
    `jobs` (processes at a time), `part` (test, or validation: a part of the training sentences, for choosing numbers).
    Raises UseError for what it does not know.
    """
    setting = named(options)
    seeds, jobs = numbers("text", options, "seeds", "0"), numbers("text", options, "jobs", "2", least=1)[0]
    chosen = picked(every(), options.get("only", ""), "text")
    figures = table.figures(setting, results(setting, chosen, seeds, jobs, out / "text"))
    table.show(figures)
    table.draw(figures, out / "text.png")
    return figures


def named(options: Mapping[str, str]) -> Sentences:
    """The setting that the options name. Raises UseError with what there is."""
    odd = sorted(options.keys() - set(OPTIONS))
    if odd:
        raise UseError(f"bench text: unknown option {odd[0]!r}; there are {', '.join(OPTIONS)}")
    if not Path(options.get("data", "")).is_file():
        raise UseError(
            f"bench text: no file {options.get('data', '')!r}; write --option data=FILE.json.xz, rows [text, label]"
        )
    part = options.get("part", "test")
    if part not in ("test", "validation"):
        raise UseError(f"bench text: part must be test or validation, got {part!r}")
    rounds = numbers("text", options, "rounds", "0")[0]
    setting = replace(SETTING, data=options["data"], part=part)  # type: ignore[arg-type]  # checked above
    return replace(setting, rounds=rounds, every=min(setting.every, rounds)) if rounds else setting
