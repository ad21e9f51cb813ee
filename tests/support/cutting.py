"""The law of cutting: zeroing what a selection leaves out, in the full net, gives what the shrunk net gives.

Holds in eval mode. Norms over all channels take their statistics over those that are left: `KeptNorm` does so in the
full net.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from pleat.elastic.selection import Selection, axis_cut, coverage, make
from pleat.modelmap import Group, ModelMap
from pleat.nets.shrink import load, read, shrink
from pleat.nets.tensors import tensors_of
from pleat.params import Params

CLOSE = 2e-5  # of outputs of size one; convolutions of other widths add in another order


def shaken(module: nn.Module, seed: int = 0) -> nn.Module:
    """The module with every tensor random, so that no bias is 0 and no norm the identity; variances stay positive."""
    rng = np.random.default_rng(seed)
    params: Params = {}
    for name, array in read(module).items():
        if name.endswith("running_var"):
            params[name] = rng.uniform(0.5, 2, array.shape).astype(np.float32)
        else:
            scale = 1 / np.sqrt(max(1, array[0].size)) if array.ndim > 1 else 0.5
            params[name] = (rng.standard_normal(array.shape) * scale).astype(np.float32)
    load(module, params)
    return module


def sample(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((3, *shape)).astype(np.float32))


def output(module: nn.Module, x: Tensor) -> Tensor:
    module.eval()
    with torch.no_grad():
        out: Tensor = module(x)
    return out


def zeroed(module: nn.Module, model: ModelMap, selection: Selection) -> dict[str, Tensor]:
    """What the module's tensors are where the selection leaves something out of them: that is 0."""
    out = {}
    for spec in model.tensors:
        held = coverage(model, selection, spec.name)
        if not held.all():
            out[spec.name] = tensors_of(module)[spec.name].detach() * torch.from_numpy(held)
    return out


def gap(module: nn.Module, model: ModelMap, selection: Selection, x: Tensor) -> float:
    """Largest difference between the shrunk net and the full net with the rest zeroed; the module is left as it was."""
    small = output(shrink(module, model, selection), x)
    torch.backends.mha.set_fastpath_enabled(False)  # torch's fused encoder layer would pass `KeptNorm` by
    tensors, changed = tensors_of(module), zeroed(module, model, selection)
    before = {name: tensors[name].detach().clone() for name in changed}
    try:
        _set(tensors, changed)
        for path, kept in _narrowed(module, model, selection).items():
            norm = module.get_submodule(path)
            norm.__class__, norm.kept = KEPT[type(norm)], kept  # type: ignore[assignment]
        return float((output(module, x) - small).abs().max())
    finally:
        _set(tensors, before)
        for norm in module.modules():
            if isinstance(norm, KeptNorm | KeptGroup):
                norm.__class__ = type(norm).__base__  # type: ignore[assignment]
        torch.backends.mha.set_fastpath_enabled(True)


class KeptNorm(nn.LayerNorm):
    """A layer norm whose statistics are those of the channels at `kept`."""

    kept: Tensor

    def forward(self, input: Tensor) -> Tensor:
        some = input[..., self.kept]
        variance, mean = torch.var_mean(some, -1, keepdim=True, correction=0)
        return (input - mean) / torch.sqrt(variance + self.eps) * self.weight + self.bias


class KeptGroup(nn.GroupNorm):
    """A group norm of one group, whose statistics are those of the channels at `kept`."""

    kept: Tensor

    def forward(self, input: Tensor) -> Tensor:
        places = list(range(1, input.dim()))
        variance, mean = torch.var_mean(input[:, self.kept], places, keepdim=True, correction=0)
        shape = (-1, *[1] * (input.dim() - 2))
        return (input - mean) / torch.sqrt(variance + self.eps) * self.weight.view(shape) + self.bias.view(shape)


KEPT: dict[type[nn.Module], type[nn.Module]] = {nn.LayerNorm: KeptNorm, nn.GroupNorm: KeptGroup}


def _narrowed(module: nn.Module, model: ModelMap, selection: Selection) -> dict[str, Tensor]:
    """Path of every norm over all channels that is cut -> its channels that are left."""
    out = {}
    for path, part in module.named_modules():
        spec = model.tensor.get(f"{path}.weight")
        over_all = type(part) is nn.LayerNorm or (type(part) is nn.GroupNorm and part.num_groups == 1)
        cut = axis_cut(model, selection, spec.axes[-1]) if over_all and spec is not None else None
        if cut is not None:
            out[path] = torch.from_numpy(cut)
    return out


def _set(tensors: dict[str, Tensor], values: dict[str, Tensor]) -> None:
    with torch.no_grad():
        for name, value in values.items():
            tensors[name].copy_(value)


def without(group: Group, seed: int = 0) -> list[int]:
    """Channels left of a group when about half of its steps, at random, have gone."""
    steps = group.size // group.step
    rng = np.random.default_rng(seed)
    left = np.sort(rng.choice(steps, max(1, steps // 2), replace=False))
    return [int(s) * group.step + i for s in left for i in range(group.step)]


def hidden(model: ModelMap) -> list[Group]:
    return [g for g in model.groups if g.role == "hidden"]


def each_group(model: ModelMap) -> list[Selection]:
    """One selection for every group that may be cut, with only that group cut."""
    return [make(model, {g.name: without(g, i)}) for i, g in enumerate(hidden(model))]
