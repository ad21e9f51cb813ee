"""Folding: whatever order reports come in, and however many are folded early, the next model has the same bits."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pleat.codec.coding import build
from pleat.codec.transform import Context
from pleat.elastic.choosers import Draw, choose
from pleat.elastic.selection import Selection, shapes
from pleat.exchange.order import Kind, Order, OrderId, Payload, Return, Work
from pleat.exchange.report import Outcome, Report
from pleat.exchange.wire import report_to_bytes
from pleat.nets.build import initial, spec
from pleat.nets.trace import model_map
from pleat.params import Params, digest
from pleat.recipes.recipe import FoldChoice, Recipe
from pleat_server.folding import Folded, Folding, fold, weight_of
from pleat_server.round import Setup
from pleat_server.state import State

NET = spec("mlp", (1, 8, 8), 10)
MODEL = model_map(NET)
SETUP = Setup(MODEL, NET, Recipe(), ())
STATE = State("run", 0, initial(NET, 0))
WIDTHS = (1.0, 0.5, 0.25, 1.0, 0.5)


def order(rank: int) -> Order:
    selection = choose("prefix", MODEL, WIDTHS[rank], Draw(0, 1, f"d{rank}", STATE.params))
    return Order(
        OrderId("run", 1, rank), f"d{rank}", Kind.TRAIN, NET, selection, work=Work(), returns=(Return("update", "raw"),)
    )


def body(asked: Order) -> bytes:
    if asked.id.rank == 3:
        return report_to_bytes(Report(asked.id, asked.device, Outcome.REFUSED, "does not fit"))
    context = Context(MODEL, asked.selection, 1, asked.seed, 0)
    text = asked.returns[0].coding
    coding = build(text)
    frame, _ = coding.encode(update(asked.selection, asked.id.rank), coding.init(context), context)
    return report_to_bytes(
        Report(asked.id, asked.device, samples=10 + asked.id.rank, payloads=(Payload("update", text, frame, 0),))
    )


def update(selection: Selection, seed: int) -> Params:
    rng = np.random.default_rng(seed)
    return {n: rng.standard_normal(s).astype(np.float32) for n, s in shapes(MODEL, selection).items()}


ASKED = [order(rank) for rank in range(len(WIDTHS))]
SPOOL = {o.id: body(o) for o in ASKED}


def read(order_id: OrderId, check: bool = True) -> bytes:
    return SPOOL[order_id]


def what(folded: Folded) -> tuple[bytes, dict[str, float], list[OrderId], list[OrderId]]:
    assert folded.step is not None
    ids = ([o.id for o, _ in part] for part in (folded.accepted, folded.empty))
    return digest(folded.step), dict(folded.values), *ids  # type: ignore[return-value]


@settings(deadline=None, max_examples=25)
@given(st.permutations(ASKED), st.sets(st.integers(0, len(ASKED) - 1), max_size=3))
def test_no_order_of_arrival_changes_a_bit_of_the_next_model(arrivals: list[Order], absent: set[int]) -> None:
    here: set[OrderId] = set()
    folding = Folding(SETUP, ASKED, read)
    for come in arrivals:
        if come.id.rank not in absent:
            here.add(come.id)
            folding.take(here)
    if any(i.rank != 3 for i in here):
        assert what(folding.close(STATE, here)) == what(fold(SETUP, STATE, ASKED, read, here))


def test_a_report_is_read_early_only_when_all_before_it_are_there() -> None:
    seen: list[int] = []

    def reading(order_id: OrderId, check: bool = True) -> bytes:
        seen.append(order_id.rank)
        return read(order_id)

    folding = Folding(SETUP, ASKED, reading)
    folding.take({ASKED[1].id, ASKED[2].id})
    assert seen == []
    folding.take({o.id for o in ASKED[:2]})
    assert seen == [0, 1]
    folding.close(STATE, {o.id for o in ASKED if o.id.rank != 2})
    assert seen[:4] == [0, 1, 3, 4]


def test_sparse_updates_are_read_once_and_dense_ones_again_for_their_value() -> None:
    seen: list[int] = []

    def reading(order_id: OrderId, check: bool = True) -> bytes:
        seen.append(order_id.rank)
        return read(order_id)

    fold(SETUP, STATE, ASKED, reading, set(SPOOL))
    assert sorted(seen) == [0, 0, 1, 1, 2, 2, 3, 4, 4]
    seen.clear()
    lossy = [replace(o, returns=(Return("update", "topk:0.05/lloyd:4"),)) for o in ASKED]
    coded = {o.id: body(o) for o in lossy}
    fold(SETUP, STATE, lossy, lambda i, check=True: (seen.append(i.rank), coded[i])[1], set(coded))
    assert sorted(seen) == [0, 1, 2, 3, 4]


def test_a_device_may_count_by_the_share_of_the_model_that_it_trains() -> None:
    """The mlp has 64 x 256 + 256 + 256 x 128 + 128 + 128 x 10 + 10 = 50826 entries, at width 1/2 17226: a third."""
    report = Report(ASKED[1].id, "d1", samples=11)
    for choice, weight in (
        (FoldChoice(), 11.0),
        (FoldChoice(size=1.0), 11 * 17226 / 50826),
        (FoldChoice(size=0.5, weights="equal"), (17226 / 50826) ** 0.5),
    ):
        assert weight_of(replace(SETUP, recipe=Recipe(fold=choice)), ASKED[1], report) == pytest.approx(
            weight, rel=1e-12
        )
        assert weight_of(replace(SETUP, recipe=Recipe(fold=choice)), ASKED[0], report) in (11.0, 1.0)


def test_what_a_small_size_counts_for_less_moves_shared_entries_less() -> None:
    plain, sized = (
        fold(replace(SETUP, recipe=Recipe(fold=FoldChoice(size=size))), STATE, ASKED, read, set(SPOOL)).step
        for size in (0.0, 1.0)
    )
    assert plain is not None
    assert sized is not None
    large = [update(ASKED[0].selection, 0)["first.bias"]]
    assert abs(sized["first.bias"] - large).mean() < abs(plain["first.bias"] - large).mean()
