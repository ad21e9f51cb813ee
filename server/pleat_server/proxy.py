"""Proxy data: the few samples on which a server trains before a run's first round; drawn, parted and checked. Pure.

Of one data set some samples of every class are drawn, in proportion, at least LEAST of each as far as it goes. A part
of each class is held out: nothing is trained on it, rows of the lookup table are scored on it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pleat.errors import UseError
from pleat.shard import Shard, check_fits

LEAST = 2  # samples of each class: one to train on and one to score on
WISHED = 4  # of each class, where nobody knows how many samples there are to train on
HELD = 0.25  # share of each class that is held out
FILE_HINT = "name a file with --proxy FILE.npz"


@dataclass(frozen=True, eq=False)
class Parts:
    """Proxy data: what is trained on, and what is scored on."""

    train: Shard
    held: Shard


def drawn(own: Shard, known: int, share: float, seed: int) -> tuple[Shard, Shard]:
    """(proxy, rest) of the server's `own` samples: `share` of the `known` training samples, half of its own at most.

    Where none are known (0), the share is of its own samples, but WISHED of each class.
    """
    wanted = int(share * known) if known else max(int(share * len(own)), WISHED * own.classes)
    order = _by_turns(own.y, seed)
    taken, rest = (np.sort(part) for part in np.split(order, [min(wanted, len(own) // 2)]))
    return Shard(own.x[taken], own.y[taken]), Shard(own.x[rest], own.y[rest])


def parted(proxy: Shard) -> Parts:
    """HELD of each class held out, one sample at least. A function of the samples and their order alone."""
    held = np.zeros(len(proxy), np.bool_)
    for label in proxy.labels:
        own = np.flatnonzero(proxy.y == label)
        held[own[: max(1, round(HELD * own.size))]] = True
    return Parts(*(Shard(proxy.x[where], proxy.y[where]) for where in (~held, held)))


def check(proxy: Shard, input_shape: tuple[int, ...], classes: int, known: int, share: float, where: str) -> None:
    """Raises UseError unless the samples fit the net, LEAST of every class are there, and they are no larger a share of
    the `known` training samples (0: nobody knows) than `share`. `where`: where they come from."""
    check_fits(proxy, input_shape, classes, where)
    most = int(share * known)
    if known and most < LEAST * classes:
        raise UseError(
            f"{where}: {share:.0%} of the {known} training samples known are {most}, too few for {LEAST} of each of "
            f"{classes} classes; write --set proxy.share={_share(LEAST * classes, known)}"
        )
    counts = np.bincount(proxy.y, minlength=classes)
    few = np.flatnonzero(counts < LEAST)
    if few.size:
        found = ", ".join(f"{label} ({counts[label]})" for label in few[:8]) + (", ..." if few.size > 8 else "")
        raise UseError(
            f"{where}: {len(proxy)} proxy samples have fewer than {LEAST} of class {found}; a net pruned by them would "
            f"forget it. Add samples of it, or {FILE_HINT} that has {LEAST} or more of each of the {classes} classes"
        )
    if known and len(proxy) > most:
        raise UseError(
            f"{where}: {len(proxy)} proxy samples are {len(proxy) / known:.1%} of the {known} training samples known, "
            f"at most {share:.0%} may be; leave {len(proxy) - most} out, or write "
            f"--set proxy.share={_share(len(proxy), known)}"
        )


def _share(samples: int, known: int) -> str:
    """The share that so many samples are, rounded up, so that it allows for them."""
    return f"{np.ceil(1000 * samples / known) / 1000:g}"


def _by_turns(labels: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """All positions in the order in which they are drawn: LEAST of each class, then in proportion to its samples."""
    rng = np.random.Generator(np.random.PCG64([seed, 5]))
    turn = np.zeros(labels.size)
    for label in np.unique(labels):
        own = rng.permutation(np.flatnonzero(labels == label))
        rank = np.arange(own.size)
        turn[own] = np.where(rank < LEAST, rank - LEAST, (rank + 0.5) / own.size)
    out: NDArray[np.int64] = np.lexsort((rng.permutation(labels.size), turn))
    return out
