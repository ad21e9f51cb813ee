"""Safetensors files of our own writing: the same bytes whatever the order, read by safetensors and by us alike."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from pleat import tensorfile
from pleat.errors import LocalError, UseError

ARRAYS = {"b": np.arange(6, dtype=np.float32).reshape(2, 3), "a": np.zeros((0, 4), np.int64), "c": np.float32(3)}
ABOUT = {"round": "3", "factory": "x:y", "arguments": "{}", "recipe": "elastic"}


def content(arrays: dict, about: dict[str, str] | None) -> bytes:
    return b"".join(tensorfile.pieces(arrays, about))


def test_the_order_of_arrays_and_facts_changes_no_byte() -> None:
    turned = dict(reversed(ARRAYS.items())), dict(reversed(ABOUT.items()))
    assert content(ARRAYS, ABOUT) == content(*turned)
    assert content(ARRAYS, ABOUT) != content(ARRAYS, {**ABOUT, "round": "4"})


def test_what_was_written_is_read_back_by_safetensors_and_by_us(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(content(ARRAYS, ABOUT))
    arrays, about = tensorfile.load(path)
    assert about == ABOUT
    for found in (arrays, load_file(path)):
        assert sorted(found) == ["a", "b", "c"]
        assert all(found[n].dtype == a.dtype and np.array_equal(found[n], a) for n, a in ARRAYS.items())
    path.write_bytes(content(ARRAYS, None))
    assert tensorfile.load(path)[1] == {}


def test_a_file_that_is_not_there_and_one_cut_short_are_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    with pytest.raises(UseError, match=r"no file .*name one that `pleat export` wrote"):
        tensorfile.load(path)
    path.write_bytes(content(ARRAYS, ABOUT)[:-3])
    with pytest.raises(LocalError, match="is damaged or no safetensors file"):
        tensorfile.load(path)


def test_numbers_that_the_format_lacks_are_refused() -> None:
    with pytest.raises(UseError, match="array 'z' of type complex64 cannot be kept"):
        content({"z": np.zeros(2, np.complex64)}, None)
