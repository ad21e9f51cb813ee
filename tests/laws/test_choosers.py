"""Choosers: hand-worked widths, and laws on random models (valid, nested, within budget, reproducible)."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pleat.elastic.choosers import CHOOSERS, Draw, choose
from pleat.elastic.choosers.channels import scores
from pleat.elastic.choosers.depth import by_stage, droppable, stages
from pleat.elastic.choosers.magnitude import top
from pleat.elastic.selection import WHOLE, coverage, embed, extract, make, within
from pleat.elastic.size import activation_floats, allocated, count, macs
from pleat.errors import UseError
from pleat.modelmap import Activation, Group, ModelMap
from pleat.params import dense
from support.models import channels, fixed, mlp, model_map, models, params_of, six_blocks

laws = settings(max_examples=40, deadline=None)
rates = st.floats(0.001, 1.0)


def inner_widths(model, selection):
    """Hidden widths of the six blocks, 0 where bypassed."""
    groups = [model.group[f"inner{i}"] for i in range(1, 7)]
    width = {g.name: selection.kept[g.name].size if g.name in selection.kept else g.size for g in groups}
    return [0 if g.unit in selection.dropped else width[g.name] for g in groups]


@laws
@given(models(), st.sampled_from(sorted(CHOOSERS)), rates, st.integers(0, 1000))
def test_every_chooser_makes_selections_that_the_model_can_have(model, name, rate, seed):
    draw = Draw(seed, 1, "device", params_of(model, seed))
    selection = choose(name, model, rate, draw)
    assert make(model, selection.kept, selection.dropped, selection.masks) == selection
    assert choose(name, model, 1.0, draw).is_whole
    assert choose(name, model, rate, draw) == selection


@laws
@given(models(), st.sampled_from(sorted(CHOOSERS)), rates, st.integers(0, 1000))
def test_what_a_chooser_cuts_comes_back_to_its_place_and_the_rest_is_0(model, name, rate, seed):
    params = params_of(model, seed)
    selection = choose(name, model, rate, Draw(seed, 1, "device", params))
    part = extract(model, selection, params)
    back = dense(embed(model, selection, part))
    for tensor, whole in params.items():
        assert np.array_equal(back[tensor], np.where(coverage(model, selection, tensor), whole, 0))
    again = extract(model, selection, back)
    assert again.keys() == part.keys()
    assert all(np.array_equal(again[n], a) for n, a in part.items())


@laws
@given(models(), st.sampled_from(sorted(CHOOSERS)), rates, rates, st.integers(0, 1000))
def test_selections_of_falling_rates_are_nested(model, name, one, other, seed):
    draw = Draw(seed, 1, "device", params_of(model, seed))
    small, large = sorted((one, other))
    assert within(model, choose(name, model, small, draw), choose(name, model, large, draw))


@laws
@given(models(), rates)
def test_a_prefix_keeps_at_least_the_rate_and_less_than_one_step_more(model, rate):
    selection = choose("prefix", model, rate, Draw())
    for group in model.groups:
        index = selection.kept.get(group.name, np.arange(group.size))
        assert index.tolist() == list(range(index.size))
        if group.role == "hidden":
            assert index.size >= rate * group.size - 1e-6
            assert index.size - group.step < rate * group.size


@laws
@given(models(), rates, st.integers(0, 99))
def test_random_channels_are_as_many_as_a_prefix_has(model, rate, seed):
    prefix, random = (choose(name, model, rate, Draw(seed, 2, "d")) for name in ("prefix", "random"))
    assert {n: i.size for n, i in random.kept.items()} == {n: i.size for n, i in prefix.kept.items()}


@laws
@given(models(), rates)
def test_a_hybrid_layout_stays_within_its_budget_where_the_streams_alone_do(model, rate):
    selection = choose("hyb", model, rate, Draw())
    if not [g for g in model.groups if g.unit and g.role == "hidden"]:
        assert selection == choose("prefix", model, rate, Draw())
        return
    least = choose("hyb", model, 1e-9, Draw())
    assert count(model, selection) <= max(rate * count(model, WHOLE), count(model, least))


@laws
@given(models(), rates)
def test_a_balanced_layout_stays_within_the_mean_of_both_budgets_beyond_what_no_block_needs(model, rate):
    selection, least = (choose("balanced", model, r, Draw()) for r in (rate, 1e-9))
    if not [g for g in model.groups if g.unit and g.role == "hidden"]:
        assert selection == choose("prefix", model, rate, Draw())
        return
    base, whole, own = ([f(model, s) for f in (count, macs)] for s in (least, WHOLE, selection))
    shares = [(o - b) / (w - b) for b, w, o in zip(base, whole, own, strict=True) if w > b]
    assert sum(shares) <= rate * len(shares) + 1e-9


@pytest.mark.parametrize(
    ("rate", "widths"),
    [(1, (64, 10)), (0.5, (32, 5)), (0.25, (16, 3)), (0.125, (8, 2)), (0.1, (7, 1)), (0.01, (1, 1)), (0.7, (45, 7))],
)
def test_prefix_widths_of_a_plain_net(rate, widths):
    """ceil(rate C); 0.7 x 10 is 7 and not 8, though the product in binary is above it."""
    model = mlp(4, (64, 10), 3)
    selection = choose("prefix", model, rate, Draw())
    kept = [selection.kept.get(n, np.arange(model.group[n].size)).size for n in ("hidden0", "hidden1")]
    assert tuple(kept) == widths
    assert (
        choose("inner", model, rate, Draw())
        == selection
        == choose("hyb", model, rate, Draw())
        == choose("balanced", model, rate, Draw())
    )


@pytest.mark.parametrize(
    ("name", "rate", "widths"),
    [
        ("prefix", 0.25, [4, 4, 8, 8, 16, 16]),
        ("prefix", 0.2, [4, 4, 8, 8, 16, 16]),  # 3.2, 6.4 and 12.8 channels, in steps of 4
        ("inner", 0.5, [8, 8, 16, 16, 32, 32]),
        ("inner", 0.2, [4, 4, 8, 8, 12, 12]),  # to the nearest step: 3.2, 6.4, 12.8
        ("inner", 0.0625, [0, 0, 4, 4, 4, 4]),  # 1 of 16 channels rounds to none: bypassed
        ("hyb", 1.0, [16, 16, 32, 32, 64, 64]),
        ("hyb", 0.5, [16, 16, 32, 32, 24, 16]),
        ("hyb", 0.25, [16, 16, 20, 16, 8, 4]),
        ("hyb", 0.125, [12, 12, 8, 4, 4, 0]),
        ("hyb", 0.0625, [8, 4, 4, 0, 0, 0]),
        ("hyb", 0.001, [0, 0, 0, 0, 0, 0]),
        ("balanced", 1.0, [16, 16, 32, 32, 64, 64]),
        ("balanced", 0.5, [12, 12, 24, 20, 24, 16]),  # 42 % of the entries, 59 % of the multiply-adds
        ("balanced", 0.25, [8, 4, 12, 8, 12, 8]),
        ("balanced", 0.125, [4, 4, 4, 4, 4, 4]),
        ("balanced", 0.001, [0, 0, 0, 0, 0, 0]),
    ],
)
def test_layouts_of_six_residual_blocks(name, rate, widths):
    model = six_blocks()
    selection = choose(name, model, rate, Draw())
    assert inner_widths(model, selection) == widths
    streams = {n for n in selection.kept if n.startswith("stream")}
    assert bool(streams) == (name == "prefix")  # inner layouts leave the residual stream whole


def test_a_block_that_cannot_be_bypassed_keeps_one_step():
    base = six_blocks()
    model = type(base)(base.tensors, base.groups, tuple(u for u in base.units if u != "block5"))
    assert inner_widths(model, choose("inner", model, 0.01, Draw())) == [0, 0, 0, 0, 4, 0]
    assert inner_widths(model, choose("hyb", model, 0.001, Draw())) == [0, 0, 0, 0, 4, 0]


def test_random_channels_differ_by_device_round_and_seed_and_by_nothing_else():
    model = mlp(4, (64, 64), 3)
    draws = [Draw(s, r, d) for s in (0, 1) for r in (1, 2) for d in ("a", "b")]
    chosen = [choose("random", model, 0.5, d) for d in draws]
    assert len({s.digest for s in chosen}) == len(draws)
    assert [choose("random", model, 0.5, d) for d in draws] == chosen
    assert chosen[0].kept["hidden0"].tolist() != chosen[0].kept["hidden1"].tolist()


def test_random_channels_are_drawn_evenly():
    model, n = mlp(2, (8,), 2), 2000
    hits = np.zeros(8)
    for round in range(n):
        hits[choose("random", model, 0.25, Draw(0, round, "d")).kept["hidden0"]] += 1
    deviation = np.sqrt(n * 0.25 * 0.75)
    assert np.abs(hits - n * 0.25).max() < 4 * deviation


@pytest.mark.parametrize(
    ("round", "window"),
    [(0, [0, 1, 2]), (1, [1, 2, 3]), (3, [0, 3, 4]), (4, [0, 1, 4]), (5, [0, 1, 2])],
)
def test_a_window_of_three_of_five_channels_rolls_and_wraps(round, window):
    """ceil(0.5 x 5) = 3 channels from round mod 5 on, worked by hand after FedRolex's equation 5."""
    kept = choose("rolling", mlp(4, (5, 4), 3), 0.5, Draw(0, round, "d")).kept
    assert kept["hidden0"].tolist() == window
    assert kept["hidden1"].tolist() == sorted([round % 4, (round + 1) % 4])


@laws
@given(models(), rates, st.integers(0, 50))
def test_a_cycle_of_the_window_holds_every_channel_equally_often(model, rate, first):
    for group in (g for g in model.groups if g.role == "hidden"):
        steps, hits = group.size // group.step, np.zeros(group.size)
        for round in range(first, first + steps):
            kept = choose("rolling", model, rate, Draw(0, round, "d")).kept.get(group.name, np.arange(group.size))
            hits[kept] += 1
        assert len(set(hits)) == 1
        assert hits[0] > 0


@laws
@given(models(), rates, st.integers(0, 99))
def test_all_devices_hold_the_same_window_as_large_as_a_prefix(model, rate, round):
    one, other = (choose("rolling", model, rate, Draw(0, round, d)) for d in ("a", "b"))
    assert one == other
    prefix = choose("prefix", model, rate, Draw())
    assert {n: i.size for n, i in one.kept.items()} == {n: i.size for n, i in prefix.kept.items()}


def test_random_channels_under_a_group_norm_come_in_whole_runs():
    model = six_blocks()
    kept = choose("random", model, 0.5, Draw(3)).kept["inner6"].reshape(-1, 4)
    assert (kept[:, 0] % 4 == 0).all()
    assert (np.diff(kept, axis=1) == 1).all()


@laws
@given(st.lists(st.integers(-3, 3), min_size=1, max_size=30), rates)
def test_the_top_magnitudes_are_as_many_as_asked_and_none_outside_is_larger(values, rate):
    weights = np.array(values, np.float32)
    mask = top(weights, rate)
    assert mask.sum() == math.ceil(round(rate * weights.size, 9))
    if not mask.all():
        assert np.abs(weights[mask]).min() >= np.abs(weights[~mask]).max()


def test_of_equal_magnitudes_the_first_are_kept():
    weights = np.array([[1, -2, 2], [2, 0, -2]], np.float32)
    assert top(weights, 0.5).tolist() == [[False, True, True], [True, False, False]]


def test_magnitude_masks_matrices_alone():
    model = model_map(
        [Group("g", 4)],
        [
            ("bias", (channels("g"),)),
            ("weight", (channels("g"), fixed(5)), 1),
            ("seen", (fixed(2), fixed(2)), 0, "", "buffer"),
        ],
    )
    params = params_of(model, 0)
    selection = choose("magnitude", model, 0.3, Draw(params=params))
    assert list(selection.masks) == ["weight"]
    assert selection.masks["weight"].sum() == 6
    with pytest.raises(UseError, match=r"pass the global model in Draw\.params"):
        choose("magnitude", model, 0.3, Draw())


@pytest.mark.parametrize("rate", [0, -0.5, 1.0001, float("nan"), float("inf")])
@pytest.mark.parametrize("name", sorted(CHOOSERS))
def test_a_rate_that_would_leave_nothing_or_more_than_all_is_refused(name, rate):
    with pytest.raises(UseError, match=rf"chooser '{name}': the rate must lie in \(0, 1\]"):
        choose(name, mlp(), rate, Draw())


def test_an_unknown_chooser_is_answered_with_the_nearest():
    with pytest.raises(UseError, match=r"unknown chooser 'prefx'; did you mean 'prefix'\?"):
        choose("prefx", mlp(), 0.5, Draw())
    with pytest.raises(UseError, match="unknown chooser 'zzz'; there are whole, prefix, inner, hyb, balanced, random"):
        choose("zzz", mlp(), 0.5, Draw())


def test_sizes_of_a_small_convolution_worked_by_hand():
    """conv 2 -> 4 channels of 3x3 on 5x5 positions, a flatten, a head of 10 classes; then half the channels."""
    model = model_map(
        [Group("c", 4)],
        [
            ("conv.bias", (channels("c"),)),
            ("conv.weight", (channels("c"), fixed(2), fixed(3), fixed(3)), 25),
            ("head.weight", (fixed(10), channels("c", 25)), 1),
        ],
        activations=(Activation(fixed(2), 25), Activation(channels("c"), 25), Activation(channels("c", 25), 1)),
    )
    half = make(model, {"c": [0, 3]})
    assert count(model, WHOLE) == 4 + 72 + 1000
    assert macs(model, WHOLE) == 72 * 25 + 1000
    assert activation_floats(model, WHOLE) == 50 + 100 + 100
    assert (count(model, half), macs(model, half)) == (2 + 36 + 500, 36 * 25 + 500)
    assert activation_floats(model, half) == 50 + 50 + 50
    mask = np.zeros((10, 100), np.bool_)
    mask[:, 0] = True
    masked = make(model, {"c": [0, 3]}, masks={"head.weight": mask})
    assert count(model, masked) == 2 + 36 + 10
    assert allocated(model, masked) == allocated(model, half) == count(model, half)
    assert macs(model, masked) == macs(model, half)  # dense kernels gain nothing by a mask


def test_a_dropped_unit_costs_nothing():
    model = six_blocks()
    without = make(model, dropped=["block2"])
    gone = [t for t in model.tensors if t.unit == "block2"]
    assert count(model, WHOLE) - count(model, without) == sum(math.prod(t.shape) for t in gone)
    assert macs(model, WHOLE) - macs(model, without) == 2 * 16 * 16 * 9 * 256
    assert count(model, WHOLE) == 175_820
    stored = type(model)(model.tensors, model.groups, model.units, (Activation(fixed(7), 2, "block2"),))
    assert (activation_floats(stored, WHOLE), activation_floats(stored, without)) == (14, 0)


@laws
@given(models(), rates, st.integers(0, 99))
def test_channels_are_as_many_as_a_prefix_has_and_none_outside_weighs_more(model, rate, seed):
    params = params_of(model, seed)
    found, prefix = choose("channels", model, rate, Draw(params=params)), choose("prefix", model, rate, Draw())
    assert {n: i.size for n, i in found.kept.items()} == {n: i.size for n, i in prefix.kept.items()}
    for name, index in found.kept.items():
        group = model.group[name]
        steps = scores(model, group, params).reshape(-1, group.step).sum(axis=1)
        inside = np.isin(np.arange(steps.size), index[:: group.step] // group.step)
        assert steps[inside].min() >= steps[~inside].max()


def test_the_filters_of_largest_l1_norm_stay_worked_by_hand():
    model = model_map([Group("g", 3)], [("w", (channels("g"), fixed(2)), 1), ("next", (fixed(2), channels("g")), 1)])
    params = {"w": np.array([[1, -4], [2, 2], [-3, 3]], np.float32), "next": np.ones((2, 3), np.float32)}
    assert choose("channels", model, 0.5, Draw(params=params)).kept["g"].tolist() == [0, 2]  # norms 5, 4, 6
    with pytest.raises(UseError, match=r"pass the global model in Draw\.params"):
        choose("channels", model, 0.5, Draw())


@pytest.mark.parametrize(
    ("rate", "dropped"),
    [(1, 0), (0.67, 1), (0.66, 2), (0.34, 2), (0.33, 3), (0.01, 3)],
)
def test_depth_drops_the_last_block_of_each_stage_first_and_keeps_one_and_what_widens(rate, dropped):
    """Six blocks on streams of 16, 32 and 64 channels; 3 and 5 widen. Spare are the second of each stage: 6, 4, 2."""
    model = six_blocks()
    assert droppable(model) == ["block6", "block4", "block2"]
    assert choose("depth", model, rate, Draw()).dropped == set(["block6", "block4", "block2"][:dropped])


def test_a_net_without_blocks_loses_width_instead_of_depth():
    model = mlp(4, (64, 10), 3)
    assert choose("depth", model, 0.5, Draw()) == choose("prefix", model, 0.5, Draw())


SIX_STAGES = [["block1", "block2"], ["block3", "block4"], ["block5", "block6"]]


def test_blocks_are_kept_by_stage_first_ones_first():
    model = six_blocks()
    assert stages(model) == SIX_STAGES
    assert by_stage(model, (2, 1, 2)).dropped == {"block4"}
    assert by_stage(model, (1, 1, 1)) == choose("depth", model, 0.01, Draw())
    assert by_stage(model, (2, 2, 2)).is_whole


def test_a_block_that_cannot_go_is_of_its_stage_and_lets_the_others_go():
    """As torchvision's ResNets are made: what widens is no unit, and has channels of its own."""
    model = six_blocks()
    units = tuple(u for u in model.units if u not in ("block3", "block5"))
    loose = {t.name: "" if t.unit not in units else t.unit for t in model.tensors}
    fixed_ones = replace(model, units=units, tensors=tuple(replace(t, unit=loose[t.name]) for t in model.tensors))
    assert stages(fixed_ones) == SIX_STAGES
    assert droppable(fixed_ones) == ["block6", "block4", "block2"]
    assert by_stage(fixed_ones, (2, 1, 1)).dropped == {"block4", "block6"}


def test_blocks_on_a_stream_that_cannot_be_cut_may_go_all_but_the_first():
    """As in a vision transformer whose heads have the width of the stream written in them."""
    groups = [Group("stream", 8, role="frozen", reason="it is written down")]
    tensors = [("stem.weight", (channels("stream"), fixed(2)), 1)]
    for i in (0, 1, 2, 10):
        groups.append(Group(f"inner{i}", 4, unit=f"b.{i}"))
        tensors.append((f"b.{i}.up", (channels(f"inner{i}"), channels("stream")), 1, f"b.{i}"))
    model = model_map(groups, tensors, ("b.0", "b.1", "b.2", "b.10"))
    assert stages(model) == [["b.0", "b.1", "b.2", "b.10"]]
    assert droppable(model) == ["b.10", "b.2", "b.1"]


@pytest.mark.parametrize(
    ("kept", "said"),
    [
        ((2, 2), "depth 2,2: expected blocks to keep in each of 3 stages, from 1 to 2,2,2"),
        ((2, 0, 2), "depth 2,0,2: expected blocks"),
        ((3, 2, 2), "depth 3,2,2: expected blocks"),
    ],
)
def test_depths_that_a_net_does_not_have_are_told_with_those_it_has(kept, said):
    with pytest.raises(UseError, match=said):
        by_stage(six_blocks(), kept)
    with pytest.raises(UseError, match="this net has no residual blocks"):
        by_stage(mlp(4, (64, 10), 3), kept)


@laws
@given(models(), rates, rates, st.integers(0, 1000))
def test_densities_by_gradients_nest_and_hold_their_rate_of_all(
    model: ModelMap, one: float, other: float, seed: int
) -> None:
    small, large = sorted((one, other))
    draw = Draw(params=params_of(model, seed), extras={"squares": params_of(model, seed + 1)})
    squares = {n: np.square(a) for n, a in draw.extras["squares"].items()}
    draw = Draw(params=draw.params, extras={"squares": squares})
    inner, outer = (choose("sensitive", model, rate, draw) for rate in (small, large))
    assert within(model, inner, outer)
    assert choose("sensitive", model, 1.0, draw).is_whole
    ranked = [t.name for t in model.tensors if t.role == "weight" and len(t.shape) >= 2]
    held = sum(int(coverage(model, outer, n).sum()) for n in ranked)
    assert held >= np.floor(large * sum(np.prod(model.tensor[n].shape) for n in ranked))
