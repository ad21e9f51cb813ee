"""Structured updates: what a device returns lies in the subspace it trained in, and weighs what its coefficients do."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from pleat.codec.coding import build, confined_to, lossless, predicted_bytes
from pleat.codec.subspace import Subspace, coefficients, context_of, expanded, spans
from pleat.codec.transform import Context
from pleat.elastic.choosers import Draw, choose
from pleat.elastic.selection import WHOLE, Selection, extract, make
from pleat.errors import UseError
from pleat.exchange.order import Kind, Order, OrderId, Payload, Return, Work
from pleat.exchange.report import Outcome
from pleat.nets.build import initial, spec
from pleat.nets.trace import model_map
from pleat.params import Params, Sparse, dense, subtract
from pleat.shard import Shard
from pleat_client.flat import projection
from pleat_client.learning import spans_of
from pleat_client.task import DeviceState, run
from pleat_client.trainer import train
from support.coded import one_matrix

torch.set_num_threads(1)

NET = spec("mlp", (1, 4, 4), 3, first=16, second=8)
MODEL, START = model_map(NET), initial(NET, 3)
RNG = np.random.default_rng(0)
SHARD = Shard(RNG.normal(size=(64, 1, 4, 4)).astype(np.float32), RNG.integers(0, 3, 64))
MATRICES = [t.name for t in MODEL.tensors if len(t.shape) > 1]


def order(coding: str, selection: Selection = WHOLE, seed: int = 1, **work: float) -> Order:
    context = Context(MODEL, selection)
    raw = build("raw")
    frame, _ = raw.encode(extract(MODEL, selection, START), raw.init(context), context)
    return Order(
        OrderId("run", 0, 0),
        "kitchen",
        Kind.TRAIN,
        NET,
        selection,
        work=replace(Work(epochs=2), **work),  # type: ignore[arg-type]
        payloads=(Payload("model", "raw", frame),),
        returns=(Return("update", coding),),
        seed=seed,
    )


def trained(asked: Order) -> Params:
    """What training alone leads to, before anything is coded."""
    within = spans_of(asked, MODEL)
    start = extract(MODEL, asked.selection, START)
    params, _ = train(NET, MODEL, asked.selection, start, (), asked.work, SHARD, asked.seed, spans=within)
    return subtract(params, start)


def returned(asked: Order) -> tuple[dict[str, np.ndarray | Sparse], int, DeviceState]:
    """The update as the server decodes it, the bytes of its frame, and the device's state after it."""
    report, state = run(asked, DeviceState(), SHARD)
    assert report.outcome is Outcome.DONE, report.reason
    (payload,) = report.payloads
    context = Context(MODEL, asked.selection, 0, asked.seed)
    return build(payload.coding).decode(payload.frame, context), len(payload.frame), state


@pytest.mark.parametrize("work", [{}, {"decay": 0.1}, {"clip": 0.5}, {"momentum": 0.0}])
def test_a_low_rank_update_has_the_rank_it_may_have_whatever_the_optimiser_does(work: dict[str, float]) -> None:
    asked = order("low-rank:0.25/raw", **work)
    update, _, state = returned(asked)
    for name in MATRICES:
        rows = MODEL.tensor[name].shape[0]
        assert np.linalg.matrix_rank(update[name], tol=1e-4) == int(np.ceil(rows / 4))
        np.testing.assert_allclose(update[name], trained(asked)[name], atol=2e-6)  # nothing was lost by the coding
    assert not state.residual
    free = returned(order("raw"))[0]
    assert np.linalg.matrix_rank(free["second.weight"], tol=1e-4) == 8


@pytest.mark.parametrize("work", [{}, {"decay": 0.1}])
def test_entries_outside_the_seeded_mask_are_exactly_0(work: dict[str, float]) -> None:
    asked = order("random:0.25/raw", **work)
    update, _, state = returned(asked)
    within = spans_of(asked, MODEL)
    for name in MATRICES:
        places, change = within[name].places, trained(asked)[name].reshape(-1)
        assert places is not None
        assert places.size == int(np.ceil(change.size / 4))
        outside = np.setdiff1d(np.arange(change.size), places)
        assert not change[outside].any()
        assert change[places].any()
        assert np.array_equal(dense(update)[name].reshape(-1), change)
    assert not state.residual


def test_only_coefficients_travel_and_neither_factors_nor_positions() -> None:
    """16 x 16, 8 x 16 and 3 x 8 weights and 27 biases, 4 bytes each; rank 4, 2 and 1, or 64, 32 and 6 places."""
    plain = returned(order("raw"))[1]
    head = plain - 4 * (256 + 128 + 24 + 27)
    assert returned(order("low-rank:0.25/raw"))[1] - head == 4 * (4 * 16 + 2 * 16 + 1 * 8 + 27)
    assert returned(order("random:0.25/raw"))[1] - head == 4 * (64 + 32 + 6 + 27)
    assert 0 < head < 40
    for text in ("low-rank:0.25/raw", "random:0.25/raw"):
        assert abs(predicted_bytes(text, MODEL, WHOLE) - returned(order(text))[1]) < 40


def test_the_subspace_follows_from_the_order_s_seed_alone() -> None:
    one, again, other = (spans_of(order("low-rank:0.25/raw", seed=s), MODEL)["first.weight"].basis for s in (1, 1, 2))
    assert one is not None
    assert again is not None
    assert other is not None
    assert np.array_equal(one, again)
    np.testing.assert_allclose(one.T @ one, np.eye(4), atol=1e-6)
    assert np.abs(one - other).max() > 0.1
    assert np.linalg.svd(one.T @ other)[1].min() < 0.99  # another subspace, not the same one turned


@pytest.mark.parametrize("kind", ["low-rank", "random"])
def test_expanding_coefficients_is_the_projection_that_training_applies(kind: str) -> None:
    subspace, ctx = confined_to(f"{kind}:0.3/raw"), Context(one_matrix(10, 7), WHOLE, seed=5)
    assert subspace is not None
    matrix = np.random.default_rng(1).normal(size=(10, 7)).astype(np.float32)
    flat = torch.from_numpy(matrix.reshape(-1).copy())
    projection({"w": torch.Size((10, 7))}, spans(subspace, ctx), torch.device("cpu"))(flat)
    there_and_back = dense(expanded(subspace, coefficients(subspace, {"w": matrix}, ctx), ctx))["w"]
    np.testing.assert_allclose(there_and_back, flat.view(10, 7).numpy(), atol=1e-6)
    assert np.abs(there_and_back - matrix).max() > 0.1
    inner = context_of(subspace, ctx)
    assert inner.model.tensor["w"].shape == {"low-rank": (3, 7), "random": (1, 21)}[kind]


def test_a_cut_and_masked_submodel_has_a_subspace_of_its_own() -> None:
    cut = choose("prefix", MODEL, 0.5, Draw())
    update, _, _ = returned(order("low-rank:0.5/raw", cut))
    assert update["first.weight"].shape == (8, 16)
    assert np.linalg.matrix_rank(update["first.weight"], tol=1e-4) == 4
    mask = np.random.default_rng(0).random((16, 16)) < 0.5
    masked = make(MODEL, masks={"first.weight": mask})
    found = dense(returned(order("random:0.5/raw", masked))[0])["first.weight"]
    assert not found[~mask].any()
    assert np.count_nonzero(found) == int(np.ceil(mask.sum() / 2))


def test_a_low_rank_of_a_masked_tensor_is_refused() -> None:
    masked = make(MODEL, masks={"first.weight": np.eye(16, dtype=np.bool_)})
    with pytest.raises(UseError, match=r"'first\.weight' has a mask, which no product of factors keeps to"):
        spans(Subspace("low-rank", 0.5), Context(MODEL, masked))
    with pytest.raises(UseError, match=r"confine masked tensors to random:SHARE"):
        predicted_bytes("low-rank:0.5/raw", MODEL, masked)


def test_coefficients_are_coded_like_any_model_and_what_that_loses_is_fed_back() -> None:
    assert [t for t in ("raw", "low-rank:0.1/raw", "random:0.1/raw") if not lossless(t)] == []
    assert [t for t in ("bf16", "scr:0/raw", "low-rank:0.1/lloyd:4", "random:0.1/topk:0.1/raw") if lossless(t)] == []
    asked = order("low-rank:0.25/lloyd:2")
    update, size, state = returned(asked)
    assert size < returned(order("low-rank:0.25/raw"))[1] / 3
    assert np.linalg.matrix_rank(dense(update)["first.weight"], tol=1e-4) == 4
    left = trained(asked)["first.weight"] - dense(update)["first.weight"]
    np.testing.assert_allclose(state.residual["first.weight"], left, atol=2e-6)
    assert np.abs(left).max() > 1e-4
