"""Batches: which samples each step sees, as indices; a function of numbers alone."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray


def batches(samples: int, batch: int, epochs: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """The sample indices of every step: each epoch a fresh permutation by `seed`, cut into runs of `batch`."""
    rng = np.random.Generator(np.random.PCG64(seed))
    for _ in range(epochs):
        yield from _split(rng.permutation(samples), batch)


def steps_an_epoch(samples: int, batch: int) -> int:
    """Batches of an epoch. A single sample left over joins the last of them: batch norm makes nothing of one sample."""
    alone = batch > 1 and samples > batch and samples % batch == 1
    return -(-samples // batch) - alone


def in_order(samples: int, batch: int) -> Iterator[NDArray[np.int64]]:
    """One epoch's batches in the order of the shard."""
    yield from _split(np.arange(samples), batch)


def _split(index: NDArray[np.int64], batch: int) -> list[NDArray[np.int64]]:
    return np.split(index, batch * np.arange(1, steps_an_epoch(index.size, batch)))
