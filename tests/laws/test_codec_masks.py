"""Coded masks: every mask comes back, in close to the entropy's bytes, and what no writer makes is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pleat.codec.frame import Block, Positions, Values, write
from pleat.codec.layout import SEGMENT
from pleat.codec.masks import _bound, read_mask, write_mask
from pleat.errors import RemoteError


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 3000), st.sampled_from([0.0, 0.01, 0.2, 0.3, 0.5, 0.9, 1.0]), st.integers(0, 99))
def test_a_mask_comes_back_whatever_its_density(size: int, density: float, seed: int) -> None:
    mask = np.random.default_rng(seed).random(size) < density
    assert (read_mask(write_mask(mask), size) == mask).all()


def test_a_mask_of_more_than_one_segment_comes_back() -> None:
    mask = np.random.default_rng(0).random(SEGMENT + 5000) < 0.03
    assert (read_mask(write_mask(mask), mask.size) == mask).all()


@pytest.mark.parametrize("density", [0.01, 0.05, 0.2, 0.5, 0.8, 0.95])
def test_independent_entries_cost_at_most_a_twentieth_above_their_entropy_or_a_bitmap(density: float) -> None:
    mask = np.random.default_rng(1).random(200_000) < density
    entropy = -density * math.log2(density) - (1 - density) * math.log2(1 - density)
    assert len(write_mask(mask)) <= min(1.05 * entropy * mask.size / 8 + 64, mask.size / 8 + 64) + 1500 * (
        0.2 <= density <= 0.8
    )


MASK = np.arange(100) % 7 == 0
GOOD = write_mask(MASK)


def framed(*blocks: Block, size: int = 100) -> bytes:
    return b"\0" + write(blocks, _bound(size))


BAD = [
    (b"", 100, "begins with nothing"),
    (b"\2" + GOOD[1:], 100, "begins with 02"),
    (GOOD, 101, "frame is bound to"),
    (GOOD[:-1], 100, "checksum"),
    (framed(), 100, "has 0 blocks, expected 1"),
    (framed(Block(Values.NONE), Block(Values.NONE)), 100, "more than the 1 blocks"),
    (framed(Block(Values.F32, Positions.ALL, (), ())), 100, "cut short|holds F32 values"),
    (GOOD + bytes(5000), 100, "needs at most"),
]


@pytest.mark.parametrize(("data", "size", "told"), BAD)
def test_what_no_writer_makes_is_refused(data: bytes, size: int, told: str) -> None:
    with pytest.raises(RemoteError, match=told):
        read_mask(data, size)


def test_every_flipped_byte_is_noticed() -> None:
    for at in range(1, len(GOOD)):
        with pytest.raises(RemoteError):
            read_mask(GOOD[:at] + bytes([GOOD[at] ^ 1]) + GOOD[at + 1 :], 100)
