"""Depth units, by kind of block: leaving one out, the zeros that come to the same, and those that no zeros replace."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pleat.elastic.fold import Fold
from pleat.elastic.selection import coverage, extract, make
from pleat.errors import UseError
from pleat.nets.shrink import load, read, shrink
from pleat.nets.trace import look, trace
from support.cutting import CLOSE, gap, output, sample, shaken

torch.set_num_threads(1)


class Before(nn.Module):
    """x + conv(relu(norm(x)))."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.inner, self.last = nn.BatchNorm2d(8), nn.Conv2d(8, 6, 1), nn.Conv2d(6, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.last(F.relu(self.inner(F.relu(self.norm(x)))))
        return out


class Behind(Before):
    """relu(x + norm(conv(x))), after a relu."""

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.norm(self.last(F.relu(self.inner(x)))))


class Detour(Before):
    """The block's input goes by a module that does nothing, as where a shortcut might be."""

    def __init__(self) -> None:
        super().__init__()
        self.shortcut = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(F.relu(self.inner(F.relu(self.norm(x))))) + self.shortcut(x)
        return out


class Linear(Before):
    """A bottleneck the other way round, whose result is not cut off below; the sum in place."""

    def forward(self, x: Tensor) -> Tensor:
        out = self.norm(self.last(F.hardswish(self.inner(x))))
        out += x
        return out


def of_images(block: Callable[[], nn.Module]) -> nn.Module:
    stem = nn.Sequential(nn.Conv2d(2, 8, 3), nn.ReLU())
    return nn.Sequential(stem, block(), block(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))


class OfRows(nn.Module):
    """A transformer's layers on rows of numbers."""

    def __init__(self, before: bool) -> None:
        super().__init__()
        self.into, self.head = nn.Linear(6, 8), nn.Linear(8, 3)
        layers = (nn.TransformerEncoderLayer(8, 2, 12, batch_first=True, norm_first=before) for _ in range(2))
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        x = self.into(x)
        for layer in self.layers:
            x = layer(x)
        out: Tensor = self.head(x.mean(1))
        return out


IMAGES, ROWS = (2, 6, 6), (5, 6)
KINDS = {  # net, shape, its units, the last maps of the first of them
    "norms before": (lambda: of_images(Before), IMAGES, ("1", "2"), ("last",)),
    "norms behind": (lambda: of_images(Behind), IMAGES, ("1", "2"), ("norm",)),
    "a shortcut that does nothing": (lambda: of_images(Detour), IMAGES, ("1", "2"), ("last",)),
    "not cut off below": (lambda: of_images(Linear), IMAGES, ("1", "2"), ("norm",)),
    "a transformer's, norms before": (
        lambda: OfRows(True), ROWS, ("layers.0", "layers.1"), ("self_attn.out_proj", "linear2"),
    ),
}  # fmt: skip


def without_first(name: str) -> tuple[nn.Module, tuple[str, ...], Tensor, Tensor]:
    """The net, the last maps of its first unit, samples, and what it gives with that unit passed by."""
    factory, shape, units, last = KINDS[name]
    module = shaken(factory())
    model = trace(module, shape)
    assert model.units == units
    passed = output(shrink(module, model, make(model, dropped=units[:1])), sample(shape))
    return module, tuple(f"{units[0]}.{part}" for part in last), sample(shape), passed


@pytest.mark.parametrize("name", KINDS)
def test_a_block_whose_last_map_is_zero_is_passed_by(name: str) -> None:
    module, last, x, passed = without_first(name)
    assert float((output(module, x) - passed).abs().max()) > 100 * CLOSE
    with torch.no_grad():
        for part in last:
            for tensor in module.get_submodule(part).parameters():
                tensor.zero_()
    assert float((output(module, x) - passed).abs().max()) < CLOSE


@pytest.mark.parametrize("name", KINDS)
def test_a_block_restored_with_zeros_is_the_identity(name: str) -> None:
    """What a restored block holds where nobody held it: weights 0, statistics as they were."""
    factory, shape, units, _ = KINDS[name]
    module = shaken(factory())
    model = trace(module, shape)
    params, bare = read(module), make(model, dropped=units[:1])
    fold, part = Fold(model), extract(model, bare, params)
    fold.add({n: a * 0 for n, a in part.items()}, bare, 1.0)
    step = fold.zero_fill(params)
    restored = {n: params[n] + step[n] for n in params}
    for spec in model.tensors:
        held = coverage(model, bare, spec.name)
        kept = held.all() or spec.role == "buffer"
        assert (restored[spec.name] == (params[spec.name] if kept else 0)).all(), spec.name
    passed = output(shrink(module, model, bare), sample(shape))
    load(module, restored)
    assert float((output(module, sample(shape)) - passed).abs().max()) < CLOSE


def test_a_layer_with_its_norms_behind_is_passed_by_but_no_zeros_make_it_the_identity() -> None:
    module = shaken(OfRows(False))
    found = look(module, ROWS)
    assert [(u.path, u.kind) for u in found.units] == [("layers.0", "normed"), ("layers.1", "normed")]
    bare = make(found.model, dropped=["layers.0"])
    assert gap(module, found.model, bare, sample(ROWS)) > 100 * CLOSE


class Plain(nn.Module):
    """Convolutions of one width, one of which is wider inside, and one after another."""

    def __init__(self, names: tuple[str, ...]) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(2, 8, 3), nn.Linear(8, 3)
        self.body = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.Sequential(nn.ReLU(), nn.Conv2d(8, 8, 1)))
        self.depth_units = names

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.body(self.stem(x)).mean((2, 3)))
        return out


def test_a_net_names_units_of_its_own() -> None:
    module = shaken(Plain(("body.0", "body.1")))
    model = trace(module, IMAGES)
    assert model.units == ("body.0", "body.1")
    assert trace(Plain(()), IMAGES).units == ()
    x = sample(IMAGES)
    passed = output(shrink(module, model, make(model, dropped=["body.0"])), x)
    module.body[0] = nn.Identity()
    assert torch.equal(output(module, x), passed)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("stem", r"its input has shape \(2, 2, 6, 6\), its result \(2, 8, 4, 4\)"),
        ("bodyy", "the forward calls it 0 times"),
    ],
)
def test_a_unit_that_cannot_be_left_out_is_refused_by_name(name: str, why: str) -> None:
    with pytest.raises(UseError, match=f"net Plain: depth_units names '{name}', which cannot be left out: {why}"):
        trace(Plain((name,)), IMAGES)
