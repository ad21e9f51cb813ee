"""Deals one labelled data set out to devices, in the ways federated data differ; pure, and a function of the seed.

Splits, written as the command line takes them: `iid`; `dirichlet:A` (each class dealt by shares drawn from
Dirichlet(A): the smaller A, the fewer classes a device sees); `quantity:A` (the same mix everywhere, sizes by
Dirichlet(A)); `labels:K` (K classes a device); `client` (by the writer, user or client the data set names), `domain`
(the same, but the server tests on samples of all of them, and devices may share one).
Every sample goes to exactly one device, but for classes that `labels:K` leaves without a device.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pleat.errors import UseError
from pleat.shard import Shard
from pleat_server.texts import Index, Words

LEAST = 8  # samples a device gets at least; draws that give fewer are drawn again, and in the end filled up
TRIES = 200
SPLITS = "iid, dirichlet:A, quantity:A, labels:K, client or domain"


@dataclass(frozen=True, eq=False)
class Source:
    """A whole data set. `clients`: who wrote each sample, as numbers from 0; None where the data set does not say.
    `words`: those of texts, whose ids are settled when it is known what is trained on. `test`: the samples that the
    data set itself sets aside, None where it does not."""

    shard: Shard
    clients: Index | None = None
    words: Words | None = None
    test: Index | None = None


@dataclass(frozen=True, eq=False)
class Dealt:
    """`test`: samples held out for the server, None if none were asked for; `devices`: one shard each; `words`: of
    texts, what each id from `texts.FIRST` on stands for."""

    devices: tuple[Shard, ...]
    test: Shard | None
    words: tuple[str, ...] = ()


def deal(source: Source, devices: int, split: str, *, holdout: float = 0.2, noise: float = 0.0, seed: int = 0) -> Dealt:
    """Hold out a share for the server, deal the rest to `devices`, and blur them by `noise` (see `blurred`).

    What the data set itself sets aside is held out in place of a share (unless that is 0). Else, under the `client`
    split, whole clients are held out, so that the server tests on people nobody trained on.
    Raises UseError for a split that is unknown or cannot be had from this data set.
    """
    if devices < 1:
        raise UseError(f"--devices must be at least 1, got {devices}")
    if not 0 <= holdout < 1:
        raise UseError(f"--holdout must be a share in [0, 1), got {holdout}")
    if noise and source.words:
        raise UseError("--noise blurs what samples measure; texts are numbers of words: leave --noise out")
    rng = np.random.Generator(np.random.PCG64(seed))
    kind, number = _parsed(split)
    if kind in ("client", "domain") and source.clients is None:
        raise UseError(
            f"split {kind}: this data set does not say who wrote what; an .npz says so in an array `client`, "
            "a .json in a third entry of each row"
        )
    train, test = _held_out(source, holdout, rng, whole_clients=kind == "client")
    if train.size < devices * LEAST:
        raise UseError(f"{train.size} samples cannot give {devices} devices {LEAST} each; ask for fewer --devices")
    parts = _parts(source, train, devices, kind, number, rng)
    x, y = source.shard.x, source.shard.y
    x, words = source.words.fitted(x, train) if source.words else (x, ())
    shards = [Shard(x[train[p]], y[train[p]]) for p in parts]
    held = Shard(x[test], y[test]) if test.size else None
    return Dealt(tuple(blurred(s, noise, i, devices, seed) for i, s in enumerate(shards)), held, words)


def blurred(shard: Shard, noise: float, rank: int, devices: int, seed: int) -> Shard:
    """Feature skew: Gaussian noise whose standard deviation rises from 0 on the first device to `noise` on the last."""
    if noise < 0 or not np.isfinite(noise):
        raise UseError(f"--noise must be a standard deviation, 0 or more, got {noise}")
    scale = noise * rank / max(1, devices - 1)
    if scale == 0:
        return shard
    rng = np.random.Generator(np.random.PCG64([seed, rank]))
    drawn = rng.standard_normal(shard.x.shape, np.float32)
    return Shard(shard.x + np.float32(scale) * drawn, shard.y)


def _parsed(split: str) -> tuple[str, float]:
    """("dirichlet", 0.3) of "dirichlet:0.3"."""
    kind, _, text = split.partition(":")
    plain = kind in ("iid", "client", "domain")
    if not (plain or kind in ("dirichlet", "quantity", "labels")) or plain == bool(text):
        raise UseError(f"unknown split {split!r}; expected {SPLITS}, such as dirichlet:0.3")
    try:
        number = 0.0 if plain else float(text)
    except ValueError:
        raise UseError(f"split {split!r}: {text!r} is no number; expected one such as {kind}:2") from None
    if not plain and not (0 < number < float("inf")):
        raise UseError(f"split {split!r}: the number must be above 0")
    if kind == "labels" and number != int(number):
        raise UseError(f"split {split!r}: classes a device must be a whole number, such as labels:2")
    return kind, number


def _held_out(source: Source, share: float, rng: np.random.Generator, whole_clients: bool) -> tuple[Index, Index]:
    """Positions to train on and positions held out."""
    count = len(source.shard)
    if source.test is not None:
        rest = np.setdiff1d(np.arange(count), source.test)
        return rest, source.test if share else source.test[:0]
    if not whole_clients:
        order = rng.permutation(count)
        cut = int(share * count)
        return np.sort(order[cut:]), np.sort(order[:cut])
    assert source.clients is not None  # `deal` has refused this
    people = rng.permutation(np.unique(source.clients))
    out = np.isin(source.clients, people[: int(share * people.size)])
    return np.flatnonzero(~out), np.flatnonzero(out)


def _parts(
    source: Source, train: Index, devices: int, kind: str, number: float, rng: np.random.Generator
) -> list[Index]:
    """Positions within `train` for each device."""
    y = source.shard.y[train]
    if kind == "client":
        assert source.clients is not None  # `deal` has refused this
        return _by_client(source.clients[train], devices)
    if kind == "domain":
        assert source.clients is not None  # `deal` has refused this
        return _by_domain(source.clients[train], devices, rng)
    if kind == "labels":
        return _by_labels(y, devices, int(number), rng)
    if kind == "iid":
        return [np.sort(p) for p in np.array_split(rng.permutation(y.size), devices)]
    for _ in range(TRIES):
        parts = _by_class(y, devices, number, rng) if kind == "dirichlet" else _by_size(y.size, devices, number, rng)
        if min(p.size for p in parts) >= LEAST:
            return parts
    return _filled_up(parts)


def _filled_up(parts: list[Index]) -> list[Index]:
    """Devices under LEAST samples get some of the largest part's, which stays the largest or comes to LEAST."""
    out = list(parts)
    for place in np.argsort([p.size for p in parts], kind="stable"):
        while out[place].size < LEAST:
            richest = int(np.argmax([p.size for p in out]))
            taken = min(LEAST - out[place].size, max(1, (out[richest].size - LEAST) // 2))
            out[place] = np.sort(np.concatenate([out[place], out[richest][-taken:]]))
            out[richest] = out[richest][:-taken]
    return out


def _by_class(y: Index, devices: int, alpha: float, rng: np.random.Generator) -> list[Index]:
    parts: list[list[Index]] = [[] for _ in range(devices)]
    for label in np.unique(y):
        where = rng.permutation(np.flatnonzero(y == label))
        shares = rng.dirichlet(np.full(devices, alpha))
        ends = (np.cumsum(shares)[:-1] * where.size).astype(np.int64)
        for part, piece in zip(parts, np.split(where, ends), strict=True):
            part.append(piece)
    return [np.sort(np.concatenate(p)) for p in parts]


def _by_size(count: int, devices: int, alpha: float, rng: np.random.Generator) -> list[Index]:
    ends = (np.cumsum(rng.dirichlet(np.full(devices, alpha)))[:-1] * count).astype(np.int64)
    return [np.sort(p) for p in np.split(rng.permutation(count), ends)]


def _by_labels(y: Index, devices: int, each: int, rng: np.random.Generator) -> list[Index]:
    labels = rng.permutation(np.unique(y))
    if each > labels.size:
        raise UseError(f"split labels:{each}: the data set has {labels.size} classes")
    deck = [labels[np.arange(i * each, (i + 1) * each) % labels.size] for i in range(devices)]
    parts: list[list[Index]] = [[] for _ in range(devices)]
    for label in labels:
        holders = [i for i, own in enumerate(deck) if label in own]
        where = rng.permutation(np.flatnonzero(y == label))
        for i, piece in zip(holders, np.array_split(where, max(1, len(holders))), strict=False):
            parts[i].append(piece)
    out = [np.sort(np.concatenate(p)) for p in parts]
    if min(p.size for p in out) < LEAST:
        raise UseError(
            f"split labels:{each} leaves some of {devices} devices under {LEAST} samples; ask for fewer devices"
        )
    return out


def _by_client(clients: Index, devices: int) -> list[Index]:
    """Clients in their own order, dealt to devices in turn."""
    people = np.unique(clients)
    if people.size < devices:
        raise UseError(
            f"split client: {people.size} clients cannot be dealt to {devices} devices; ask for fewer --devices"
        )
    turn = np.searchsorted(people, clients) % devices
    out = [np.flatnonzero(turn == i) for i in range(devices)]
    if min(p.size for p in out) < 2:
        raise UseError("split client: some device would have a single sample; ask for fewer --devices")
    return out


def _by_domain(domains: Index, devices: int, rng: np.random.Generator) -> list[Index]:
    """Domains in their own order, dealt to devices in turn; where there are more devices, also devices to domains."""
    every = np.unique(domains)
    if every.size >= devices:
        return _by_client(domains, devices)
    parts: list[Index] = [np.zeros(0, np.int64)] * devices
    for place, domain in enumerate(every):
        holders = range(place, devices, every.size)
        pieces = np.array_split(rng.permutation(np.flatnonzero(domains == domain)), len(holders))
        for device, piece in zip(holders, pieces, strict=True):
            parts[device] = np.sort(piece)
    if min(p.size for p in parts) < LEAST:
        raise UseError(f"split domain leaves some of {devices} devices under {LEAST} samples; ask for fewer --devices")
    return parts
