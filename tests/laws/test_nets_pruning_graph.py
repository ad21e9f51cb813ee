"""An independent oracle: torch-pruning's dependency graph cuts the same nets the same way. Skipped where it is absent.

It follows autograd instead of a trace. Only nets are compared in which it is right: convolutions, batch norms, linear
layers, sums, gates, concatenations and flattening.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from pleat.elastic.selection import Selection, shapes
from pleat.modelmap import ModelMap, Segment
from pleat.nets.build import build, resolve
from pleat.nets.shrink import read, shrink
from pleat.nets.trace import trace
from support.cutting import each_group, sample, shaken
from support.oddnets import EXACT
from support.vision import models

pruning: Any = pytest.importorskip("torch_pruning", reason="torch-pruning is optional and not installed")
torch.set_num_threads(1)

LAYERS = (nn.Conv2d, nn.Linear)
OURS = {"cnn": (1, 8, 8), "resnet8": (3, 8, 8)}
ODD = ("excited", "concatenated")
THEIRS = ("resnet18", "mobilenet_v3_small", "densenet121", "vgg11_bn")


def net(name: str) -> tuple[nn.Module, tuple[int, ...]]:
    if name in OURS:
        more = {"norm": "batch"} if name == "resnet8" else {}
        shape = OURS[name]
        return build(resolve(name), {"input_shape": "x".join(map(str, shape)), "classes": 5, **more}), shape
    if name in ODD:
        factory, shape, _ = EXACT[name]
        module = factory()
        if hasattr(module, "norm"):
            module.norm = nn.BatchNorm2d(20)
        return module, shape
    return getattr(models(), name)(num_classes=5), (3, 32, 32)


def rooted(module: nn.Module, model: ModelMap, group: str) -> str:
    """A layer whose rows are just the group's channels, by which torch-pruning can be told what to take away."""
    for path, part in module.named_modules():
        spec = model.tensor.get(f"{path}.weight")
        plain = type(part) in LAYERS and getattr(part, "groups", 1) == 1
        if plain and spec is not None and spec.axes[0] == (Segment(group),):
            return path
    return ""


def pruned(module: nn.Module, path: str, gone: list[int], x: torch.Tensor) -> nn.Module:
    small = copy.deepcopy(module).eval()
    graph = pruning.DependencyGraph().build_dependency(small, example_inputs=x)
    layer = small.get_submodule(path)
    kinds = {nn.Conv2d: pruning.prune_conv_out_channels, nn.Linear: pruning.prune_linear_out_channels}
    graph.get_pruning_group(layer, kinds[type(layer)], idxs=gone).prune()
    return small


def cut(selection: Selection) -> tuple[str, np.ndarray]:
    ((group, kept),) = selection.kept.items()
    return group, kept


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [*OURS, *ODD, *THEIRS])
def test_its_graph_takes_the_same_entries_of_the_same_tensors(name: str) -> None:
    module, shape = net(name)
    module = shaken(module)
    model, x = trace(module, shape), sample(shape)[:2]
    every = each_group(model)
    compared = 0
    for selection in every if len(every) <= 30 else every[:: len(every) // 15]:
        group, kept = cut(selection)
        path = rooted(module, model, group)
        if not path:
            continue
        gone = sorted(set(range(model.group[group].size)) - set(kept.tolist()))
        theirs, ours = read(pruned(module, path, gone, x)), read(shrink(module, model, selection))
        assert {n: a.shape for n, a in theirs.items()} == shapes(model, selection), group
        assert all(np.array_equal(theirs[n], a) for n, a in ours.items()), group
        compared += 1
    assert compared >= min(3, len(every))
