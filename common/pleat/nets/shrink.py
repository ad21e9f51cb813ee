"""Shrink: from a module and a selection to a truly smaller module: fewer entries, fewer multiply-adds, less memory.

The copy is made tensor by tensor, each cut before it is copied, so that no whole copy ever exists. Tensors keep their
names, and remaining units their places.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from pleat.elastic.selection import Selection, cuts, held, shape_of
from pleat.errors import UseError
from pleat.modelmap import ModelMap, TensorSpec
from pleat.nets.exits import Absent
from pleat.nets.resize import resize
from pleat.nets.slices import part
from pleat.nets.tensors import constants_of, load, read, tensors_of

__all__ = ["Nothing", "load", "read", "shrink"]


class Nothing(nn.Module):
    """What stands where a branch was left out: a 0 that adds nothing to a sum."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.new_zeros(())


class Bypass(nn.Module):
    """What stands where a block was left out: its first input, whatever else is passed beside it."""

    def forward(self, x: torch.Tensor, *beside: Any, **named: Any) -> torch.Tensor:
        return x


def shrink(module: nn.Module, model: ModelMap, selection: Selection) -> nn.Module:
    """A new module that holds what `selection` keeps, with the values `module` has (a skeleton has none: zeros then);
    `module` is not changed.

    A dropped block becomes the identity, a dropped branch adds nothing, a dropped exit gives no logits. Element masks
    are not this function's business. Raises UseError if `model` is not the module's map.
    """
    tensors = tensors_of(module)
    if tensors.keys() != model.tensor.keys():
        odd = sorted(tensors.keys() ^ model.tensor.keys())
        raise UseError(f"the map is not this module's: {len(odd)} tensor names differ, first {odd[0]!r}")
    instead: dict[int, Any] = {
        id(module.get_submodule(u)): _instead(module.get_submodule(u), u, model) for u in sorted(selection.dropped)
    }
    for spec in held(model, selection):
        whole = tensors[spec.name]
        cut = _cut(whole.detach(), model, selection, spec)
        trained = isinstance(whole, nn.Parameter)
        instead[id(whole)] = nn.Parameter(cut, whole.requires_grad) if trained else cut
    instead |= {id(c): torch.zeros(c.shape, dtype=c.dtype) for _, c in constants_of(module) if c.is_meta}
    small = copy.deepcopy(module, instead)
    for inner in small.modules():
        resize(inner)
    return small


def _cut(whole: torch.Tensor, model: ModelMap, selection: Selection, spec: TensorSpec) -> torch.Tensor:
    """The kept part of a tensor in memory of its own. A skeleton's tensor is not sliced (on the meta device that would
    import torch._dynamo, 75 MB), only its shape is."""
    if tuple(whole.shape) != spec.shape:
        raise UseError(f"the map is not this module's: {spec.name} has shape {tuple(whole.shape)}, not {spec.shape}")
    if whole.is_meta:
        return torch.zeros(shape_of(model, selection, spec), dtype=whole.dtype)
    return part(whole, cuts(model, selection, spec)).clone(memory_format=torch.contiguous_format)


def _instead(module: nn.Module, unit: str, model: ModelMap) -> nn.Module:
    """What stands in the place of a unit that is left out."""
    if unit in model.exits:
        return Absent()
    if unit in model.branches:
        return Nothing()
    out = Bypass()
    if isinstance(module, nn.TransformerEncoderLayer | nn.TransformerDecoderLayer):  # the stack asks its first layer
        out.self_attn = nn.Module()
        out.self_attn.batch_first = module.self_attn.batch_first
    return out
