"""Gates: how weights enter the net in training. A gate is a function of a weight that keeps its shape.

A gate's value is what the net computes with, its derivative what reaches the weight; both are exact, by
value + slope (w - w), where the difference is 0 and only its derivative counts. A gate that thins is for every matrix,
by the setting `sparsity`, and keeps for the backward pass only what is largest of a layer's inputs. A new gate is one
function and one row of the table.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from pleat.errors import UseError, named
from pleat.nets.tensors import bind

Settings = Mapping[str, float]


@dataclass(frozen=True)
class Gate:
    """`enter`: (weight, its threshold) -> what enters the net. `thins`: its threshold is what the share 1 - `sparsity`
    of a matrix reaches, anew for every batch."""

    enter: Callable[[Tensor, Tensor], Tensor]
    thins: bool = False

    def __call__(self, weight: Tensor, least: Tensor) -> Tensor:
        return self.enter(weight, least)


def threshold(weight: Tensor, least: Tensor) -> Tensor:
    """Only weights of at least the size of the least that was held at first; others are 0 and stay as they are.

    FIARSE: M = |w| >= t with the surrogate dM/d|w| = 2t / (|w| + t)^2, so that a gradient is scaled by
    M (1 + 2t |w| / (|w| + t)^2).
    """
    size = weight.detach().abs()
    inside = (size >= least).to(weight.dtype)
    slope = inside * (1 + 2 * least * size / (size + least).square().clamp_min(torch.finfo(weight.dtype).tiny))
    return inside * weight.detach() + slope * (weight - weight.detach())


def hard(weight: Tensor, least: Tensor) -> Tensor:
    """The same without the surrogate: gradients pass unscaled where a weight is inside."""
    inside = (weight.detach().abs() >= least).to(weight.dtype)
    return inside * weight


def straight(weight: Tensor, least: Tensor) -> Tensor:
    """Only large weights enter, and a gradient reaches all of them, as if none had been left out (SWAT)."""
    inside = (weight.detach().abs() >= least).to(weight.dtype)
    return inside * weight.detach() + (weight - weight.detach())


GATES: dict[str, Gate] = {"threshold": Gate(threshold), "hard": Gate(hard), "swat": Gate(straight, thins=True)}


def gate(name: str) -> Gate:
    """The gate called `name`. Raises UseError with the nearest name."""
    return named("gate", name, GATES)


class Gated:
    """A module whose masked weights enter through a gate, anew for every batch.

    A weight's threshold is the least magnitude that its mask held when training began: the gate's first mask is the
    one that came, without a word more on the wire. Where no mask came, nothing is gated, unless the gate thins.
    Raises UseError for an unknown gate, and for one that thins with a `sparsity` that leaves nothing.
    """

    def __init__(
        self,
        module: nn.Module,
        leaves: Mapping[str, Tensor],
        masks: Mapping[str, Tensor],
        name: str,
        settings: Settings,
    ) -> None:
        self._module, self._gate, self._share = module, gate(name), 1.0
        if self._gate.thins:
            self._share = 1 - _sparsity(name, settings)
            self._leaves = {n: w for n, w in leaves.items() if w.dim() > 1}
            thin_backward(module, self._share)
        else:
            self._leaves = {n: leaves[n] for n in masks if n in leaves and bool(masks[n].any())}
            self._least = {n: w.detach().abs()[masks[n] > 0].min() for n, w in self._leaves.items()}

    def __call__(self, x: Tensor) -> Any:
        bind(self._module, {n: self._gate(w, self._threshold(n, w)) for n, w in self._leaves.items()})
        return self._module(x)

    def _threshold(self, name: str, weight: Tensor) -> Tensor:
        return reached(weight.detach(), self._share) if self._gate.thins else self._least[name]


def _sparsity(name: str, settings: Settings) -> float:
    sparsity = settings.get("sparsity", 0.9)
    if not 0 <= sparsity < 1:
        raise UseError(f"gate {name!r}: objective.settings.sparsity must be from 0 and below 1, got {sparsity:g}")
    return sparsity


def reached(values: Tensor, share: float) -> Tensor:
    """The magnitude that `share` of all values reach, rounded up: the k-th largest, and its equals."""
    keep = min(values.numel(), math.ceil(round(share * values.numel(), 9)))
    return values.abs().reshape(-1).kthvalue(values.numel() - keep + 1).values


_THINNED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def thin_backward(module: nn.Module, share: float) -> None:
    """From now on, a weight's gradient follows from the `share` of largest entries of what its layer is given, over a
    whole batch. The forward pass, and what is passed back to earlier layers, see all of them. Linear layers and
    convolutions; others stay as they are."""
    if share < 1:
        for layer in module.modules():
            if isinstance(layer, _THINNED):
                _Thinned(layer, share)


class _Thinned:
    """A layer that keeps for its backward pass only the largest of its inputs."""

    def __init__(self, layer: nn.Module, share: float) -> None:
        self._share, self._open = share, list[saved_tensors_hooks]()
        layer.register_forward_pre_hook(self._begin)
        layer.register_forward_hook(self._end, always_call=True)

    def _begin(self, layer: nn.Module, given: tuple[Tensor, ...]) -> None:
        source, size = given[0].data_ptr(), given[0].numel()

        def keep(kept: Tensor) -> Tensor:
            if kept.data_ptr() != source or kept.numel() != size:
                return kept  # the weight
            return torch.where(kept.abs() >= reached(kept, self._share), kept, 0)

        self._open.append(saved_tensors_hooks(keep, lambda kept: kept))
        self._open[-1].__enter__()

    def _end(self, layer: nn.Module, given: tuple[Tensor, ...], out: Tensor) -> None:
        self._open.pop().__exit__(None, None, None)
