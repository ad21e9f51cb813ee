"""What each coding promises of what comes back: exact, or within a stated error."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pleat.codec import blocks, entropy, quantise
from pleat.codec.bf16 import from_bf16, is_finite, to_bf16
from pleat.codec.coding import build
from pleat.codec.layout import SEAM, SEGMENT, layout
from pleat.codec.links import coded_values
from pleat.codec.select import kept, largest, topk
from pleat.codec.transform import Context
from pleat.elastic.selection import WHOLE, make
from pleat.errors import LocalError, UseError
from pleat.modelmap import Group, ModelMap, Segment, TensorSpec
from pleat.params import Array, Sparse
from support.coded import decode, encode, model, one_matrix, plain, random_params, selections

QUICK = settings(max_examples=50, deadline=None)
FLOATS = st.floats(-(2.0**60), 2.0**60, width=32)
FEW = st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.0, -2.0, 0.5])


def by_sorting(line: Array, k: int) -> list[int]:
    """Top-k in the plainest words: the largest magnitudes, the lowest index first on ties, zeros never."""
    order = sorted(range(line.size), key=lambda i: (-abs(float(line[i])), i))
    return sorted(i for i in order[:k] if line[i] != 0)


# bf16


@given(arrays(np.float32, st.integers(0, 60), elements=FLOATS))
@QUICK
def test_bf16_is_the_nearest_pattern_and_even_on_ties(values: Array) -> None:
    back = from_bf16(to_bf16(values))
    low = from_bf16((values.view(np.uint32) >> 16).astype(np.uint16)).astype(np.float64)
    high = from_bf16(((values.view(np.uint32) >> 16) + 1).astype(np.uint16)).astype(np.float64)
    wide = values.astype(np.float64)
    to_low, to_high = np.abs(wide - low), np.abs(wide - high)
    np.testing.assert_array_equal(np.abs(wide - back), np.minimum(to_low, to_high))
    assert not (to_bf16(values)[to_low == to_high] & 1).any()


def test_every_finite_bf16_pattern_survives_and_infinities_are_told_apart() -> None:
    words = np.arange(1 << 16, dtype=np.uint16)
    finite = words[np.isfinite(from_bf16(words))]
    np.testing.assert_array_equal(to_bf16(from_bf16(finite)), finite)
    assert is_finite(finite)
    assert not any(is_finite(words[i : i + 1]) for i in (0x7F80, 0xFF80, 0x7FC0))


# top-k


@given(arrays(np.float32, st.integers(1, 80), elements=st.one_of(FLOATS, FEW)), st.integers(0, 80), st.integers(0, 80))
@QUICK
def test_top_k_is_that_of_a_full_sort_with_the_lowest_index_on_ties(line: Array, k: int, cut: int) -> None:
    parts = [line[: min(cut, line.size)], line[min(cut, line.size) :]]
    found = largest(parts, min(k, line.size))
    both = [*found[0].tolist(), *(found[1] + parts[0].size).tolist()]
    assert both == by_sorting(line, k)


@pytest.mark.parametrize("share", [0.001, 0.01, 0.1, 0.5, 0.99, 1.0])
@pytest.mark.parametrize("kind", ["gauss", "few values", "sorted", "one large in each thousand", "mostly zero"])
def test_the_sampled_threshold_never_changes_the_result(share: float, kind: str) -> None:
    rng = np.random.default_rng(1)
    line = rng.standard_normal(100_003).astype(np.float32)
    if kind == "few values":
        line = np.round(line)
    elif kind == "sorted":
        line = np.sort(line)
    elif kind == "one large in each thousand":
        line[::1000] *= 1e6
    elif kind == "mostly zero":
        line[rng.random(line.size) < 0.97] = 0
    k = kept(share, line.size)
    order = np.lexsort((np.arange(line.size), -np.abs(line)))[:k]
    expected = np.sort(order[line[order] != 0])
    np.testing.assert_array_equal(
        largest([line[:1], line[1:40_000], line[40_000:]], k)[2] + 40_000, expected[expected >= 40_000]
    )
    np.testing.assert_array_equal(largest([line], k)[0], expected)


def test_top_k_of_masked_tensors_counts_and_keeps_only_entries_inside_the_mask() -> None:
    net = model()
    inside = np.random.default_rng(3).random((12, 7)) < 0.6
    ctx = Context(net, make(net, {"a": range(0, 12, 2)}, masks={"a.weight": inside}))
    assert layout(ctx).matrices.size == int(inside[::2].sum()) + 9 * 6 + 5 * 6
    update = random_params(net, ctx.selection)
    out = decode("topk:0.5/f32", encode("topk:0.5/f32", update, ctx), ctx)
    sparse = {n: t for n, t in out.items() if isinstance(t, Sparse)}
    assert sum(t.index.size for t in sparse.values()) == kept(0.5, layout(ctx).matrices.size)
    for name, tensor in sparse.items():
        np.testing.assert_array_equal(tensor.values, update[name].reshape(-1)[tensor.index])
        assert (tensor.values != 0).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("text", ["raw", "bf16", "bf16-delta", "lloyd:2", "topk:0.1/lloyd:4", "topk:1/f32"])
@pytest.mark.parametrize("name", ["a.weight", "a.bias"])
def test_a_tensor_with_nan_or_infinity_is_not_coded(bad: float, text: str, name: str) -> None:
    update = random_params(model())
    update[name].flat[3] = bad
    with pytest.raises(LocalError, match="NaN or infinite"):
        encode(text, update, Context(model(), WHOLE))


def test_a_base_of_another_shape_is_refused_by_name() -> None:
    ctx = Context(model(), WHOLE, base={"a.bias": np.ones(1, np.float32)})
    with pytest.raises(UseError, match=r"'a.bias': expected shape \(12,\), got \(1,\)"):
        encode("bf16-delta", random_params(model()), ctx)


def test_values_too_large_for_bf16_are_not_coded_as_infinity() -> None:
    ctx, update = Context(one_matrix(1, 2), WHOLE), {"w": np.array([[3.4e38, -1.0]], np.float32)}
    with pytest.raises(LocalError, match=r"beyond 3\.39e38"):
        encode("bf16", update, ctx)
    out = plain(decode("lloyd:2", encode("lloyd:2", update, ctx), ctx))["w"]
    np.testing.assert_allclose(out, [[3.39e38, -1.0]], rtol=0.01)


@pytest.mark.parametrize("text", ["raw", "bf16-delta", "topk:0.1/lloyd:4"])
def test_tensors_that_do_not_fit_the_submodel_are_refused_by_name(text: str) -> None:
    update = random_params(model())
    with pytest.raises(UseError, match=r"'a.bias': expected shape \(12,\), got \(1,\)"):
        encode(text, update | {"a.bias": np.ones(1, np.float32)}, Context(model(), WHOLE))
    with pytest.raises(UseError, match="1 names differ, first 'odd'"):
        encode(text, update | {"odd": np.ones(1, np.float32)}, Context(model(), WHOLE))


def test_a_dense_matrix_beside_sparse_ones_is_refused_by_name() -> None:
    ctx, update = Context(model(), WHOLE), random_params(model())
    mixed = {**topk(0.1).encode(update, (), ctx)[0], "c.weight": update["c.weight"]}
    values = coded_values(blocks.f32(), blocks.f32(), 0.1)
    with pytest.raises(UseError, match=r"'c\.weight' is dense beside sparse ones"):
        values.encode(mixed, (), ctx)


# quantiser


def test_levels_of_a_gaussian_are_those_lloyd_and_max_tabulated() -> None:
    values = np.random.default_rng(0).standard_normal(400_000).astype(np.float32)
    # codec.md section 1: distortion of the b-bit quantiser, and its magnitudes at 2 bits
    for bits, distortion in {1: 0.3634, 2: 0.1175, 3: 0.03455, 4: 0.00950}.items():
        done = quantise.quantise(values, bits)
        back = quantise.unpack(done.codes, quantise.table(done.levels, bits, 1), values.size)
        assert float(((values - back) ** 2).mean()) == pytest.approx(distortion, rel=0.02)
    np.testing.assert_allclose(from_bf16(quantise.quantise(values, 2).levels), [0.4528, 1.5104], rtol=0.01)


@given(arrays(np.float32, st.integers(1, 60), elements=st.one_of(FLOATS, FEW)), st.integers(1, 8))
@QUICK
def test_quantising_contracts_keeps_signs_and_needs_no_more_levels_than_values(values: Array, bits: int) -> None:
    done = quantise.quantise(values, bits)
    assert done.levels.size <= min(1 << (bits - 1), np.unique(np.abs(values)).size)
    assert (np.diff(done.levels.astype(int)) > 0).all()
    back = quantise.unpack(done.codes, quantise.table(done.levels, bits, 1), values.size).astype(np.float64)
    assert (np.signbit(back) == np.signbit(values)).all()
    wide = values.astype(np.float64)
    assert ((wide - back) ** 2).sum() <= (wide**2).sum() * (1 + 1e-9)


def test_few_distinct_values_come_back_as_they_are_in_bf16() -> None:
    values = np.array([0.5, -0.5, 2.0, -2.0, 0.0, 3.0], np.float32)
    done = quantise.quantise(values, 4)
    np.testing.assert_array_equal(quantise.unpack(done.codes, quantise.table(done.levels, 4, 1), 6), values)


@given(st.integers(1, 8), st.integers(1, 50), st.integers(0, 999))
@QUICK
def test_packed_codes_decode_as_unpacked_ones(bits: int, size: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    levels = to_bf16(np.arange(1, (1 << (bits - 1)) + 1, dtype=np.float32))
    codes = rng.integers(0, 1 << bits, size).astype(np.uint8)
    each = quantise.per_byte(bits)
    packed = quantise.pack(codes, bits, each)
    assert packed.size == -(-size // each)
    plainly = quantise.unpack(codes, quantise.table(levels, bits, 1), size)
    np.testing.assert_array_equal(quantise.unpack(packed, quantise.table(levels, bits, each), size), plainly)
    np.testing.assert_array_equal(plainly, np.where(codes & 1, -1, 1) * (codes // 2 + 1.0))


# positions and words


@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(0, 999))
@QUICK
def test_positions_come_back_whatever_their_density(size: int, k: int, seed: int) -> None:
    k = min(k, size)
    index = np.sort(np.random.default_rng(seed).permutation(size)[:k])
    positions, fields, sections = blocks.write_positions(index, size)
    block = blocks.Block(
        blocks.Values.F32, positions, fields, (*sections, *blocks.f32().encode(np.ones(k, np.float32))[1])
    )
    found, _ = blocks.read_block(blocks.f32(), block, size, k)
    np.testing.assert_array_equal(found, index)


@pytest.mark.parametrize(
    "index",
    [[0], [99_999], [254], [255], [256], [510], [0, 99_999], [254, 510, 766], list(range(50)), [7, 4087, 8167, 99_998]],
)
def test_gaps_at_the_edges_of_a_byte_come_back(index: list[int]) -> None:
    for low in (0, 1, 4):
        gaps, lows = entropy.split_gaps(np.array(index), low)
        back = entropy.join_gaps(gaps, np.frombuffer(lows, np.uint8), len(index), low, 100_000, "gaps")
        assert back.tolist() == index


@pytest.mark.parametrize(("share", "over"), [(0.01, 1.02), (0.05, 1.02), (0.1, 1.02), (0.2, 1.02), (0.001, 1.06)])
def test_positions_cost_hardly_more_than_their_entropy(share: float, over: float) -> None:
    size = 1 << 20
    index = np.flatnonzero(np.random.default_rng(2).random(size) < share)
    _, _, sections = blocks.write_positions(index, size)
    p = index.size / size
    least = -(p * np.log2(p) + (1 - p) * np.log2(1 - p)) * size
    assert sum(len(s.data) for s in sections) * 8 <= over * least


def test_zigzag_orders_differences_by_size_and_goes_both_ways() -> None:
    words = np.arange(1 << 16, dtype=np.uint16)
    np.testing.assert_array_equal(
        entropy.zigzag(np.array([0, -1, 1, -2, 2], np.int16).view(np.uint16)), [0, 1, 2, 3, 4]
    )
    np.testing.assert_array_equal(entropy.unzigzag(entropy.zigzag(words)), words)
    np.testing.assert_array_equal(entropy.from_planes(*entropy.planes(words)), words)


# layout


def test_segments_end_with_large_tensors_and_never_exceed_their_limit() -> None:
    rows = {"a": 3, "b": SEAM // 8, "c": SEGMENT // 4, "d": 5, "e": 2 * SEGMENT // 8 + 7}
    tensors = tuple(TensorSpec(n, (r, 8), ((Segment("g" + n),), (Segment("i"),))) for n, r in rows.items())
    groups = (*(Group("g" + n, r) for n, r in rows.items()), Group("i", 8))
    run = layout(Context(ModelMap(tensors, groups), WHOLE)).matrices
    first = 8 * (rows["a"] + rows["b"])
    second = first + 8 * rows["c"]
    third = second + 8 * (rows["d"] + rows["e"])
    expected = (0, first, first + SEGMENT, second, second + SEGMENT, second + 2 * SEGMENT, third)
    assert run.bounds == expected
    assert run.size == third


def test_a_model_of_many_segments_comes_back() -> None:
    net = one_matrix(1200, 1100)
    ctx, update = Context(net, WHOLE), random_params(one_matrix(1200, 1100))
    assert len(layout(ctx).matrices.segments()) == 2
    out = decode("topk:0.1/f32", encode("topk:0.1/f32", update, ctx), ctx)["w"]
    assert isinstance(out, Sparse)
    np.testing.assert_array_equal(out.index, largest([update["w"].reshape(-1)], out.index.size)[0])
    np.testing.assert_array_equal(out.values, update["w"].reshape(-1)[out.index])
    np.testing.assert_array_equal(plain(decode("raw", encode("raw", update, ctx), ctx))["w"], update["w"])


# whole codings

# text: share of the update's energy that may be lost (matrices, vectors)
LOSSES = {
    "raw": (0.0, 0.0),
    "bf16": (2**-16, 2**-16),
    "bf16-delta": (2**-16, 2**-16),
    "f32": (0.0, 2**-16),
    "lloyd:1": (0.7, 2**-16),
    "lloyd:4": (0.05, 2**-16),
    "lloyd:8": (0.001, 2**-16),
    "topk:1/f32": (0.0, 2**-16),
    "topk:0.3/f32": (0.7, 2**-16),
    "topk:0.3/lloyd:3": (0.7, 2**-16),
    "topk:0.05/lloyd:4": (0.95, 2**-16),
    "topk:0.05/bf16": (0.95, 2**-16),
}


@pytest.mark.parametrize("text", LOSSES)
@given(st.integers(0, 10_000))
@settings(max_examples=12, deadline=None)
def test_a_coding_returns_every_tensor_within_its_stated_error(text: str, seed: int) -> None:
    net = model()
    ctx = Context(net, selections(net, seed), seed, seed + 1, seed + 2)
    update = random_params(net, ctx.selection, seed, scale=0.01)
    out = decode(text, encode(text, update, ctx), ctx)
    assert list(out) == sorted(update)
    for at, names in enumerate((("weight",), ("bias",))):
        own = {n: a for n, a in update.items() if n.endswith(names)}
        lost = sum(float(((plain(out)[n] - a) ** 2).sum()) for n, a in own.items())
        assert lost <= LOSSES[text][at] * sum(float((a**2).sum()) for a in own.values())
    assert all(isinstance(t, Sparse) == (text.startswith("topk") and n.endswith("weight")) for n, t in out.items())
    for tensor in out.values():
        assert (tensor.values if isinstance(tensor, Sparse) else tensor).dtype == np.float32


@pytest.mark.parametrize("text", LOSSES)
def test_the_same_value_in_the_same_context_gives_the_same_bytes(text: str) -> None:
    ctx = Context(model(), WHOLE, 1)
    names = dict(reversed(random_params(model()).items()))
    assert encode(text, random_params(model()), ctx) == encode(text, names, ctx)


@pytest.mark.parametrize("text", ["bf16", "lloyd:3", "topk:0.1/lloyd:4", "bf16-delta"])
def test_an_update_of_zeros_is_a_tiny_frame_and_comes_back_as_zeros(text: str) -> None:
    net = one_matrix(100, 100)
    ctx = Context(net, WHOLE)
    data = encode(text, {"w": np.zeros((100, 100), np.float32)}, ctx)
    assert len(data) < 80
    assert not plain(decode(text, data, ctx))["w"].any()


def test_decoded_arrays_are_of_their_own_or_read_only_views_of_the_frame() -> None:
    ctx, update = Context(model(), WHOLE), random_params(model())
    for text in LOSSES:
        data = encode(text, update, ctx)
        for tensor in plain(build(text).decode(data, ctx)).values():
            if tensor.flags.writeable:
                tensor += 1  # not a window into the frame
            else:
                assert text in ("raw", "f32")  # a dense update is never copied: the server's memory counts on it
        assert encode(text, update, ctx) == data
