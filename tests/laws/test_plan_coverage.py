"""Atoms: the planner's symbolic account of who holds which entries equals counting entries one by one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pleat.elastic.choosers import Draw, choose
from pleat.elastic.selection import WHOLE, Selection, coverage, make
from pleat.modelmap import Group, ModelMap, Segment, TensorSpec
from pleat_server.bench.plan import mlp
from pleat_server.plan.catalogue import Row
from pleat_server.plan.coverage import atoms
from pleat_server.plan.policies import deadline
from support.planning import row

SMALL = mlp(inputs=3, hidden=6, classes=2)


def _rows(*selections: Selection) -> tuple[Row, ...]:
    return tuple(replace(row(i, 1.0), selection=s) for i, s in enumerate(selections))


def _covered(model: ModelMap, rows: tuple[Row, ...], chosen: list[int]) -> int:
    """Entries that at least one chosen row holds, counted."""
    total = 0
    for spec in model.tensors:
        held = np.zeros(spec.shape, np.bool_)
        for r in chosen:
            held |= coverage(model, rows[r].selection, spec.name)
        total += int(held.sum())
    return total


@st.composite
def selections(draw: st.DrawFn) -> Selection:
    kept = {g: sorted(draw(st.sets(st.integers(0, 5), min_size=1))) for g in ("h1", "h2")}
    masks = {}
    if draw(st.booleans()):
        bits = draw(st.lists(st.booleans(), min_size=36, max_size=36))
        masks["b.weight"] = np.array(bits, np.bool_).reshape(6, 6)
    return make(SMALL, kept, masks=masks)


@settings(max_examples=120, deadline=None)
@given(st.lists(selections(), min_size=1, max_size=5), st.data())
def test_a_plan_leaves_no_atom_bare_exactly_if_it_covers_what_all_rows_together_cover(parts, data) -> None:  # type: ignore[no-untyped-def]
    rows = _rows(*parts)
    found = atoms(SMALL, rows)
    chosen = data.draw(st.lists(st.integers(0, len(rows) - 1), min_size=1, max_size=4))
    everything = np.ones((len(chosen), len(rows)), np.bool_)
    complete = _covered(SMALL, rows, chosen) == _covered(SMALL, rows, list(range(len(rows))))
    assert (deadline.bare(np.array(chosen), everything, found) == 0) == complete


def test_of_a_ladder_only_the_largest_row_holds_everything() -> None:
    parts = [choose("prefix", SMALL, rate, Draw()) for rate in (1.0, 0.5, 1 / 6)]
    assert atoms(SMALL, _rows(*parts)) == (0b001,)


def test_rows_of_one_size_and_several_codings_stand_for_each_other() -> None:
    small = choose("prefix", SMALL, 0.5, Draw())
    assert atoms(SMALL, _rows(WHOLE, WHOLE, small)) == (0b011,)


def test_a_dropped_unit_is_held_by_those_that_keep_it() -> None:
    axis = (Segment("", 4),)
    model = ModelMap(
        tensors=(TensorSpec("block.w", (4,), (axis,), unit="block"), TensorSpec("stem.w", (4,), (axis,))),
        groups=(Group("", 1, role="frozen"),),
        units=("block",),
    )
    assert atoms(model, _rows(WHOLE, make(model, dropped=["block"]))) == (0b01,)


def test_random_rows_without_a_whole_one_are_each_needed() -> None:
    parts = [make(SMALL, {"h1": [0, 1], "h2": [0]}), make(SMALL, {"h1": [4], "h2": [3]})]
    assert atoms(SMALL, _rows(*parts)) == (0b01, 0b10)
