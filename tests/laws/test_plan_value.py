"""Data value: the cosine of each update to the others' aggregate, against the definition written out entry by entry."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pleat.elastic.choosers import Draw, choose
from pleat.elastic.selection import WHOLE, coverage, embed, extract, make
from pleat.params import Params, Sparse, dense
from pleat_server.bench.plan import mlp
from pleat_server.plan.value.cosine import Contribution, data_values, mixed

MODEL = mlp(inputs=5, hidden=8, classes=3)


def _update(seed: int, scale: float = 1.0) -> Params:
    rng = np.random.default_rng(seed)
    return {t.name: (scale * rng.normal(size=t.shape)).astype(np.float32) for t in MODEL.tensors}


def _contribution(name: str, seed: int, rate: float, weight: float) -> Contribution:
    selection = choose("prefix", MODEL, rate, Draw())
    return name, extract(MODEL, selection, _update(seed)), selection, weight


def _by_definition(parts: list[Contribution]) -> dict[str, float]:
    flat, held, norms = {}, {}, {}
    for name, update, selection, _ in parts:
        whole = dense(embed(MODEL, selection, update))
        flat[name] = np.concatenate([whole[t.name].reshape(-1) for t in MODEL.tensors]).astype(np.float64)
        held[name] = np.concatenate([coverage(MODEL, selection, t.name).reshape(-1) for t in MODEL.tensors])
        norms[name] = float(np.linalg.norm(flat[name]))
    out = {}
    for name in flat:
        others = [(n, w) for n, _, _, w in parts if n != name]
        total, weight = sum(w * flat[n] for n, w in others), sum(w * held[n] for n, w in others)
        common = held[name] & (weight > 0)
        mean, own = total[common] / weight[common], flat[name][common]
        cosine = own @ mean / np.sqrt((own @ own) * (mean @ mean))
        out[name] = max(0.0, cosine) * min(1.0, norms[name] / float(np.median(list(norms.values()))))
    return out


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 999), st.sampled_from([1.0, 0.5, 0.25]), st.floats(1, 50)), min_size=2, max_size=5
    )
)
def test_values_equal_the_definition(drawn: list[tuple[int, float, float]]) -> None:
    parts = [_contribution(f"d{i}", seed, rate, weight) for i, (seed, rate, weight) in enumerate(drawn)]
    assert data_values(MODEL, lambda: parts) == pytest.approx(_by_definition(parts), abs=2e-4)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(0, 999), min_size=2, max_size=4))
def test_masked_updates_count_inside_their_masks_alone(seeds: list[int]) -> None:
    parts = []
    for i, seed in enumerate(seeds):
        mask = np.random.default_rng(seed).random((8, 8)) < 0.6
        mask[0, 0], mask[0, 1] = True, i > 0
        parts.append(
            (
                f"d{i}",
                _update(seed),
                make(MODEL, {"h1": range(1 + i, 8)} if i else {}, masks={"b.weight": mask}),
                1.0 + i,
            )
        )
    parts = [(n, {**extract(MODEL, s, u), "c.bias": u["c.bias"]}, s, w) for n, u, s, w in parts]
    assert data_values(MODEL, lambda: parts) == pytest.approx(_by_definition(parts), abs=2e-4)


def test_sparse_and_dense_updates_of_the_same_numbers_are_worth_the_same() -> None:
    def sparse(update: Params) -> dict[str, Sparse]:
        return {n: Sparse(a.shape, np.arange(a.size), a.reshape(-1)) for n, a in update.items()}

    plain = [_contribution(f"d{i}", i, 0.5, 2.0) for i in range(3)]
    thin = [(name, sparse(update), selection, w) for name, update, selection, w in plain]  # type: ignore[arg-type]
    assert data_values(MODEL, lambda: thin) == pytest.approx(data_values(MODEL, lambda: plain), abs=1e-6)


def test_agreement_is_worth_one_and_opposition_nothing() -> None:
    same, against = _update(1), {n: -a for n, a in _update(1).items()}
    parts = [("a", same, WHOLE, 1.0), ("b", same, WHOLE, 1.0), ("c", same, WHOLE, 1.0), ("d", against, WHOLE, 1.0)]
    values = data_values(MODEL, lambda: parts)
    assert values["a"] == pytest.approx(1.0, abs=1e-5)
    assert values["d"] == 0.0


def test_a_tiny_update_is_worth_little_and_none_nothing() -> None:
    tiny, none = {n: 0.01 * a for n, a in _update(1).items()}, {n: 0 * a for n, a in _update(1).items()}
    parts = [("a", _update(1), WHOLE, 1.0), ("b", _update(1), WHOLE, 1.0), ("c", tiny, WHOLE, 1.0)]
    assert data_values(MODEL, lambda: parts)["c"] == pytest.approx(0.01, abs=1e-4)
    assert data_values(MODEL, lambda: [*parts[:2], ("c", none, WHOLE, 1.0)])["c"] == 0.0


def test_a_device_alone_is_worth_one_and_nobody_is_an_empty_answer() -> None:
    assert data_values(MODEL, lambda: [_contribution("a", 1, 0.5, 3.0)]) == {"a": 1.0}
    assert data_values(MODEL, lambda: []) == {}


def test_mixing_with_sample_counts_keeps_rare_data_alive() -> None:
    assert mixed({"a": 1.0, "b": 0.0}, {"a": 100, "b": 50}) == pytest.approx({"a": 1.0, "b": 0.25})
    assert mixed({}, {}) == {}
