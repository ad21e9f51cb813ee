"""Nets with exits: what leaving depth out does to the logits that are left, and what such a net must be like."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from pleat.elastic import size
from pleat.elastic.choosers import CHOOSERS, Draw, Rung, choose, composed
from pleat.elastic.choosers.depth import stages
from pleat.elastic.fold import Fold
from pleat.elastic.selection import WHOLE, Selection, compose, coverage, extract, held, make, within
from pleat.errors import UseError
from pleat.exchange.order import NetSpec
from pleat.modelmap import ModelMap
from pleat.nets.build import build, initial, spec
from pleat.nets.exits import Absent, Exits, answer, logits_of
from pleat.nets.shrink import load, read, shrink
from pleat.nets.trace import look, look_at, model_map, trace
from pleat.recipes.load import load as recipe_of
from pleat_server.plan.catalogue import chosen
from support.cutting import CLOSE, each_group, sample, shaken, zeroed

torch.set_num_threads(1)

NETS: dict[str, NetSpec] = {
    "mlp": spec("mlp", (1, 4, 4), 3, exits=2),
    "resnet6": spec("resnet6", (1, 8, 8), 3, exits=3, width=8),
    "resnet6 of six": spec("resnet6", (1, 8, 8), 3, exits=6, width=8),
    "resnet8": spec("resnet8", (2, 8, 8), 3, exits=3, width=8),
    "resnet18": spec("resnet18", (2, 8, 8), 3, exits=4, width=8),
    "resnet18 with batch norm": spec("resnet18", (2, 8, 8), 3, exits=4, width=8, norm="batch"),
    "resnet20": spec("resnet20", (1, 8, 8), 3, exits=4, width=8),
}
SHAPES = {n: tuple(map(int, str(net.arguments["input_shape"]).split("x"))) for n, net in NETS.items()}
EVERY = pytest.mark.parametrize("name", NETS)


def test_stages_are_those_of_the_net_without_exits() -> None:
    for name, exits in (("resnet6", 3), ("resnet18", 4)):
        plain = stages(model_map(spec(name, (1, 8, 8), 3, width=8)))
        assert stages(model_map(spec(name, (1, 8, 8), 3, exits=exits, width=8))) == plain


def made(name: str) -> tuple[nn.Module, ModelMap, Tensor]:
    net = NETS[name]
    return shaken(build(net.factory, net.arguments)), model_map(net), sample(SHAPES[name])


def outputs(module: nn.Module, x: Tensor) -> tuple[Tensor, ...]:
    with torch.no_grad():
        return logits_of(module.eval()(x))


def classes_of(model: ModelMap) -> list[Selection]:
    """The submodel of each depth class, with every exit up to its own."""
    n = len(model.exits)
    return [choose("depth-prefix", model, (i + 1) / n, Draw()) for i in range(n)]


@EVERY
def test_a_depth_class_gives_the_logits_of_its_exits_bit_for_bit(name: str) -> None:
    module, model, x = made(name)
    whole = outputs(module, x)
    assert len(whole) == len(model.exits) >= 2
    for count, selection in enumerate(classes_of(model), 1):
        small = outputs(shrink(module, model, selection), x)
        assert len(small) == count
        assert all(torch.equal(a, b) for a, b in zip(small, whole, strict=False))


@EVERY
def test_an_exit_alone_gives_its_logits_bit_for_bit(name: str) -> None:
    module, model, x = made(name)
    whole, n = outputs(module, x), len(model.exits)
    for place in range(n):
        own = choose("depth-own", model, (place + 1) / n, Draw())
        assert set(model.exits) - own.dropped == {model.exits[place]}
        (logits,) = outputs(shrink(module, model, own), x)
        assert torch.equal(logits, whole[place])


@EVERY
def test_what_no_exit_needs_is_neither_held_nor_run(name: str) -> None:
    """Nothing beyond the deepest exit: no tensor of it is there, and no step of it runs."""
    module, model, x = made(name)
    for selection in classes_of(model)[:-1]:
        small, called = shrink(module, model, selection), set[str]()
        for path, part in small.named_modules():
            part.register_forward_hook(lambda *_, path=path, called=called: called.add(path))
        outputs(small, x)
        assert called.isdisjoint(selection.dropped)
        _backward_reaches_all(small, x)


def _backward_reaches_all(small: nn.Module, x: Tensor) -> None:
    sum(logits.square().sum() for logits in logits_of(small(x))).backward()
    assert all(p.grad is not None for p in small.parameters())


@EVERY
def test_depth_classes_nest_and_cost_more_the_deeper(name: str) -> None:
    model = model_map(NETS[name])
    ladder = classes_of(model)
    assert ladder[-1].is_whole
    for small, large in pairwise(ladder):
        assert within(model, small, large)
        assert not within(model, large, small)
        for cost in (size.count, size.macs, size.activation_floats):
            assert cost(model, small) < cost(model, large)


@EVERY
def test_zeroing_cut_channels_in_the_full_net_is_cutting_them_at_every_exit(name: str) -> None:
    module, model, x = made(name)
    cuts = [*each_group(model), choose("prefix", model, 0.5, Draw())]
    ladder = classes_of(model)
    for selection in [compose(model, cut, ladder[i % len(ladder)]) for i, cut in enumerate(cuts)]:
        small = outputs(shrink(module, model, selection), x)
        tensors = dict(module.named_parameters()) | dict(module.named_buffers())
        before = {n: tensors[n].detach().clone() for n in zeroed(module, model, selection)}
        for tensor, values in ((tensors[n], t) for n, t in zeroed(module, model, selection).items()):
            tensor.data.copy_(values)
        full = outputs(module, x)
        for tensor, values in ((tensors[n], t) for n, t in before.items()):
            tensor.data.copy_(values)
        assert max(float((a - b).abs().max()) for a, b in zip(small, full, strict=False)) < CLOSE


@pytest.mark.parametrize("name", [n for n in NETS if n.startswith("resnet")])
def test_a_trunk_unit_restored_with_zeros_is_the_identity_at_every_exit(name: str) -> None:
    module, model, x = made(name)
    params = read(module)
    for unit in sorted(model.spare):
        bare = make(model, dropped=[unit])
        fold, part = Fold(model), extract(model, bare, params)
        fold.add({n: a * 0 for n, a in part.items()}, bare, 1.0)
        step = fold.zero_fill(params)
        small = outputs(shrink(module, model, bare), x)
        load(module, {n: params[n] + step[n] for n in params})
        restored = outputs(module, x)
        load(module, params)
        assert max(float((a - b).abs().max()) for a, b in zip(small, restored, strict=True)) < CLOSE


class Passing(nn.GroupNorm):
    """What a gradient trace makes of a norm: it lets pass what comes, with its own two tensors added."""

    def forward(self, x: Tensor) -> Tensor:
        return x + (self.weight + self.bias)[:, None, None]


@pytest.mark.parametrize("name", ["resnet6", "resnet18", "resnet20"])
@pytest.mark.parametrize("level", [(0.75, 0.75), (0.7, 0.5), (0.7, 0.25)])
def test_a_level_of_width_and_depth_holds_what_a_gradient_trace_of_it_reaches(
    name: str, level: tuple[float, float]
) -> None:
    """ScaleFL finds its entries so: all weights positive, nothing beyond the cut, and back from the exits' logits."""
    module, model, _ = made(name)
    x = sample((SHAPES[name][0], 32, 32))  # no kernel sees padding alone
    selection = composed("prefix", "depth-prefix", "magnitude", model, Rung(*level), Draw())
    for part in module.modules():
        if isinstance(part, nn.GroupNorm):
            part.__class__ = Passing
    for path, tensor in module.named_parameters():
        tensor.data = torch.from_numpy(coverage(model, selection, path)).float() / tensor[0].numel()
    kept = [i for i, exit in enumerate(model.exits) if exit not in selection.dropped]
    sum(module(x.abs() + 1)[i].sum() for i in kept).backward()  # type: ignore[union-attr]
    for path, tensor in module.named_parameters():
        reached = torch.zeros(tensor.shape, dtype=torch.bool) if tensor.grad is None else tensor.grad != 0
        assert np.array_equal(reached.numpy(), coverage(model, selection, path)), path


def test_the_deepest_exit_answers_for_all_or_the_mean_of_all_does() -> None:
    module, _, x = made("resnet6")
    logits = outputs(module, x)
    assert torch.equal(answer(module(x)), logits[-1])
    torch.testing.assert_close(answer(module(x), ensemble=True), (logits[0] + logits[1] + logits[2]) / 3)
    assert answer(logits[0], ensemble=True) is logits[0]
    assert logits_of((None, logits[1], None)) == (logits[1],)


@pytest.mark.parametrize("exits", [0, 1])
def test_one_exit_is_the_ordinary_net(exits: int) -> None:
    plain, same = spec("resnet8", (1, 8, 8), 3), spec("resnet8", (1, 8, 8), 3, exits=exits)
    assert plain == same
    assert model_map(plain).exits == model_map(plain).tails == ()
    assert choose("depth-prefix", model_map(plain), 0.4, Draw()) == choose("depth", model_map(plain), 0.4, Draw())


def test_the_trunk_and_the_deepest_exit_are_the_ordinary_net() -> None:
    for net in ("resnet6", "resnet18"):
        plain, deep = spec(net, (1, 8, 8), 3, width=8), spec(net, (1, 8, 8), 3, exits=3, width=8)
        ordinary, module = shaken(build(plain.factory, plain.arguments)), build(deep.factory, deep.arguments)
        trunk = {n: a for n, a in read(ordinary).items() if n.startswith(("stem", "blocks"))}
        head = {f"heads.2.{n}": a for n, a in read(ordinary).items() if n not in trunk}
        load(module, {**read(module), **trunk, **head})
        x = sample((1, 8, 8))
        assert torch.equal(outputs(module, x)[-1], outputs(ordinary, x)[0])


rates = st.floats(0.01, 1.0)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(NETS)), st.sampled_from(sorted(CHOOSERS)), rates, rates)
def test_every_chooser_gives_a_net_with_exits_that_can_be_built(name: str, chooser: str, rate: float, depth: float):
    net = NETS[name]
    model, params = model_map(net), initial(net, 0)
    rung = Rung(rate, 1.0 if chooser == "depth-own" else depth)
    selection = composed(chooser, "depth-prefix", "magnitude", model, rung, Draw(0, 1, "device", params))
    assert make(model, selection.kept, selection.dropped, selection.masks) == selection
    small = shrink(build(net.factory, net.arguments), model, selection)
    load(small, extract(model, selection, params))
    assert outputs(small, sample(SHAPES[name]))


def test_a_cut_where_nothing_is_left_leaves_no_trace_in_a_selection() -> None:
    """A stage's stream that lies beyond the exit: it stands on no tensor that is held."""
    model = model_map(NETS["resnet6"])
    shallow = classes_of(model)[0]
    groups = {s.group for t in held(model, shallow) for axis in t.axes for s in axis}
    cut = compose(model, choose("prefix", model, 0.5, Draw()), shallow)
    assert set(cut.kept) <= groups
    assert make(model, {"blocks.4.shortcut": range(16)}, shallow.dropped) == shallow


def test_no_exit_and_an_exit_without_its_trunk_are_refused() -> None:
    model = model_map(NETS["resnet6"])
    with pytest.raises(UseError, match=r"selection leaves no exit; keep one of \['heads.0', 'heads.1', 'heads.2'\]"):
        make(model, dropped=model.exits)
    with pytest.raises(UseError, match=r"drops 'blocks\.2\.shortcut' and keeps exit 'heads\.1', which needs it"):
        make(model, dropped=["blocks.2.shortcut", "heads.2"])
    make(model, dropped=["blocks.4.shortcut", "heads.2"])


def test_classes_with_an_exit_each_of_their_own_do_not_lie_within_each_other() -> None:
    model = model_map(NETS["resnet6"])
    small, large = (choose("depth-own", model, rate, Draw()) for rate in (0.5, 1.0))
    assert not within(model, small, large)
    assert not coverage(model, large, "heads.0.head.weight").any()


class Early(nn.Module):
    """Two exits, put together by hand; `narrow` makes the first too narrow, `lone` leaves it out of the result."""

    def __init__(self, narrow: int = 3, lone: bool = False, names: object = ("near", "far")) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 8), nn.Linear(8, 8)
        self.near, self.far, self.lone = nn.Linear(8, narrow), nn.Linear(8, 3), lone
        self.exits = names

    def forward(self, x: Tensor) -> tuple[Tensor | None, ...]:
        x = torch.relu(self.first(x))
        near, far = self.near(x), self.far(torch.relu(self.second(x)))
        return (far,) if self.lone else (near, far)


def test_a_net_written_by_hand_has_exits_by_naming_them() -> None:
    found = look(shaken(Early()), (6,), 3)
    assert [(u.path, u.kind) for u in found.units] == [("near", "exit"), ("second", "tail"), ("far", "exit")]
    module, x = shaken(Early()), sample((6,))
    near, far = outputs(module, x)
    shallow, deep = make(found.model, dropped=["second", "far"]), make(found.model, dropped=["near"])
    assert [torch.equal(a, near) for a in outputs(shrink(module, found.model, shallow), x)] == [True]
    assert [torch.equal(a, far) for a in outputs(shrink(module, found.model, deep), x)] == [True]
    assert isinstance(shrink(module, found.model, deep).near, Absent)


BAD = [
    (Early(narrow=2), "net Early: exit near: expected 3 logits for every sample, one a class, got 2"),
    (Early(lone=True), r"net Early: expected 2 results, one of each exit \(near, far\), got 1"),
    (Early(names=("near",)), r"net Early: expected 1 results, one of each exit \(near\), got 2"),
    (Early(names=()), "forward must return one tensor of logits, it returned tuple; .* in an attribute exits"),
    (
        Early(names=("far", "near")),
        "exits names 'far', which is none: its result is not the logits that .* at its place",
    ),
    (Early(names=("near", "further")), "exits names 'further', which is none: the forward calls it 0 times"),
]


@pytest.mark.parametrize(("module", "told"), BAD)
def test_heads_that_do_not_fit_are_refused_by_name(module: nn.Module, told: str) -> None:
    with pytest.raises(UseError, match=told):
        look(module, (6,), 3)


def test_a_net_of_one_answer_may_call_whatever_it_likes_exits() -> None:
    class Doors(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.exits = nn.ModuleList([nn.Linear(6, 3)])

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.exits[0](x)
            return out

    assert trace(Doors(), (6,)).exits == ()


@pytest.mark.parametrize(
    ("name", "exits", "told"),
    [
        (
            "cnn",
            2,
            "net cnn: cannot be built with 2 exits, its factory takes no keyword exits; nets of the zoo that do",
        ),
        ("mlp", 3, "exits of mlp must be a whole number from 0 .* to 2, got 3"),
        ("resnet8", 4, "exits of resnet8 must be a whole number from 0 .* to 3, got 4"),
        (f"{__name__}:deaf", 2, "expected 2 exits, got 0; let it name them, shallowest first, in an attribute exits"),
    ],
)
def test_a_net_without_such_exits_is_refused(name: str, exits: int, told: str) -> None:
    with pytest.raises(UseError, match=told):
        spec(name, (1, 8, 8), 3, exits)


def deaf(input_shape: str, classes: int, exits: int) -> nn.Module:
    """A factory that hears of exits and makes none."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, classes))


def test_the_map_of_a_net_without_exits_says_nothing_of_them() -> None:
    """Its digest is what it was before nets had exits: devices of then and now agree."""
    model = model_map(spec("mlp", (1, 8, 8), 10))
    bare = type(model)(model.tensors, model.groups, model.units, model.activations, model.branches)
    assert model.digest == bare.digest == look_at(spec("mlp", (1, 8, 8), 10)).model.digest
    assert isinstance(build(NETS["mlp"].factory, NETS["mlp"].arguments), Exits)
    assert WHOLE.is_whole
    assert np.isfinite(read(shaken(Early()))["far.weight"]).all()


@pytest.mark.parametrize("recipe", ["depthfl", "scalefl", "inclusivefl"])
@pytest.mark.parametrize(
    ("net", "shape"), [("mlp", (1, 8, 8)), ("resnet6", (1, 8, 8)), ("resnet8", (1, 8, 8)), ("transformer", (16,))]
)
def test_every_size_that_a_recipe_offers_has_another_deepest_exit(
    recipe: str, net: str, shape: tuple[int, ...]
) -> None:
    chosen_by = recipe_of(recipe, model=net)
    model = model_map(spec(net, shape, 10, chosen_by.holds.exits))
    sizes = [chosen(chosen_by.rule, model, rung, Draw()) for rung in chosen_by.holds.rungs]
    deepest = [max(i for i, e in enumerate(model.exits) if e not in s.dropped) for s in sizes]
    assert deepest == sorted(set(deepest), reverse=True)
