"""Gates on hand-worked weights: what enters the net, and what slope a gradient meets."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pleat.elastic.choosers import Draw, choose
from pleat.elastic.selection import WHOLE, extract
from pleat.errors import UseError
from pleat.exchange import skills
from pleat.exchange.order import Work
from pleat.nets.build import initial, spec
from pleat.nets.trace import model_map
from pleat.params import digest
from pleat.shard import Shard
from pleat_client.gates import GATES, gate, reached, thin_backward
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


def test_swat_lets_the_largest_weights_in_and_every_weight_learns() -> None:
    weight = torch.tensor([[0.5, 1.0], [-3.0, 0.0]], requires_grad=True)
    out = gate("swat")(weight, reached(weight.detach(), 0.5))
    assert out.tolist() == [[0.0, 1.0], [-3.0, 0.0]]
    (out * torch.tensor([[1.0, 2.0], [3.0, 4.0]])).sum().backward()
    assert weight.grad is not None
    assert weight.grad.tolist() == [[1.0, 2.0], [3.0, 4.0]]


@pytest.mark.parametrize(("share", "least"), [(1.0, 0.0), (0.75, 0.5), (0.5, 1.0), (0.25, 3.0), (0.01, 3.0)])
def test_the_least_that_a_share_reaches_is_rounded_up(share: float, least: float) -> None:
    assert float(reached(torch.tensor([[0.5, 1.0], [-3.0, 0.0]]), share)) == least


def layer_gradients(share: float) -> tuple[list[list[float]], list[list[float]]]:
    """Of the weight and of the input of one linear layer, for outputs that all count 1."""
    layer = torch.nn.Linear(3, 1, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, 10.0, 100.0]]))
    thin_backward(layer, share)
    x = torch.tensor([[1.0, -4.0, 2.0], [3.0, 0.5, 0.25]], requires_grad=True)
    out = layer(x)
    assert out.tolist() == [[161.0], [33.0]]  # the forward pass sees every input
    out.sum().backward()
    assert layer.weight.grad is not None
    assert x.grad is not None
    return layer.weight.grad.tolist(), x.grad.tolist()


def test_swat_takes_a_weight_s_gradient_from_the_largest_inputs_of_the_batch() -> None:
    """Inputs (1, -4, 2) and (3, .5, .25): of six the three largest are -4, 3 and 2; column sums of those alone."""
    passed_back = [[1.0, 10.0, 100.0]] * 2
    assert layer_gradients(0.5) == ([[3.0, -4.0, 2.0]], passed_back)
    assert layer_gradients(1.0) == ([[4.0, -3.5, 2.25]], passed_back)


def test_swat_thins_convolutions_too_and_at_sparsity_0_is_plain_training() -> None:
    conv, x = torch.nn.Conv2d(1, 1, 1, bias=False), torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    thin_backward(conv, 0.5)
    conv(x).sum().backward()
    assert conv.weight.grad is not None
    assert conv.weight.grad.item() == 7.0
    dense, none, half = (
        train(NET, MODEL, WHOLE, START, (), Work(momentum=0.0, gate=g, settings={"sparsity": s}), SHARD, seed=1)[0]
        for g, s in (("", 0.0), ("swat", 0.0), ("swat", 0.5))
    )
    assert digest(dense) == digest(none) != digest(half)
    for name in (n for n, t in MODEL.tensor.items() if len(t.shape) > 1):
        assert (half[name] != START[name]).mean() > 0.6  # half of the weights never entered, and moved


def test_a_sparsity_that_leaves_nothing_is_refused() -> None:
    with pytest.raises(UseError, match=r"objective\.settings\.sparsity must be from 0 and below 1, got 1"):
        train(NET, MODEL, WHOLE, START, (), Work(gate="swat", settings={"sparsity": 1.0}), SHARD)


def test_what_recipes_may_ask_for_is_what_there_is() -> None:
    assert set(GATES) == set(skills.GATES)


def test_an_unknown_gate_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(UseError, match="unknown gate 'treshold'; did you mean 'threshold'"):
        gate("treshold")
