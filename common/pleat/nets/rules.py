"""Rules: which rule serves which step. Three tables: of modules without tensors, of functions, and of methods.

Whoever adds a kind of step adds a row. What is not here freezes what enters it.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from pleat.nets import pieces, products, shaping, steps
from pleat.nets.walk import Rule


def _words(text: str) -> list[str]:
    return text.split()


_BY_OUTPUT = _words("relu relu_ sigmoid sigmoid_ tanh tanh_ exp sqrt rsqrt reciprocal")
_BY_INPUT = _words(
    "gelu silu elu elu_ selu celu leaky_relu leaky_relu_ hardswish hardsigmoid hardtanh hardtanh_ "
    "relu6 softplus mish softsign logsigmoid tanhshrink rrelu threshold abs square pow log log1p sin "
    "cos clamp clamp_ clip erf expm1 sign"
)
_ALIKE = _words("neg contiguous clone float double half to type type_as long int bool detach round floor ceil")
_TOGETHER = _words(
    "add add_ sub sub_ rsub __add__ __radd__ __sub__ __rsub__ __iadd__ __isub__ eq ne gt ge lt le "
    "logical_and logical_or logical_not masked_fill masked_fill_ where lerp"
)
_PRODUCT = _words(
    "mul mul_ div div_ true_divide __mul__ __rmul__ __truediv__ __rtruediv__ __imul__ maximum minimum addcmul addcdiv"
)
_RESHAPING = _words("flatten view reshape squeeze unsqueeze")
_DROPOUTS = _words("dropout dropout1d dropout2d dropout3d alpha_dropout feature_dropout feature_alpha_dropout")
_OPERATORS = {
    **dict.fromkeys(_words("add iadd sub isub eq ne gt ge lt le and_ or_ invert"), steps.together),
    **dict.fromkeys(_words("mul imul truediv itruediv"), steps.product),
    **dict.fromkeys(_words("neg pos abs"), steps.detached),
    "pow": steps.by_input,
    "matmul": products.matrix_product,
    "getitem": pieces.indexing,
}

# name -> rule, wherever torch has it: as a function of torch, of torch.nn.functional, and as a method
_NAMED: dict[str, Rule] = {
    **dict.fromkeys([*_BY_OUTPUT, *_DROPOUTS], steps.by_output),
    **dict.fromkeys(_BY_INPUT, steps.by_input),
    **dict.fromkeys(_ALIKE, steps.detached),
    **dict.fromkeys(_TOGETHER, steps.together),
    **dict.fromkeys(_PRODUCT, steps.product),
    **dict.fromkeys(_RESHAPING, shaping.reshaping),
    **dict.fromkeys(_words("permute transpose swapaxes t"), shaping.transposition),
    **dict.fromkeys(_words("mean sum amax amin logsumexp norm std var prod"), steps.reduction),
    **dict.fromkeys(("max", "min"), steps.extreme),
    **dict.fromkeys(["softmax", "log_softmax"], steps.softmax),
    **dict.fromkeys(("cat", "concat"), shaping.concatenation),
    "stack": shaping.stacking,
    **dict.fromkeys(_words("chunk split unsafe_chunk"), pieces.chunking),
    "unbind": pieces.unbinding,
    **dict.fromkeys(_words("narrow select flip roll cumsum"), pieces.narrowing),
    **dict.fromkeys(_words("expand repeat tile"), shaping.stretching),
    "repeat_interleave": shaping.interleaving,
    **dict.fromkeys(_words("zeros_like ones_like empty_like"), shaping.like_another),
    **dict.fromkeys(_words("matmul bmm mm __matmul__"), products.matrix_product),
    "expand_as": steps.together,
    "einsum": products.einsum,
    "scaled_dot_product_attention": products.attention,
    "linear": products.linear_by_hand,
    **dict.fromkeys(_words("conv1d conv2d conv3d"), products.convolution_by_hand),
    **dict.fromkeys(["batch_norm", "layer_norm"], products.norm_by_hand),
    "pad": steps.padding,
    "normalize": steps.normalising,
    "interpolate": steps.pooling,
    "glu": pieces.gating,
    "pixel_shuffle": pieces.pixel_shuffle,
    "pixel_unshuffle": pieces.pixel_unshuffle,
    "channel_shuffle": pieces.channel_shuffle,
    **{f"{kind}_pool{n}d": steps.pooling for kind in ("avg", "adaptive_avg", "lp") for n in (1, 2, 3)},
    **{f"{kind}_pool{n}d": steps.max_pooling for kind in ("max", "adaptive_max") for n in (1, 2, 3)},
}

STEP_FUNCTIONS: dict[Any, Rule] = {
    **{getattr(home, n): rule for home in (torch, F) for n, rule in _NAMED.items() if hasattr(home, n)},
    **{getattr(operator, n): rule for n, rule in _OPERATORS.items()},
    getattr: shaping.transposition,  # x.T and x.mT; every other attribute is known without a step
}

STEP_METHODS: dict[str, Rule] = dict(_NAMED)

STEP_MODULES: dict[type[nn.Module], Rule] = {
    **dict.fromkeys((nn.ReLU, nn.Sigmoid, nn.Tanh), steps.by_output),
    **dict.fromkeys((nn.GELU, nn.SiLU, nn.ELU, nn.SELU, nn.CELU, nn.LeakyReLU), steps.by_input),
    **dict.fromkeys((nn.Hardswish, nn.Hardsigmoid, nn.Hardtanh, nn.ReLU6, nn.Softplus, nn.Mish), steps.by_input),
    **dict.fromkeys((nn.Softsign, nn.LogSigmoid, nn.Tanhshrink, nn.RReLU, nn.Threshold), steps.by_input),
    **dict.fromkeys((nn.Hardshrink, nn.Softshrink), steps.by_input),
    nn.Identity: steps.same,
    **dict.fromkeys((nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout), steps.by_output),
    **dict.fromkeys((nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d), steps.max_pooling),
    **dict.fromkeys((nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d), steps.max_pooling),
    **dict.fromkeys((nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, nn.LPPool1d, nn.LPPool2d), steps.pooling),
    **dict.fromkeys((nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d), steps.pooling),
    **dict.fromkeys((nn.ZeroPad2d, nn.ConstantPad1d, nn.ConstantPad2d, nn.ReflectionPad1d), steps.pooling),
    **dict.fromkeys((nn.ReflectionPad2d, nn.ReplicationPad1d, nn.ReplicationPad2d), steps.pooling),
    **dict.fromkeys((nn.Upsample, nn.UpsamplingNearest2d, nn.UpsamplingBilinear2d), steps.pooling),
    nn.Flatten: shaping.reshaping,
    **dict.fromkeys((nn.Softmax, nn.LogSoftmax), steps.softmax),
    nn.GLU: pieces.gating,
    nn.PixelShuffle: pieces.pixel_shuffle,
    nn.PixelUnshuffle: pieces.pixel_unshuffle,
    nn.ChannelShuffle: pieces.channel_shuffle,
}
