"""Dealing a data set to devices: what every split keeps, whatever the data."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pleat.errors import UseError
from pleat.shard import Shard
from pleat_server.shards import LEAST, Source, blurred, deal


def source(count: int = 600, classes: int = 6, clients: int = 30) -> Source:
    """Samples that carry their own number, so that none can hide."""
    x = np.arange(count, dtype=np.float32).reshape(count, 1)
    numbers = np.arange(count, dtype=np.int64)
    return Source(Shard(x, numbers % classes), numbers % clients)


SPLITS = st.sampled_from(["iid", "dirichlet:0.5", "dirichlet:5", "quantity:1", "labels:2", "labels:6", "client"])


@given(split=SPLITS, devices=st.integers(1, 6), holdout=st.sampled_from([0.0, 0.2, 0.5]), seed=st.integers(0, 2**31))
@settings(max_examples=60, deadline=None)
def test_every_sample_goes_to_one_place_with_its_label(split: str, devices: int, holdout: float, seed: int) -> None:
    data = source()
    dealt = deal(data, devices, split, holdout=holdout, seed=seed)
    shards = [*dealt.devices, *([dealt.test] if dealt.test else [])]
    numbers = np.concatenate([s.x[:, 0] for s in shards]).astype(int)
    assert len(set(numbers)) == len(numbers)
    assert all((s.y == data.shard.y[s.x[:, 0].astype(int)]).all() for s in shards)
    covered = not split.startswith("labels") or devices * int(split[-1]) >= 6
    assert not covered or len(numbers) == len(data.shard)
    assert len(dealt.devices) == devices
    assert min(len(s) for s in dealt.devices) >= (2 if split == "client" else LEAST)


@given(split=SPLITS, seed=st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_the_same_seed_deals_the_same_shards(split: str, seed: int) -> None:
    first, again = (deal(source(), 3, split, seed=seed, noise=0.1) for _ in range(2))
    assert all((a.x == b.x).all() for a, b in zip(first.devices, again.devices, strict=True))
    assert first.test is not None
    assert again.test is not None
    assert (first.test.x == again.test.x).all()


@given(devices=st.integers(1, 5), each=st.integers(1, 6), seed=st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_labels_gives_each_device_just_so_many_classes(devices: int, each: int, seed: int) -> None:
    dealt = deal(source(), devices, f"labels:{each}", seed=seed)
    assert all(len(s.labels) == each for s in dealt.devices)


def test_a_client_is_never_split_and_the_test_holds_only_strangers() -> None:
    data = source()
    assert data.clients is not None
    dealt = deal(data, 4, "client", holdout=0.2, seed=3)
    assert dealt.test is not None
    people = [set(data.clients[s.x[:, 0].astype(int)].tolist()) for s in (*dealt.devices, dealt.test)]
    assert sum(len(p) for p in people) == len(set.union(*people)) == 30
    assert len(people[-1]) == 6


def test_a_small_alpha_gives_devices_fewer_classes_than_a_large_one() -> None:
    def largest_share(alpha: str) -> float:
        shards = deal(source(3000), 4, f"dirichlet:{alpha}", seed=1).devices
        return float(np.mean([np.bincount(s.y, minlength=6).max() / len(s) for s in shards]))

    assert largest_share("0.2") > largest_share("100") + 0.2


def test_noise_rises_from_none_on_the_first_device_to_all_of_it_on_the_last() -> None:
    flat = Shard(np.zeros((5000, 1), np.float32), np.zeros(5000, np.int64))
    spread = [float(blurred(flat, 0.2, rank, 3, seed=0).x.std()) for rank in range(3)]
    assert spread == pytest.approx([0.0, 0.1, 0.2], rel=0.05)


@pytest.mark.parametrize(
    ("split", "devices", "complaint"),
    [
        ("dirichlet", 2, "unknown split"),
        ("dirichlet:", 2, "unknown split"),
        ("iid:3", 2, "unknown split"),
        ("zipf:2", 2, "expected iid, dirichlet:A"),
        ("dirichlet:x", 2, "no number"),
        ("dirichlet:0", 2, "above 0"),
        ("dirichlet:-1", 2, "above 0"),
        ("dirichlet:inf", 2, "above 0"),
        ("labels:1.5", 2, "whole number"),
        ("labels:9", 2, "has 6 classes"),
        ("iid", 0, "at least 1"),
        ("iid", 500, "fewer --devices"),
    ],
)
def test_a_split_that_cannot_be_is_refused_in_words(split: str, devices: int, complaint: str) -> None:
    with pytest.raises(UseError, match=complaint):
        deal(source(), devices, split)


def test_the_client_split_needs_to_know_who_wrote_what() -> None:
    with pytest.raises(UseError, match=r"array `client`"):
        deal(Source(source().shard), 2, "client")
    with pytest.raises(UseError, match="30 clients cannot be dealt to 31"):
        deal(source(), 31, "client", holdout=0)


@pytest.mark.parametrize(("holdout", "noise"), [(1.0, 0.0), (-0.1, 0.0), (0.2, -1.0), (0.2, float("nan"))])
def test_shares_and_noise_have_bounds(holdout: float, noise: float) -> None:
    with pytest.raises(UseError, match=r"--holdout|--noise"):
        deal(source(), 2, "iid", holdout=holdout, noise=noise)


def test_many_devices_and_a_harsh_split_are_filled_up_without_losing_or_doubling_a_sample() -> None:
    x = np.arange(900, dtype=np.float32).reshape(-1, 1)
    source = Source(Shard(x, np.arange(900, dtype=np.int64) % 10))
    dealt = deal(source, devices=100, split="dirichlet:0.05", holdout=0.0, seed=0)
    assert min(len(s) for s in dealt.devices) == LEAST
    assert sorted(float(v) for s in dealt.devices for v in s.x.ravel()) == [float(v) for v in x.ravel()]
