"""The algebra of codings: chains compose as by hand, and error feedback loses nothing whatever is selected when."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pleat.codec.bf16 import from_bf16, to_bf16
from pleat.codec.coding import build
from pleat.codec.feedback import feedback, restore, restrict
from pleat.codec.transform import Context, Transform, chain, identity, stateless
from pleat.elastic.selection import WHOLE, embed, make
from pleat.errors import UseError
from pleat.params import Params, dense
from support.coded import decode, encode, model, one_matrix, plain, random_params, selections

QUICK = settings(max_examples=40, deadline=None)


def counting(step: int) -> Transform:
    """A stateful link: adds `step` and counts its calls."""
    return Transform(
        lambda ctx: 0, lambda value, state, ctx: (value + step, state + 1), lambda coded, ctx: coded - step
    )


def scaling(by: int) -> Transform:
    return stateless(lambda value, ctx: value * by, lambda coded, ctx: coded // by)


CTX = Context(one_matrix(3, 4), WHOLE)


@given(st.integers(-99, 99))
@QUICK
def test_a_chain_encodes_left_to_right_and_decodes_right_to_left(value: int) -> None:
    first, second = counting(3), scaling(5)
    by_hand, state = first.encode(value, first.init(CTX), CTX)
    by_hand, other = second.encode(by_hand, second.init(CTX), CTX)
    both = chain(first, second)
    coded, states = both.encode(value, both.init(CTX), CTX)
    assert coded == by_hand == (value + 3) * 5
    assert states == (state, other)
    assert both.decode(coded, CTX) == first.decode(second.decode(coded, CTX), CTX) == value


@given(st.integers(-99, 99))
@QUICK
def test_chaining_is_associative_and_identity_is_neutral(value: int) -> None:
    a, b, c = counting(1), scaling(7), counting(2)
    ways = [chain(chain(a, b), c), chain(a, chain(b, c)), chain(a, identity(), b, c), chain(identity(), a, b, c)]
    coded = {way.encode(value, way.init(CTX), CTX)[0] for way in ways}
    assert len(coded) == 1
    assert {way.decode(x, CTX) for way in ways for x in coded} == {value}


def test_a_chain_passes_each_link_its_own_state() -> None:
    both = chain(counting(1), counting(10))
    state = both.init(CTX)
    for _ in range(3):
        _, state = both.encode(0, state, CTX)
    assert state == (3, 3)


def test_a_coding_by_text_is_its_links_one_after_another() -> None:
    from pleat.codec import blocks
    from pleat.codec.frame import frame
    from pleat.codec.links import coded_values
    from pleat.codec.select import topk

    ctx = Context(model(), WHOLE, 3, 4, 5)
    value: Any = random_params(model())
    for link in (topk(0.2), coded_values(blocks.levels(4), blocks.bf16(), 0.2), frame("topk:0.2/lloyd:4")):
        value, _ = link.encode(value, link.init(ctx), ctx)
    assert value == encode("topk:0.2/lloyd:4", random_params(model()), ctx)


@given(
    st.lists(st.integers(0, 10_000), min_size=1, max_size=6),
    st.sampled_from(["topk:0.1/lloyd:3", "lloyd:2", "scr:0.6/lloyd:3"]),
)
@QUICK
def test_feedback_telescopes_in_global_coordinates_under_changing_selections(seeds: list[int], text: str) -> None:
    net, coding = model(), feedback(build(text))
    state: Params = {}
    updates = {t.name: np.zeros(t.shape) for t in net.tensors}
    decoded = {t.name: np.zeros(t.shape) for t in net.tensors}
    for number, seed in enumerate(seeds):
        ctx = Context(net, selections(net, seed), number, seed)
        update = random_params(net, ctx.selection, seed)
        data, state = coding.encode(update, state, ctx)
        for name, part in dense(embed(net, ctx.selection, update)).items():
            updates[name] += part
        for name, part in dense(embed(net, ctx.selection, coding.decode(data, ctx))).items():
            decoded[name] += part
    for name, total in updates.items():
        left = state.get(name, np.zeros(()))
        np.testing.assert_allclose(decoded[name] + left, total, atol=1e-5)


@given(st.integers(0, 10_000), st.integers(0, 10_000))
@QUICK
def test_entries_outside_the_selection_keep_their_residual(first: int, second: int) -> None:
    net, coding = model(), feedback(build("topk:0.1/lloyd:2"))
    whole = Context(net, WHOLE)
    _, before = coding.encode(random_params(net, seed=first), coding.init(whole), whole)
    ctx = Context(net, selections(net, second))
    _, after = coding.encode(random_params(net, ctx.selection, second), before, ctx)
    held = dense(embed(net, ctx.selection, {n: np.ones_like(a) for n, a in random_params(net, ctx.selection).items()}))
    for name, was in before.items():
        outside = held[name] == 0
        np.testing.assert_array_equal(after[name][outside], was[outside])


@given(st.integers(0, 10_000), st.integers(0, 10_000))
@QUICK
def test_a_refused_update_comes_back_as_if_nothing_had_been_sent(first: int, second: int) -> None:
    net, coding = model(), feedback(build("topk:0.2/lloyd:3"))
    whole = Context(net, WHOLE)
    _, before = coding.encode(random_params(net, seed=first), {}, whole)
    ctx = Context(net, selections(net, second), 2)
    update = random_params(net, ctx.selection, second)
    data, after = coding.encode(update, before, ctx)
    back = restore(after, coding.decode(data, ctx), ctx)
    unsent = {n: a + restrict(before, ctx)[n] for n, a in update.items()}
    for name, array in restrict(back, ctx).items():
        np.testing.assert_allclose(array, unsent[name], atol=1e-6)
    for name in before:
        outside = dense(embed(net, ctx.selection, {n: np.ones_like(a) for n, a in update.items()}))[name] == 0
        np.testing.assert_array_equal(back[name][outside], before[name][outside])


def test_feedback_never_writes_into_its_state_or_its_input() -> None:
    net, coding = model(), feedback(build("topk:0.2/lloyd:3"))
    ctx, update = Context(net, make(net, {"a": range(5)})), random_params(model(), make(model(), {"a": range(5)}))
    _, state = coding.encode(update, {}, ctx)
    frozen = {n: a.copy() for n, a in state.items()}
    for array in (*state.values(), *update.values()):
        array.flags.writeable = False
    data, _ = coding.encode(update, state, ctx)
    restore(state, coding.decode(data, ctx), ctx)
    for name, array in state.items():
        np.testing.assert_array_equal(array, frozen[name])


def test_feedback_makes_a_harsh_coding_send_everything_in_the_end() -> None:
    net = one_matrix(20, 10)
    ctx, coding = Context(net, WHOLE), feedback(build("topk:0.1/lloyd:4"))
    target, zero = random_params(net), {"w": np.zeros((20, 10), np.float32)}
    received = np.zeros((20, 10))
    data, state = coding.encode(target, {}, ctx)
    for _ in range(60):
        received += plain(coding.decode(data, ctx))["w"]
        data, state = coding.encode(zero, state, ctx)
    assert np.abs(received - target["w"]).max() < 1e-3
    once = plain(decode("topk:0.1/lloyd:4", encode("topk:0.1/lloyd:4", target, ctx), ctx))["w"]
    assert np.abs(once - target["w"]).max() > 0.1, "without feedback nine tenths are lost"


def test_a_residual_of_another_net_is_refused_by_name() -> None:
    ctx, coding = Context(one_matrix(3, 4), WHOLE), feedback(build("lloyd:2"))
    with pytest.raises(UseError, match=r"residual of 'w': expected shape \(3, 4\), got \(4, 3\)"):
        coding.encode({"w": np.ones((3, 4), np.float32)}, {"w": np.ones((4, 3), np.float32)}, ctx)


@given(st.integers(0, 10_000), st.integers(0, 10_000))
@QUICK
def test_the_difference_chain_rebuilds_the_model_in_bf16_bit_for_bit(first: int, second: int) -> None:
    net, held = model(), selections(model(), second)
    new = random_params(net, held, first)
    rng = np.random.default_rng(second)
    base = {n: from_bf16(to_bf16(a + np.float32(0.01) * (rng.random(a.shape) < 0.2))) for n, a in new.items()}
    base = {n: a for n, a in base.items() if rng.random() < 0.8}
    ctx = Context(net, held, 1, 2, 3, base)
    out = plain(decode("bf16-delta", encode("bf16-delta", new, ctx), ctx))
    for name, array in new.items():
        np.testing.assert_array_equal(out[name].view(np.uint32), from_bf16(to_bf16(array)).view(np.uint32))
