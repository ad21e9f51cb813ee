"""The lookup table: its lines, its front against brute force, and what it lays on the rows."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from pleat.elastic.choosers import Rung
from pleat.elastic.selection import Selection, make
from pleat_server import lookup_table
from pleat_server.plan.catalogue import Row, Worth
from pleat_server.plan.offers import COSTS, front, laid_on, lines
from support.models import mlp
from support.planning import row

POINTS = st.lists(st.tuples(*[st.integers(0, 3)] * 3), min_size=1, max_size=12)


def beaten(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    """Whether `other` costs no more in anything, gains no less, and differs: (cost, cost, gain)."""
    return other != one and other[0] <= one[0] and other[1] <= one[1] and other[2] >= one[2]


@given(POINTS)
def test_the_front_is_what_brute_force_finds(points: list[tuple[int, ...]]) -> None:
    costs = np.array([p[:2] for p in points], np.float64)
    found = front(costs, np.array([p[2] for p in points], np.float64))
    assert found.tolist() == [not any(beaten(p, q) for q in points) for p in points]
    assert found.any()


def test_the_front_worked_by_hand() -> None:
    """(cost, accuracy): 9 .9; 5 .9 beats it; 4 .7; 4 .6 beaten by the last; 2 .7 beats both; two equal ones stay."""
    costs = np.array([[9], [5], [4], [4], [2], [2]], np.float64)
    assert front(costs, np.array([0.9, 0.9, 0.7, 0.6, 0.7, 0.7])).tolist() == [False, True, False, False, True, True]


MODEL = mlp()


def sized(index: int, rung: Rung, width: int, **changes: Any) -> Row:
    selection = make(MODEL, {"hidden0": range(width)})
    return replace(row(index, width / 8), rung=rung, selection=selection, **changes)


ROWS = (
    sized(0, Rung(), 8),
    sized(1, Rung(depth=0.5), 4),
    sized(2, Rung(depth=0.5, density=0.25), 2),
    sized(3, Rung(depth=0.5, density=0.25), 2, keep=0.1, up_bytes=9),
)
WORTHS: dict[Selection, Worth] = {
    ROWS[0].selection: Worth(0.8, 0.5, 20),
    ROWS[1].selection: Worth(0.85, 0.4, 20),
    ROWS[2].selection: Worth(0.6, 1.5, 20),
}


def test_every_row_has_a_line_with_its_costs_its_worth_and_whether_it_is_on_the_front() -> None:
    table = lines(ROWS, WORTHS)
    assert [e["size"] for e in table] == ["1", "depth 0.5", "depth 0.5 density 0.25", "depth 0.5 density 0.25"]
    assert [e["accuracy"] for e in table] == [0.8, 0.85, 0.6, 0.6]
    assert [e["front"] for e in table] == [False, True, False, True]  # row 3 is row 2 at fewer bytes up
    assert all(e[c] == getattr(r, c) for e, r in zip(table, ROWS, strict=True) for c in COSTS)


def test_a_table_gives_its_rows_their_worth_and_others_none() -> None:
    table = lines(ROWS, WORTHS)
    assert [r.worth for r in laid_on(ROWS, table)] == [WORTHS[r.selection] for r in ROWS]
    assert laid_on(ROWS, []) == ROWS
    more = (*ROWS, sized(4, Rung(depth=0.1), 1))
    assert all(r.worth is None for r in laid_on(more, table)), "a row that nobody scored: the table is of other rows"


FACTS: dict[str, Any] = {
    "recipe": "elf", "model": "mlp", "seed": 0, "digest": "00", "trained_on": 51, "scored_on": 20, "epochs": 7,
    "rows": lines(ROWS, WORTHS),
}  # fmt: skip


def test_the_table_is_printed_with_units_and_says_how_its_accuracies_came_about() -> None:
    out = io.StringIO()
    lookup_table.show(FACTS, Console(file=out))
    text = out.getvalue()
    assert " ".join(text.splitlines()[1].split()) == (
        "size params MACs a sample KiB down KiB up MiB to train accuracy loss front"
    )
    assert "depth 1/2 density 1/4 keep 0.1" in text
    assert "of each size after 7 epochs on 51 proxy samples" in text
    assert "of each size as it is from" in lookup_table.about({**FACTS, "epochs": 0})
    starred = [line for line in text.splitlines() if line.rstrip().endswith("*")]
    assert [line.split()[0:2] for line in starred] == [["depth", "1/2"], ["depth", "1/2"]]


def test_the_front_is_a_png_with_something_on_it(tmp_path: Path) -> None:
    from matplotlib.image import imread

    path = lookup_table.draw(FACTS, tmp_path / "deep" / "lookup.png")
    assert path.read_bytes().startswith(b"\x89PNG")
    assert imread(path).std() > 0.05


@pytest.mark.parametrize("worth", [0.0, 1.0])
def test_a_single_row_is_its_own_front(worth: float, tmp_path: Path) -> None:
    only = lines(ROWS[:1], {ROWS[0].selection: Worth(worth, 1.0, 4)})
    assert [e["front"] for e in only] == [True]
    assert lookup_table.draw({**FACTS, "rows": only}, tmp_path / "one.png").exists()
