"""Sentences for tests: three topics, told by their words, as shards of token ids."""

from __future__ import annotations

import numpy as np

from pleat.shard import Shard
from pleat_server.shards import Source, deal
from pleat_server.texts import FIRST, START, Words

TOPICS = (("bake", "cake", "oven"), ("rain", "wind", "cloud"), ("drive", "car", "road"))
LENGTH = 8


def sentence_shards(devices: int, count: int = 150, seed: int = 0) -> tuple[list[Shard], Shard]:
    """`devices` training shards with Dirichlet(1) label shares, and a test shard of a fifth of `count` sentences."""
    rng = np.random.default_rng(seed)
    words = ("how", "does", "one", "it", *(w for topic in TOPICS for w in topic))
    x, y = np.zeros((count, LENGTH), np.float32), rng.integers(0, 3, count)
    for row, label in zip(x, y, strict=True):
        said = ["how", "does", "one", TOPICS[label][rng.integers(3)], "it"]
        row[0], row[1:6] = START, [FIRST + words.index(w) for w in said]
    dealt = deal(Source(Shard(x, y), words=Words(words, 20)), devices, "dirichlet:1", seed=seed)
    assert dealt.test is not None
    return list(dealt.devices), dealt.test
