"""Scaler: a cut layer puts out sums as large as it would whole, in training."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from pleat.elastic.selection import Selection, cuts
from pleat.modelmap import ModelMap

_SCALED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def scale(module: nn.Module, model: ModelMap, selection: Selection) -> None:
    """Divide what every cut layer puts out by the share of its channels that is held (HeteroFL's scaler), so that the
    next layer, which sums over fewer inputs, sees sums as large as in the whole net. In training only."""
    for path, layer in module.named_modules():
        spec = model.tensor.get(f"{path}.weight")
        if spec is None or not isinstance(layer, _SCALED):  # attention and recurrent layers set their own scale
            continue
        axis = 1 if getattr(layer, "transposed", False) and layer.groups == 1 else 0
        cut = cuts(model, selection, spec)[axis]
        if cut is not None:
            layer.register_forward_hook(_divided_by(cut.size / spec.shape[axis]))


def _divided_by(share: float) -> Callable[[nn.Module, object, Tensor], Tensor]:
    return lambda layer, given, out: out / share
