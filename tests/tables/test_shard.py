"""Shard files: a good one comes back bit for bit, every bad one is told in a single line that names it."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pleat.errors import UseError
from pleat.shard import Shard, check_fits, make, read, split_holdout, write

X = np.arange(24, dtype=np.float32).reshape(4, 1, 2, 3)
Y = np.array([0, 2, 1, 2])


def test_a_shard_comes_back_as_it_was_written(tmp_path: Path) -> None:
    write(tmp_path / "a.npz", Shard(X, Y.astype(np.int64)))
    found = read(tmp_path / "a.npz")
    assert found.x.dtype == np.float32
    assert found.x.tobytes() == X.tobytes()
    assert found.y.tolist() == Y.tolist()
    assert (len(found), found.input_shape, found.classes, found.labels) == (4, (1, 2, 3), 3, (0, 1, 2))


def test_eight_bit_images_are_scaled_to_one_and_other_numbers_are_left_alone() -> None:
    assert make(np.full((2, 3), 255, np.uint8), np.array([0, 1])).x.max() == 1
    assert make(np.full((2, 3), 255, np.int32), np.array([0, 1])).x.max() == 255


def test_whole_labels_as_floats_are_taken() -> None:
    assert make(X, Y.astype(np.float64)).y.tolist() == Y.tolist()


def _with(index: tuple[int, ...], value: float) -> np.ndarray:
    x = X.copy()
    x[index] = value
    return x


BAD_ARRAYS = [
    ("one sample", X[:1], Y[:1], "1 sample(s); at least 2"),
    ("no samples", X[:0], Y[:0], "0 sample(s); at least 2"),
    ("NaN", _with((2, 0, 1, 1), np.nan), Y, "NaN or infinite values, first in sample 2"),
    ("infinity", _with((0, 0, 0, 0), np.inf), Y, "NaN or infinite values, first in sample 0"),
    ("too large for float32", np.full((2, 3), 1e300), Y[:2], "NaN or infinite"),
    ("text", np.array([["a"], ["b"]]), Y[:2], "x must hold numbers"),
    ("complex", X.astype(np.complex64), Y, "x must hold numbers"),
    ("flat", np.arange(4.0), Y, "a samples axis and at least one more"),
    ("empty samples", np.zeros((4, 0)), Y, "samples are empty"),
    ("too few labels", X, Y[:3], "one label for each of the 4 samples"),
    ("labels as columns", X, np.eye(4), "one label for each of the 4 samples"),
    ("named labels", X, np.array(["cat", "dog", "cat", "cow"]), "map class names"),
    ("half labels", X, Y + 0.5, "whole class numbers"),
    ("NaN labels", X, np.array([0, 1, np.nan, 2]), "whole class numbers"),
    ("negative labels", X, Y - 1, "count from 0, got -1 to 1"),
    ("ids for labels", X, Y + 10**7, "count from 0"),
]


@pytest.mark.parametrize(("x", "y", "told"), [case[1:] for case in BAD_ARRAYS], ids=[case[0] for case in BAD_ARRAYS])
def test_bad_samples_are_refused_in_one_line(tmp_path: Path, x: np.ndarray, y: np.ndarray, told: str) -> None:
    path = tmp_path / "kitchen.npz"
    np.savez(path, x=x, y=y)
    with pytest.raises(UseError) as error:
        read(path)
    assert told in str(error.value)
    assert "kitchen.npz" in str(error.value)
    assert "\n" not in str(error.value)
    assert error.value.exit_code == 2


def _file(path: Path, kind: str) -> None:
    if kind == "no labels":
        np.savez(path, x=X)
    elif kind == "no samples":
        np.savez(path, y=Y)
    elif kind == "objects":
        np.savez(path, x=np.array([{}, {}], dtype=object), y=Y[:2])
    elif kind == "one array":
        with path.open("wb") as file:
            np.save(file, X)
    elif kind == "a pickle":
        path.write_bytes(pickle.dumps({"x": X}))
    elif kind == "plain text":
        path.write_text("x,y\n1,2\n")
    elif kind == "cut short":
        np.savez(path, x=X, y=Y)
        path.write_bytes(path.read_bytes()[:-40])
    elif kind == "empty":
        path.write_bytes(b"")


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("no labels", "no labels: expected an array y beside x, found ['x']"),
        ("no samples", "no samples: expected an array x, found ['y']"),
        ("objects", "holds Python objects"),
        ("one array", "a single array"),
        ("a pickle", "no .npz archive; make one with `pleat shards"),
        ("plain text", "no .npz archive; make one with `pleat shards"),
        ("cut short", "cannot be read"),
        ("empty", "no .npz archive"),
        ("missing", "no shard file"),
    ],
)
def test_files_that_are_no_shards_are_refused_in_one_line(tmp_path: Path, kind: str, told: str) -> None:
    path = tmp_path / "kitchen.npz"
    _file(path, kind)
    with pytest.raises(UseError) as error:
        read(path)
    assert told in str(error.value)
    assert "kitchen.npz" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_shard_must_fit_the_model() -> None:
    shard = make(X, Y)
    check_fits(shard, (1, 2, 3), 3)
    check_fits(shard, (1, 2, 3), 10)
    with pytest.raises(UseError, match=r"samples have shape \(1, 2, 3\), the model takes \(1, 8, 8\)"):
        check_fits(shard, (1, 8, 8), 3)
    with pytest.raises(UseError, match="labels go up to 2, the model has classes 0 to 1"):
        check_fits(shard, (1, 2, 3), 2)


@settings(max_examples=50, deadline=None)
@given(samples=st.integers(2, 40), share=st.floats(0, 0.999), seed=st.integers(0, 2**63 - 1))
def test_a_split_loses_nothing_and_leaves_something_to_train_on(samples: int, share: float, seed: int) -> None:
    shard = make(np.arange(samples, dtype=np.float32)[:, None], np.arange(samples))
    train, held = split_holdout(shard, share, seed)
    assert sorted([*train.y, *held.y]) == list(range(samples))
    assert len(train) >= 1
    assert (len(held) > 0) == (share > 0)
    assert train.x[:, 0].tolist() == train.y.tolist()
    again, _ = split_holdout(shard, share, seed)
    assert again.y.tolist() == train.y.tolist()


@pytest.mark.parametrize("share", [-0.1, 1, 1.5, float("nan")])
def test_a_share_outside_zero_to_one_is_refused(share: float) -> None:
    with pytest.raises(UseError, match="hold-out share"):
        split_holdout(make(X, Y), share, 0)
