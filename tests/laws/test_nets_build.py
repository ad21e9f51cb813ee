"""Nets by name: what may be named, what a seed decides, and what a device pays for it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from pleat.elastic.selection import WHOLE
from pleat.elastic.size import count
from pleat.errors import UseError
from pleat.exchange.order import NetSpec
from pleat.nets.build import build, classes_of, initial, input_shape_of, parse_shape, resolve, skeleton, spec
from pleat.nets.names import NAMES
from pleat.nets.trace import model_map

torch.set_num_threads(1)


def mine(input_shape: str, classes: int) -> nn.Module:
    """A net of one's own."""
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, classes))


class Looks(nn.Module):
    """A net that looks at a value while it is made."""

    def __init__(self, input_shape: str, classes: int) -> None:
        super().__init__()
        self.inner = nn.Linear(12, int(torch.tensor(8.0).item()))
        self.head = nn.Linear(8, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.head(torch.relu(self.inner(x.flatten(1))))
        return out


class Keeps(nn.Module):
    """A net with a constant that is neither trained nor saved."""

    def __init__(self, input_shape: str, classes: int) -> None:
        super().__init__()
        self.inner, self.head = nn.Linear(12, 8), nn.Linear(8, classes)
        self.register_buffer("gain", torch.tensor(3.0), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.head(torch.relu(self.inner(x.flatten(1))) * self.gain)
        return out


def unsigned(input_shape: str, classes: int):  # type: ignore[no-untyped-def]
    return nn.Linear(1, 1)


def lies(input_shape: str, classes: int) -> nn.Module:
    return 3  # type: ignore[return-value]


class Net(nn.Module):
    """A net whose maker calls things by other names."""

    def __init__(self, num_classes: int = 1000, in_channels: int = 3, image_size: int = 224) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, 4, image_size)
        self.head = nn.Linear(4, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.head(self.conv(x).flatten(1))
        return out


def passes_on(*, weights: str | None = None, **more: int) -> Net:
    """As torchvision's makers do."""
    return Net(**more)


def alone() -> nn.Module:
    """A maker that takes nothing."""
    return Net(10, 1, 8)


def takes_any(**more: object) -> nn.Module:
    """A maker that does not say what it takes."""
    assert more == {"input_shape": "1x8x8", "classes": 10}
    return Net(10, 1, 8)


def reads_numbers(input_shape: str, classes: int) -> nn.Module:
    """A net that embeds the numbers of its samples."""
    return nn.Sequential(nn.Embedding(20, 4), nn.Flatten(), nn.Linear(4 * 12, classes))


HERE = __name__


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("image", "text", "classes"), [((1, 8, 8), (9,), 10), ((3, 12, 10), (17,), 2)])
def test_every_net_takes_other_shapes_and_classes(
    name: str, image: tuple[int, ...], text: tuple[int, ...], classes: int
) -> None:
    shape = text if name == "transformer" else image
    more = {"width": 8} if name in ("resnet18", "resnet56") else {}
    net = spec(name, shape, classes, **more)
    assert net.digest == model_map(net).digest
    assert (input_shape_of(net), classes_of(net)) == (shape, classes)
    module = build(net.factory, net.arguments)
    assert module(torch.zeros(2, *shape)).shape == (2, classes)
    assert sum(p.numel() for p in module.parameters()) == count(model_map(net), WHOLE)


def test_the_digest_tells_nets_apart() -> None:
    digests = [spec("mlp", s, c, **m).digest for s, c, m in [
        ((1, 8, 8), 10, {}), ((1, 8, 9), 10, {}), ((1, 8, 8), 11, {}), ((1, 8, 8), 10, {"first": 248}),
    ]]  # fmt: skip
    assert len(set(digests)) == 4
    assert spec("mlp", (1, 8, 8), 10).digest == digests[0]


def test_first_parameters_are_a_function_of_the_seed_and_touch_no_other_generator() -> None:
    net = spec("cnn", (1, 8, 8), 10)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first, again, other = initial(net, 1), initial(net, 1), initial(net, 2)
    assert torch.equal(torch.rand(3), expected)
    assert list(first) == sorted(first)
    assert all(np.array_equal(first[n], again[n]) and first[n].dtype == np.float32 for n in first)
    assert not any(np.array_equal(first[n], other[n]) for n in first)


@pytest.mark.parametrize("maker", ["Net", "passes_on", "alone", "takes_any"])
def test_a_maker_gets_shape_and_classes_under_the_names_it_knows(maker: str) -> None:
    model = model_map(spec(f"{HERE}:{maker}", (1, 8, 8), 10))
    assert model.tensor["conv.weight"].shape == (4, 1, 8, 8)
    assert model.tensor["head.weight"].shape == (10, 4)


def test_what_the_user_says_goes_before_what_is_worked_out() -> None:
    assert build(f"{HERE}:passes_on", {"input_shape": "1x8x8", "classes": 2, "image_size": 5}).conv.kernel_size == (
        5,
        5,
    )


def test_a_net_that_gives_other_than_one_logit_a_class_is_refused() -> None:
    with pytest.raises(UseError, match="net Net: expected 9 logits for every sample, one a class, got 10"):
        spec(f"{HERE}:alone", (1, 8, 8), 9)


def test_embeddings_take_samples_as_they_come() -> None:
    net = spec(f"{HERE}:reads_numbers", (12,), 3)
    x = torch.arange(24.0).view(2, 12) % 20
    module = build(net.factory, net.arguments)
    assert torch.equal(module(x), module(x.long()))
    assert [g.name for g in model_map(net).groups if g.role == "hidden"] == ["0"]


def test_a_net_of_ones_own_is_named_by_module_and_function() -> None:
    net = spec(f"{HERE}:mine", (1, 3, 4), 2)
    assert net.factory == f"{HERE}:mine"
    assert [g.size for g in model_map(net).groups if g.role == "hidden"] == [8]


@pytest.mark.parametrize("kind", ["Looks", "Keeps"])
def test_a_net_that_has_no_skeleton_is_built_in_full(kind: str) -> None:
    arguments = {"input_shape": "12", "classes": 2}
    module = skeleton(f"{HERE}:{kind}", arguments)
    assert not any(t.is_meta for t in (*module.parameters(), *module.buffers()))
    assert spec(f"{HERE}:{kind}", (12,), 2).digest


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mpl", "unknown net 'mpl'; did you mean 'mlp'"),
        (
            "perceiver",
            "unknown net 'perceiver'; there are caldas, cnn, mlp, resnet18, .*, resnet6, resnet8, transformer",
        ),
        ("no.such.module:net", "cannot be imported here: ModuleNotFoundError: .* PYTHONPATH"),
        (f"{HERE}:nothing", "cannot be imported here: AttributeError"),
        ("pleat.nets.zoo", "unknown net"),
        ("pleat.nets.zoo:", "must be written as package.module:function"),
        ("../x:y", "must be written as package.module:function"),
        (f"{HERE}:unsigned", "is no net factory"),
        ("os:system", "is no net factory"),
        ("subprocess:run", "is no net factory"),
        ("builtins:eval", "is no net factory"),
        ("pathlib:Path", "is no net factory"),
    ],
)
def test_a_name_that_makes_no_net_is_refused_before_it_is_called(name: str, message: str) -> None:
    with pytest.raises(UseError, match=message):
        resolve(name)


def test_a_peer_cannot_have_another_function_called(tmp_path: Path) -> None:
    with pytest.raises(UseError, match="is no net factory"):
        build("os:mkdir", {"path": str(tmp_path / "made")})
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("mlp", {"input_shape": "8by8", "classes": 10}, "input shape must be sizes joined by x, .* got '8by8'"),
        ("mlp", {"input_shape": "1x0x8", "classes": 10}, "input shape must be"),
        ("mlp", {"input_shape": "1x8x8", "classes": 0}, "classes must be a whole number from 1"),
        ("mlp", {"input_shape": "1x8x8", "classes": 10, "first": 1 << 40}, "first must be a whole number"),
        ("mlp", {"input_shape": "1x8x8", "classes": 10, "depth": 3}, "TypeError: .*depth"),
        ("mlp", {"input_shape": "1x8x8"}, "TypeError: .*classes"),
        ("cnn", {"input_shape": "64", "classes": 10}, "takes images CxHxW of at least 4x4, got 64; .* mlp"),
        ("cnn", {"input_shape": "1x3x8", "classes": 10}, "at least 4x4"),
        ("resnet6", {"input_shape": "1x8x8", "classes": 10, "width": 6}, "multiple of 4"),
        (f"{HERE}:lies", {"input_shape": "1", "classes": 1}, "must return a torch.nn.Module, it returned int"),
    ],
)
def test_arguments_that_do_not_fit_are_refused_with_what_was_expected(name: str, arguments: dict, message: str) -> None:
    with pytest.raises(UseError, match=message):
        build(resolve(name), arguments)


def test_a_spec_that_does_not_say_its_data_is_refused() -> None:
    with pytest.raises(UseError, match="argument 'input_shape' is missing; it has \\['classes'\\]"):
        input_shape_of(NetSpec("a:b", {"classes": 3}, b""))
    with pytest.raises(UseError, match="classes must be a whole number from 1, got 'ten'"):
        classes_of(NetSpec("a:b", {"classes": "ten"}, b""))
    assert parse_shape("3x32x32") == (3, 32, 32)


_DEVICE = """
import sys, torch
torch.set_num_threads(1)
before = set(sys.modules)
from pleat.nets.build import skeleton, spec
from pleat.nets.trace import model_map
from pleat.nets.shrink import shrink
from pleat.nets.nested import views
from pleat.elastic.choosers import Draw, choose
net = spec("resnet18", (3, 8, 8), 10, width=16)
model = model_map(net)
outer, inner = (choose(c, model, .5, Draw(0, 0, "a", None)) for c in ("prefix", "random"))
whole = skeleton(net.factory, net.arguments)
small = shrink(whole, model, outer)
small(torch.zeros(2, 3, 8, 8)).sum().backward()
views(model, inner, choose("whole", model, 1, Draw(0, 0, "a", None)), dict(small.named_parameters()) | {
    n: torch.zeros(t.shape) for n, t in model.tensor.items()
})
print(sorted(m for m in set(sys.modules) - before if m.split(".")[0] in ("torch", "sympy", "mpmath")))
"""


def test_nothing_that_a_device_does_imports_more_of_torch() -> None:
    """torch.optim's first use, the meta device's kernels and torch.compile would each bring torch._dynamo: 70 MB."""
    done = subprocess.run([sys.executable, "-c", _DEVICE], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() in ("[]", "['torch.utils._device']")
    control = _DEVICE.replace("small(torch", "torch.optim.SGD(small.parameters(), .1).step(); small(torch")
    done = subprocess.run([sys.executable, "-c", control], capture_output=True, text=True, check=True, timeout=120)
    assert "'torch._dynamo'" in done.stdout
