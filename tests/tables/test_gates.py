"""Gates on hand-worked weights: what enters the net, and what slope a gradient meets."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pleat.elastic.choosers import Draw, choose
from pleat.elastic.selection import WHOLE, extract
from pleat.errors import UseError
from pleat.exchange.order import Work
from pleat.nets.build import initial, spec
from pleat.nets.trace import model_map
from pleat.params import digest
from pleat.shard import Shard
from pleat_client.gates import gate
from pleat_client.trainer import train

torch.set_num_threads(1)

NET = spec("mlp", (1, 4, 4), 3, first=16, second=8)
MODEL, START = model_map(NET), initial(NET, 3)
RNG = np.random.default_rng(0)
SHARD = Shard(RNG.normal(size=(64, 1, 4, 4)).astype(np.float32), RNG.integers(0, 3, 64))


def test_threshold_lets_large_weights_through_and_scales_their_gradient() -> None:
    """t = 1: at |w| = 1 the slope is 1 + 2 / 4 = 1.5, at 3 it is 1 + 6 / 16 = 1.375; below t it is 0."""
    weight = torch.tensor([0.5, 1.0, -3.0, 0.0], requires_grad=True)
    out = gate("threshold")(weight, torch.tensor(1.0))
    assert out.tolist() == [0.0, 1.0, -3.0, 0.0]
    out.sum().backward()
    assert weight.grad is not None
    assert weight.grad.tolist() == [0.0, 1.5, 1.375, 0.0]


def test_a_hard_gate_scales_nothing() -> None:
    weight = torch.tensor([0.5, 1.0, -3.0], requires_grad=True)
    out = gate("hard")(weight, torch.tensor(1.0))
    out.sum().backward()
    assert out.tolist() == [0.0, 1.0, -3.0]
    assert weight.grad is not None
    assert weight.grad.tolist() == [0.0, 1.0, 1.0]


def test_at_threshold_0_every_weight_passes_with_slope_1() -> None:
    weight = torch.tensor([0.0, 2.0], requires_grad=True)
    gate("threshold")(weight, torch.tensor(0.0)).sum().backward()
    assert weight.grad is not None
    assert weight.grad.tolist() == [1.0, 1.0]


@pytest.mark.parametrize("name", ["threshold", "hard"])
def test_without_masks_nothing_is_gated(name: str) -> None:
    plain, gated = (
        train(NET, MODEL, WHOLE, START, (), Work(momentum=0.0, gate=g), SHARD, seed=1)[0] for g in ("", name)
    )
    assert digest(plain) == digest(gated)


def test_a_weight_that_sinks_below_the_threshold_stays_where_it_is_and_counts_as_0() -> None:
    selection = choose("magnitude", MODEL, 0.25, Draw(params=START))
    begun = extract(MODEL, selection, START)
    work = Work(momentum=0.0, rate=0.5, epochs=6, gate="threshold")
    trained, _ = train(NET, MODEL, selection, begun, (), work, SHARD, seed=1)
    longer, _ = train(NET, MODEL, selection, trained, (), Work(momentum=0.0, rate=0.5, gate="hard"), SHARD, seed=1)
    sunk = 0
    for name, mask in selection.masks.items():
        least = np.abs(begun[name][mask]).min()
        assert not trained[name][~mask].any()
        sunk += int((np.abs(trained[name][mask]) < least).sum())
    assert sunk > 0  # their values are reported as they are, not as 0
    assert all((np.abs(trained[n][m]) > 0).all() for n, m in selection.masks.items())
    assert digest(longer) != digest(trained)


def test_gated_training_differs_from_masked_training() -> None:
    selection = choose("magnitude", MODEL, 0.25, Draw(params=START))
    begun = extract(MODEL, selection, START)
    plain, gated = (
        train(NET, MODEL, selection, begun, (), Work(momentum=0.0, gate=g), SHARD, seed=1)[0] for g in ("", "threshold")
    )
    assert digest(plain) != digest(gated)


def test_an_unknown_gate_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(UseError, match="unknown gate 'treshold'; did you mean 'threshold'"):
        gate("treshold")
