"""Codings by text: what is understood, what is refused and how, and what a frame is predicted to weigh."""

from __future__ import annotations

import numpy as np
import pytest

from pleat.codec.coding import LINKS, build, predicted_bytes, uses_base
from pleat.codec.layout import layout
from pleat.codec.select import kept
from pleat.codec.transform import Context
from pleat.elastic.selection import WHOLE, make
from pleat.errors import UseError
from support.coded import decode, encode, model, one_matrix, random_params, selections

REFUSED = {
    "": "unknown link ''; there are bf16, bf16-delta",
    "topkk:0.1/lloyd:4": "unknown link 'topkk'; did you mean 'topk'?",
    "topk:0.1/loyd:4": "unknown link 'loyd'; did you mean 'lloyd'?",
    "topk:0.1": "after topk:0.1 say how values travel, as in topk:0.1/lloyd:4",
    "topk:0/f32": "topk:0: the share of entries kept must be above 0 and at most 1",
    "topk:1.5/f32": "topk:1.5: the share of entries kept must be above 0 and at most 1",
    "topk:nan/f32": "topk:nan: the share of entries kept must be above 0",
    "topk-each:0/f32": "topk-each:0: the share of entries kept must be above 0 and at most 1",
    "topk:many/f32": "topk:many: expected the share of entries kept",
    "topk/f32": "topk:: expected the share of entries kept",
    "lloyd:0": "lloyd:0: bits a value, sign included, must be 1 to 8",
    "lloyd:9": "lloyd:9: bits a value, sign included, must be 1 to 8",
    "lloyd:3.5": "lloyd:3.5: expected bits a value with its sign",
    "raw:2": "raw:2: raw takes no argument",
    "bf16-delta:1": "bf16-delta:1: bf16-delta takes no argument",
    "topk:0.1/topk:0.1/f32": "links cannot follow each other so",
    "lloyd:4/f32": "links cannot follow each other so",
    "topk:0.1/bf16-delta": "links cannot follow each other so",
    "topk:0.1/scr:0.1/f32": "links cannot follow each other so",
    "scr:0.1/bf16-delta": "links cannot follow each other so",
    "scr:0.1": "after scr:0.1 say how values travel",
    "low-rank:0.1": "after low-rank:0.1 say how values travel",
    "low-rank:2/raw": "low-rank:2: the share of coefficients must be above 0 and at most 1",
    "random/raw": "random:: expected the share of coefficients",
    "random:0.1/low-rank:0.1/raw": "links cannot follow each other so",
    "low-rank:0.1/bf16-delta": "links cannot follow each other so",
    "scr:1/f32": "scr:1: the score up to which filters go must be from 0 and below 1",
    "scr/f32": "scr:: expected the least score of a filter or channel",
    "topk:0.1//f32": "unknown link ''",
}


@pytest.mark.parametrize("text", REFUSED)
def test_a_coding_that_cannot_be_is_refused_with_what_to_type(text: str) -> None:
    with pytest.raises(UseError) as refusal:
        build(text)
    assert REFUSED[text] in str(refusal.value)
    with pytest.raises(UseError):
        predicted_bytes(text, model(), WHOLE)


def test_spaces_and_the_form_of_a_number_do_not_matter() -> None:
    ctx, value = Context(model(), WHOLE), random_params(model())
    assert encode("topk:0.10 / lloyd:04", value, ctx) == encode("topk:1e-1/lloyd:4", value, ctx)
    decode("topk:.1/lloyd:4", encode("topk:0.1/lloyd:4", value, ctx), ctx)


def test_only_differences_use_a_base() -> None:
    assert [t for t in ("raw", "bf16", "bf16-delta", "lloyd:4", "topk:0.1/lloyd:4") if uses_base(t)] == ["bf16-delta"]
    assert set(LINKS) == {"low-rank", "random", "scr", "topk", "topk-each", "lloyd", "raw", "f32", "bf16", "bf16-delta"}


CODINGS = ["raw", "bf16", "bf16-delta", "f32", "lloyd:1", "lloyd:3", "lloyd:4", "lloyd:8", "topk:0.01/lloyd:4"]
CODINGS += [
    "topk:0.05/lloyd:4",
    "topk:0.1/lloyd:3",
    "topk:0.1/lloyd:4",
    "topk:0.2/lloyd:4",
    "topk:0.1/f32",
    "topk-each:0.1/f32",
]
CODINGS += ["low-rank:0.25/raw", "random:0.25/raw", "low-rank:0.25/lloyd:4", "random:0.25/topk:0.1/lloyd:4"]


@pytest.mark.parametrize("text", CODINGS)
@pytest.mark.parametrize("size", [40, 160, 640])
def test_predicted_bytes_are_met_within_a_tenth_and_hardly_ever_passed(text: str, size: int) -> None:
    net = model(size, size, size)
    for selection in (WHOLE, make(net, {"a": range(size // 2)})):
        ctx = Context(net, selection)
        sent = len(encode(text, random_params(net, selection), ctx))
        assert 0.98 * sent <= predicted_bytes(text, net, selection) <= 1.1 * sent + 60


def test_predicted_bytes_count_only_entries_inside_masks() -> None:
    net = one_matrix(200, 100)
    mask = np.random.default_rng(0).random((200, 100)) < 0.25
    selection = make(net, masks={"w": mask})
    ctx = Context(net, selection)
    sent = len(encode("topk:0.1/lloyd:4", random_params(net, selection), ctx))
    assert sent <= predicted_bytes("topk:0.1/lloyd:4", net, selection) <= 1.1 * sent
    assert layout(ctx).matrices.size == int(mask.sum())


def test_a_held_base_makes_the_predicted_difference_cheaper_and_nothing_else() -> None:
    net = model(100, 100, 100)
    assert predicted_bytes("bf16-delta", net, WHOLE, has_base=True) < 0.6 * predicted_bytes("bf16-delta", net, WHOLE)
    assert predicted_bytes("raw", net, WHOLE, has_base=True) == predicted_bytes("raw", net, WHOLE)


@pytest.mark.parametrize(
    ("share", "size", "expected"), [(0.1, 10, 1), (0.05, 10, 1), (1, 7, 7), (0.3, 10, 3), (0.1, 0, 0)]
)
def test_a_share_of_the_entries_is_rounded_up_but_not_by_the_float(share: float, size: int, expected: int) -> None:
    assert kept(share, size) == expected


def test_ten_percent_and_four_bits_of_a_gaussian_million_take_at_most_88_hundredths_of_a_bit_each() -> None:
    net = one_matrix(1024, 1024)
    ctx = Context(net, WHOLE)
    assert len(encode("topk:0.1/lloyd:4", random_params(net), ctx)) * 8 <= 0.88 * 2**20


def test_a_frame_of_a_tiny_submodel_carries_little_besides_its_entries() -> None:
    net = one_matrix(10, 10)
    value = {"w": np.zeros((10, 10), np.float32)}
    value["w"][3, 4] = 1.5
    assert len(encode("topk:0.01/lloyd:4", value, Context(net, WHOLE))) <= 33


def test_codings_of_random_submodels_never_exceed_the_frame_limit() -> None:
    net = model()
    for seed in range(30):
        ctx = Context(net, selections(net, seed))
        for text in (t for t in CODINGS if not (ctx.selection.masks and t.startswith("low-rank"))):
            decode(text, encode(text, random_params(net, ctx.selection, seed), ctx), ctx)
