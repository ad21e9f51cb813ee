"""The zoo's transformer: what is found in it, the law of cutting, padding, and numbers that it cannot take."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pleat.elastic.choosers import Draw, choose
from pleat.elastic.selection import compose, make
from pleat.errors import UseError
from pleat.nets.build import build, initial, spec
from pleat.nets.shrink import shrink
from pleat.nets.trace import look_at, model_map
from support.cutting import CLOSE, each_group, gap, hidden, output, shaken

torch.set_num_threads(1)
PLACES, WORDS = 7, 20
SMALL = spec("transformer", (PLACES,), 5, layers=3, width=16, heads=4, vocabulary=WORDS)


def texts(*lengths: int) -> Tensor:
    """Texts of so many tokens, padded."""
    rows = torch.zeros(len(lengths), PLACES)
    for row, length in zip(rows, lengths, strict=True):
        row[:length] = torch.arange(length) * 3 % (WORDS - 1) + 1
    return rows


def net() -> torch.nn.Module:
    return shaken(build(SMALL.factory, SMALL.arguments))


def test_width_heads_and_hidden_channels_are_groups_and_layers_are_units() -> None:
    model = model_map(SMALL)
    layers = [f"layers.{i}" for i in range(3)]
    inside = {f"{p}.attention.heads": 4 for p in layers} | {f"{p}.into": 32 for p in layers}
    assert {g.name: g.size for g in hidden(model)} == {"table": 16, **inside}
    assert model.units == tuple(layers)
    assert not look_at(SMALL).whole


def test_cutting_is_zeroing_for_every_group_and_for_all_at_once() -> None:
    module, model = net(), model_map(SMALL)
    half = make(model, {g.name: range(g.size // 2) for g in hidden(model)})
    scale = max(1.0, float(output(module, texts(7, 4, 1)).abs().max()))
    for selection in (*each_group(model), half):
        assert gap(module, model, selection, texts(7, 4, 1)) < CLOSE * scale, selection.kept


def test_a_layer_that_is_left_out_is_passed_by() -> None:
    module, model = net(), model_map(SMALL)
    whole, bare = output(module, texts(5)), shrink(module, model, make(model, dropped=["layers.1"]))
    short = output(bare, texts(5))
    for name in ("attention.out_proj.weight", "attention.out_proj.bias", "back.weight", "back.bias"):
        module.get_parameter(f"layers.1.{name}").data.zero_()
    torch.testing.assert_close(output(module, texts(5)), short)
    assert (whole - short).abs().max() > 1e-3


SIZED = spec("transformer", (PLACES,), 5, 3, layers=5, width=16, heads=4, vocabulary=WORDS)


def test_exits_are_sizes_of_evenly_spaced_depths_with_a_last_layer_of_their_own() -> None:
    """Of 5 layers: 2, 4 and 5. The trunk has one less than the largest."""
    model = model_map(SIZED)
    assert model.units == ("layers.0", "tops.0", "layers.1", "layers.2", "tops.1", "layers.3", "tops.2")
    assert model.exits == ("tops.0", "tops.1", "tops.2")
    assert not model.tails
    assert not look_at(SIZED).whole


def test_a_size_alone_answers_as_its_exit_in_the_whole_net_does() -> None:
    module, model = shaken(build(SIZED.factory, SIZED.arguments)).eval(), model_map(SIZED)
    with torch.no_grad():
        together = module(texts(7, 4, 1))
        for number, rate in enumerate((0.33, 0.66, 1.0)):
            small = shrink(module, model, choose("depth-own", model, rate, Draw())).eval()
            (alone,) = small(texts(7, 4, 1))
            torch.testing.assert_close(alone, together[number])
    assert (together[0] - together[1]).abs().max() > 1e-3


def test_sizes_are_cut_in_width_and_depth_at_once() -> None:
    module, model = shaken(build(SIZED.factory, SIZED.arguments)).eval(), model_map(SIZED)
    both = compose(model, choose("prefix", model, 0.5, Draw()), choose("depth-own", model, 0.66, Draw()))
    small = shrink(module, model, both)
    (logits,) = small(texts(7, 4, 1))
    logits.square().sum().backward()
    assert logits.shape == (3, 5)
    assert all(p.grad is not None for p in small.parameters())


def test_padding_changes_nothing_and_a_text_is_not_mixed_with_another() -> None:
    module = net()
    together = output(module, texts(7, 4, 1))
    short = output(module, texts(4))
    torch.testing.assert_close(together[1:2], short)
    longer = texts(4)
    longer[0, 4] = 9
    assert (output(module, longer) - short).abs().max() > 1e-3  # the control: a word more does change something
    assert output(module, torch.zeros(1, PLACES)).isfinite().all()


def test_the_order_of_words_counts() -> None:
    module, there = net(), texts(5)
    back = there.clone()
    back[0, :5] = there[0, :5].flip(0)
    assert (output(module, there) - output(module, back)).abs().max() > 1e-3


def test_the_first_weights_follow_from_the_seed() -> None:
    one, same, other = initial(SMALL, 1), initial(SMALL, 1), initial(SMALL, 2)
    assert all((one[n] == same[n]).all() for n in one)
    assert any((one[n] != other[n]).any() for n in one)


def test_a_word_beyond_the_vocabulary_is_told_with_both_numbers() -> None:
    far = texts(3)
    far[0, 1] = WORDS
    with pytest.raises(
        UseError, match=r"numbers from 0 to 20, the net's embedding has rows 0 to 19; .* --vocabulary 20"
    ):
        output(net(), far)


@pytest.mark.parametrize(
    ("shape", "more", "message"),
    [
        ((1, 8, 8), {}, "takes texts as rows of token ids, such as 32, got samples of 1x8x8"),
        ((8,), {"width": 64, "heads": 5}, "5 heads do not divide a width of 64; try heads=4"),
        ((8,), {"layers": 0}, "layers must be a whole number from 1 to 65536, got 0"),
    ],
)
def test_what_makes_no_transformer_is_refused(shape: tuple[int, ...], more: dict[str, int], message: str) -> None:
    with pytest.raises(UseError, match=message):
        spec("transformer", shape, 5, **more)
