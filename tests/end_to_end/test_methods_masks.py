"""What methods that send parts of an update, and methods of masks, do in short runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pleat.nets.build import initial, spec
from support.methods import Ran, simulate

torch.set_num_threads(1)


def test_fedscr_sends_less_and_what_it_holds_back_waits_on_the_device(tmp_path: Path) -> None:
    ran, dense_ = (simulate(tmp_path / n, n, 2) for n in ("fedscr", "fedavg"))
    assert ran.lines[1]["bytes_up"] < 0.9 * dense_.lines[1]["bytes_up"]
    residual = ran.devices[0].state.residual["first.weight"]
    waiting = (residual != 0).any(axis=1)
    assert waiting.sum() > 0
    assert not ran.devices[0].state.residual["first.bias"].any()


def test_zerofl_returns_the_share_of_largest_weights_and_the_rest_of_the_model_stays(tmp_path: Path) -> None:
    ran, dense_ = (simulate(tmp_path / n, n, 1) for n in ("zerofl", "fedavg"))
    masks = [next(iter(d.state.masks.values()))["first.weight"] for d in ran.devices]
    assert [m.mean() for m in masks] == pytest.approx([0.3] * 3, abs=1e-3)
    assert len({m.tobytes() for m in masks}) == 3
    assert ran.lines[0]["bytes_up"] < 0.36 * dense_.lines[0]["bytes_up"]
    start = initial(spec("mlp", (1, 8, 8), 10), 0)["first.weight"]
    moved = ran.params["first.weight"] != start
    assert not moved[~np.logical_or.reduce(masks)].any()
    assert moved.mean() > 0.1  # the gradient follows from a tenth of the inputs


def first_masks(ran: Ran) -> list[dict[str, np.ndarray]]:
    """Of every device, the masks that it was sent last."""
    return [dict(next(iter(d.state.masks.values()))) for d in ran.devices]


def test_flash_finds_layer_densities_once_and_its_one_mask_stays(tmp_path: Path) -> None:
    two, four = (simulate(tmp_path / str(n), "flash", n) for n in (2, 4))
    (mask, *others), later = first_masks(two), first_masks(four)
    assert all(np.array_equal(m[n], mask[n]) for m in (*others, *later) for n in mask)
    held = sum(int(m.sum()) for m in mask.values()) / sum(m.size for m in mask.values())
    assert held == pytest.approx(0.1, abs=0.005)
    densities = sorted(m.mean() for m in mask.values())
    assert densities[-1] > 2 * densities[0]
    up = [line["bytes_up"] for line in four.lines]
    assert up[0] > 5 * up[1]  # dense, with gradients; then a tenth
    assert up[2] == pytest.approx(up[1], rel=0.01)
    assert four.lines[2]["bytes_down"] < four.lines[1]["bytes_down"] - 3 * 2000  # the mask travels once


def test_flash_offers_densities_that_nest(tmp_path: Path) -> None:
    ran = simulate(tmp_path / "run", "flash", 2, holds={"widths": [0.1, 0.05]}, plan={"policy": "fixed"})
    assert set(ran.summary["accuracy_by_size"]) == {"1", "0.1", "0.05"}


def test_flash_voted_readjusts_at_the_densities_that_it_found(tmp_path: Path) -> None:
    settings = {"every": 3, "until": 100, "share": 0.5, "after": 1}
    more = {"rule": {"settings": settings}, "training": {"epochs": 2}}
    two, four = (simulate(tmp_path / str(n), "flash-voted", n, **more) for n in (2, 4))
    (before, *_), (after, *others) = first_masks(two), first_masks(four)
    assert all(np.array_equal(m[n], after[n]) for m in others for n in after)  # voted on by the server
    for name in before:
        assert int(before[name].sum()) == int(after[name].sum())
    assert any((before[n] != after[n]).any() for n in before)


def test_fedtiny_trades_entries_on_its_rounds_and_devices_send_few_gradients(tmp_path: Path) -> None:
    rule = {"reconfigure": 2, "until": 2, "free": 0.4}
    runs = [simulate(tmp_path / str(n), "fedtiny", n, rule=rule) for n in (2, 3, 5)]
    (first, *_), (second, *others), (last, *_) = (first_masks(r) for r in runs)
    traded = {n: int((second[n] & ~first[n]).sum()) for n in first}
    assert not any(traded.values())  # by cosine, nothing goes in the last of its rounds
    rule["until"] = 4
    runs = [simulate(tmp_path / f"{n}-of-4", "fedtiny", n, rule=rule) for n in (2, 3, 5)]
    (first, *_), (second, *others), (last, *_) = (first_masks(r) for r in runs)
    for name, mask in first.items():
        assert second[name].sum() == mask.sum()
        assert 0 < (second[name] & ~mask).sum() <= 0.2 * mask.sum() + 1  # half a cosine from .4: .2 in round 2 of 4
        assert all(np.array_equal(m[name], second[name]) for m in others)
        assert np.array_equal(last[name], second[name])  # by round 4 the share is 0
    weight = runs[1].params["first.weight"]
    assert weight[second["first.weight"] & ~first["first.weight"]].any()  # what came is trained
    assert not weight[~second["first.weight"]].any()
    up = [line["bytes_up"] for line in runs[2].lines]
    assert 3 * 500 < up[1] - up[0] < 3 * 5000  # a fiftieth of the inactive gradients, with their places
    assert up[2] < up[0] + 300
