"""Shrink: from a module and a selection to a truly smaller module: fewer entries, fewer multiply-adds, less memory.

The copy is made tensor by tensor, each cut before it is copied, so that no whole copy ever exists. Tensors keep their
names, and remaining units their places. `load` and `read` move parameters in and out: exactly the ModelMap's tensors.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from pleat.elastic.selection import Selection, cuts, held
from pleat.errors import UseError
from pleat.modelmap import ModelMap
from pleat.nets.resize import resize
from pleat.nets.slices import part
from pleat.nets.walk import tensors_of
from pleat.params import Array, Params


class Nothing(nn.Module):
    """What stands where a branch was left out: a 0 that adds nothing to a sum."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.new_zeros(())


def shrink(module: nn.Module, model: ModelMap, selection: Selection) -> nn.Module:
    """A new module that holds what `selection` keeps, with the values `module` has; `module` is not changed.

    A dropped block becomes the identity, a dropped branch adds nothing. Element masks are not this function's business.
    Raises UseError if `model` is not the module's map.
    """
    tensors = tensors_of(module)
    if tensors.keys() != model.tensor.keys():
        odd = sorted(tensors.keys() ^ model.tensor.keys())
        raise UseError(f"the map is not this module's: {len(odd)} tensor names differ, first {odd[0]!r}")
    instead: dict[int, Any] = {id(module.get_submodule(u)): _bypass(model, u) for u in sorted(selection.dropped)}
    for spec in held(model, selection):
        whole = tensors[spec.name]
        cut = part(whole.detach(), cuts(model, selection, spec)).clone()
        trained = isinstance(whole, nn.Parameter)
        instead[id(whole)] = nn.Parameter(cut, whole.requires_grad) if trained else cut
    small = copy.deepcopy(module, instead)
    for inner in small.modules():
        resize(inner)
    return small


def _bypass(model: ModelMap, unit: str) -> nn.Module:
    return Nothing() if unit in model.branches else nn.Identity()


def load(module: nn.Module, params: Mapping[str, Array]) -> None:
    """Set the module's tensors. Raises UseError, changing nothing, unless names and shapes are exactly the module's."""
    tensors = tensors_of(module)
    if tensors.keys() != params.keys():
        odd = sorted(tensors.keys() ^ params.keys())
        kind = "unknown" if odd[0] in params else "missing"
        raise UseError(f"parameters do not fit the module: {len(odd)} names differ, first {odd[0]!r} ({kind})")
    for name, tensor in tensors.items():
        if tuple(tensor.shape) != params[name].shape:
            raise UseError(f"tensor {name!r}: expected shape {tuple(tensor.shape)}, got {params[name].shape}")
    with torch.no_grad():
        for name, tensor in tensors.items():
            tensor.copy_(torch.from_numpy(np.ascontiguousarray(params[name], np.float32)))


def read(module: nn.Module) -> Params:
    """The module's tensors as named float32 arrays of their own memory, sorted by name."""
    return {name: _array(tensor) for name, tensor in sorted(tensors_of(module).items())}


def _array(tensor: torch.Tensor) -> Array:
    found: Array = tensor.detach().to("cpu", torch.float32).numpy()
    return np.array(found, np.float32, order="C")
