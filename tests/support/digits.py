"""Real shards for tests: scikit-learn's handwritten digits, dealt out unevenly by a seed."""

from __future__ import annotations

import numpy as np
from sklearn.datasets import load_digits

from pleat.shard import Shard


def digit_shards(devices: int, seed: int = 0, alpha: float = 0.3) -> tuple[list[Shard], Shard]:
    """`devices` training shards with Dirichlet(alpha) label shares, and a test shard of a fifth of the data."""
    data = load_digits()
    x = (data.images / 16.0).astype(np.float32)[:, None]
    y = data.target.astype(np.int64)
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(y))
    held, rest = order[: len(y) // 5], order[len(y) // 5 :]
    parts: list[list[int]] = [[] for _ in range(devices)]
    for label in range(10):
        own = rest[y[rest] == label]
        cuts = (np.cumsum(rng.dirichlet([alpha] * devices))[:-1] * len(own)).astype(int)
        for part, some in zip(parts, np.split(own, cuts), strict=True):
            part.extend(int(i) for i in some)
    for i, part in enumerate(parts):  # no device goes without data
        part.extend(int(j) for j in rest[i * 8 : i * 8 + 8] if j not in part)
    return [Shard(x[p], y[p]) for p in parts], Shard(x[held], y[held])
