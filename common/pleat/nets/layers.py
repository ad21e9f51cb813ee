"""Layers: how modules with tensors of their own pass channels on (elastic.md section 3). One rule a kind.

A new kind is one function and one row of the table; what it may use is `Walk`. A rule that meets a case it does not
know returns None, and the step is treated as unknown.
"""

from __future__ import annotations

from typing import Any

from torch import fx, nn

from pleat.nets.channels import Labels, fixed, repeated
from pleat.nets.lookup import Lookup
from pleat.nets.walk import Rule, Walk


def _fixed_axes(lengths: Any) -> Labels:
    return tuple(fixed(int(n)) for n in lengths)


def _kept_whole(walk: Walk, labels: Labels, reason: str) -> None:
    for label in labels:
        walk.channels.freeze(label, reason)


def convolution(walk: Walk, node: fx.Node, module: Any) -> Labels | None:
    """New channels out of old ones; a grouped convolution can only lose whole groups, a depthwise one passes channels
    on. Transposed ones have their weight's first two axes swapped."""
    source = walk.inputs(node)[0]
    before, shape = walk.labels[source], walk.shape(node)
    if len(shape) != len(module.kernel_size) + 2:
        return None
    walk.store(source)
    _kept_whole(walk, before[2:], f"{node.target} convolves along this axis")
    taken, given = before[1], walk.channels.new(module.out_channels, str(node.target))
    entering, leaving = taken, given
    if module.groups > 1:
        per_in, per_out = module.in_channels // module.groups, module.out_channels // module.groups
        groups = walk.channels.in_runs(taken, per_in, f"{node.target}: groups of channels do not line up")
        leaving = given = fixed(module.out_channels) if groups is None else repeated(groups, per_out)
        entering = fixed(per_in)
        if module.transposed:
            entering, leaving = taken, fixed(per_out)
    kernel = _fixed_axes(module.kernel_size)
    axes = (entering, leaving, *kernel) if module.transposed else (leaving, entering, *kernel)
    applied = walk.per_sample(source if module.transposed else node, 1)
    bound = walk.bind(module, "weight", axes, applied)
    if module.groups == 1:
        given = bound[1] if module.transposed else bound[0]
    walk.bind(module, "bias", (given,))
    return (before[0], given, *_fixed_axes(shape[2:]))


def linear(walk: Walk, node: fx.Node, module: Any) -> Labels:
    """New channels on the last axis, at every place of the others."""
    source = walk.inputs(node)[0]
    before = walk.labels[source]
    walk.store(source)
    given = walk.channels.new(module.out_features, str(node.target))
    given, _ = walk.bind(module, "weight", (given, before[-1]), walk.per_sample(node, -1))
    walk.bind(module, "bias", (given,))
    return (*before[:-1], given)


def batch_norm(walk: Walk, node: fx.Node, module: Any) -> Labels:
    """Batch or instance norm: every channel on its own; its tensors follow."""
    source = walk.inputs(node)[0]
    before = walk.labels[source]
    walk.store(source)
    for name in ("weight", "bias", "running_mean", "running_var"):
        walk.bind(module, name, (before[1],))
    return before


def group_norm(walk: Walk, node: fx.Node, module: Any) -> Labels:
    """The number of channels in a norm group is part of the net: channels go by whole norm groups. One group of all
    channels is a layer norm, whose statistics are taken over what is left."""
    source = walk.inputs(node)[0]
    before = walk.labels[source]
    walk.store(source)
    if not module.affine:
        walk.channels.freeze(before[1], f"{node.target} has its length written in it and no tensors to tell of another")
    elif module.num_groups > 1:
        reason = f"{node.target}: norm groups and channels do not line up"
        walk.channels.in_steps(before[1], module.num_channels // module.num_groups, reason)
    for name in ("weight", "bias"):
        walk.bind(module, name, (before[1],))
    return before


def layer_norm(walk: Walk, node: fx.Node, module: Any) -> Labels:
    """Layer norm: its tensors follow the last axes. A narrower net takes its statistics over fewer channels."""
    source = walk.inputs(node)[0]
    before = walk.labels[source]
    walk.store(source)
    along = before[len(before) - len(module.normalized_shape) :]
    if module.weight is None:
        _kept_whole(walk, along, f"{node.target} has its length written in it and no tensors to tell of another")
    for name in ("weight", "bias"):
        walk.bind(module, name, along)
    return before


def prelu(walk: Walk, node: fx.Node, module: Any) -> Labels:
    """One slope for all channels, or one for each."""
    source = walk.inputs(node)[0]
    before = walk.labels[source]
    walk.store(source)
    walk.bind(module, "weight", (before[1] if module.num_parameters > 1 else fixed(1),))
    return before


def embedding(walk: Walk, node: fx.Node, module: Any) -> Labels:
    """A row of fresh channels for every index; rows are never cut."""
    source = walk.inputs(node)[0]
    given = walk.channels.new(module.embedding_dim, str(node.target))
    _, given = walk.bind(module, "weight", (fixed(module.num_embeddings), given))
    return (*walk.labels[source], given)


LAYERS: dict[type[nn.Module], Rule] = {
    **dict.fromkeys((nn.Conv1d, nn.Conv2d, nn.Conv3d), convolution),
    **dict.fromkeys((nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d), convolution),
    nn.Linear: linear,
    **dict.fromkeys((nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d), batch_norm),
    **dict.fromkeys((nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d), batch_norm),
    nn.GroupNorm: group_norm,
    nn.LayerNorm: layer_norm,
    nn.PReLU: prelu,
    **dict.fromkeys((nn.Embedding, Lookup), embedding),
}
if hasattr(nn, "RMSNorm"):
    LAYERS[nn.RMSNorm] = layer_norm
