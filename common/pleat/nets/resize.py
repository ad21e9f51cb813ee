"""Resize: after a module's tensors were cut, let the numbers it keeps about them follow. One function a kind of module.

A kind that is not in the table holds no such number, or was frozen when the net was traced, which comes to the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from pleat.nets.heads import FewerHeads
from pleat.nets.lookup import Lookup

GATES: dict[type[nn.Module], int] = {nn.RNN: 1, nn.LSTM: 4, nn.GRU: 3}


def resize(module: nn.Module) -> None:
    """Set the module's own sizes by its tensors' shapes; a module without tensors, or of another kind, stays."""
    rule = _KINDS.get(type(module))
    if rule is not None:
        rule(module)


def _convolution(module: Any) -> None:
    """Kept groups follow from the axis of the weight that has all groups on it."""
    rows, columns = module.weight.shape[:2]
    if module.transposed:
        per = module.in_channels // module.groups
        module.groups = 1 if module.groups == 1 else rows // per
        module.in_channels, module.out_channels = rows, columns * module.groups
        return
    per = module.out_channels // module.groups
    module.groups = 1 if module.groups == 1 else rows // per
    module.in_channels, module.out_channels = columns * module.groups, rows


def _linear(module: Any) -> None:
    module.out_features, module.in_features = module.weight.shape


def _batch_norm(module: Any) -> None:
    tensor = next((t for t in (module.weight, module.running_mean) if t is not None), None)
    if tensor is not None:
        module.num_features = tensor.shape[0]


def _group_norm(module: Any) -> None:
    if module.weight is not None:
        per = module.num_channels // module.num_groups
        module.num_channels = module.weight.shape[0]
        module.num_groups = 1 if module.num_groups == 1 else module.num_channels // per


def _layer_norm(module: Any) -> None:
    if module.weight is not None:
        module.normalized_shape = tuple(module.weight.shape)


def _prelu(module: Any) -> None:
    module.num_parameters = module.weight.numel()


def _embedding(module: Any) -> None:
    module.embedding_dim = module.weight.shape[1]


def _attention(module: Any) -> None:
    """torch's own needs as many channels within as without; what has not is made one that does not."""
    width, inner = module.out_proj.weight.shape
    packed = module.in_proj_weight is not None
    entering = (
        [module.in_proj_weight] * 3 if packed else [module.q_proj_weight, module.k_proj_weight, module.v_proj_weight]
    )
    query, module.kdim, module.vdim = (w.shape[1] for w in entering)
    module.out_proj.out_features, module.out_proj.in_features = width, inner
    module.num_heads, module.embed_dim = inner // module.head_dim, width
    if not width == inner == query:
        module.__class__ = FewerHeads
        module._qkv_same_embed_dim = False  # or torch's encoder would pass the layer by and use its own kernel


def _recurrent(module: Any) -> None:
    module.hidden_size = module.weight_ih_l0.shape[0] // GATES[type(module)]
    module.input_size = module.weight_ih_l0.shape[1]
    if module.proj_size:
        module.proj_size = module.weight_hr_l0.shape[0]
    module.flatten_parameters()


def _encoder(module: Any) -> None:
    """Its kernel for padded batches reads the tensors of its first layer, which may have been left out."""
    module.use_nested_tensor = False


_KINDS: dict[type[nn.Module], Callable[[Any], None]] = {
    **dict.fromkeys((nn.Conv1d, nn.Conv2d, nn.Conv3d), _convolution),
    **dict.fromkeys((nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d), _convolution),
    nn.Linear: _linear,
    **dict.fromkeys((nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d), _batch_norm),
    **dict.fromkeys((nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d), _batch_norm),
    nn.GroupNorm: _group_norm,
    nn.LayerNorm: _layer_norm,
    nn.PReLU: _prelu,
    **dict.fromkeys((nn.Embedding, Lookup), _embedding),
    **dict.fromkeys((nn.MultiheadAttention, FewerHeads), _attention),
    **dict.fromkeys(GATES, _recurrent),
    nn.TransformerEncoder: _encoder,
}
if hasattr(nn, "RMSNorm"):
    _KINDS[nn.RMSNorm] = _layer_norm
