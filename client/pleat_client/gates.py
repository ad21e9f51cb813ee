"""Gates: how weights enter the net in training. A gate is a function of a weight that keeps its shape.

A gate's value is what the net computes with, its derivative what reaches the weight; both are exact, by
value + slope (w - w), where the difference is 0 and only its derivative counts. A new gate is one function and one row
of the table.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pleat.errors import UseError
from pleat.nets.tensors import bind

Settings = Mapping[str, float]
Gate = Callable[[Tensor, Tensor], Tensor]  # (weight, its threshold) -> what enters the net


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


GATES: dict[str, Gate] = {"threshold": threshold, "hard": hard}


def gate(name: str) -> Gate:
    """The gate called `name`. Raises UseError with the nearest name."""
    if name not in GATES:
        near = difflib.get_close_matches(name, GATES, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(GATES)}"
        raise UseError(f"unknown gate {name!r}; {hint}")
    return GATES[name]


class Gated:
    """A module whose masked weights enter through a gate, anew for every batch.

    A weight's threshold is the least magnitude that its mask held when training began: the gate's first mask is the
    one that came, without a word more on the wire. Where no mask came, nothing is gated.
    """

    def __init__(
        self,
        module: nn.Module,
        leaves: Mapping[str, Tensor],
        masks: Mapping[str, Tensor],
        name: str,
    ) -> None:
        self._module, self._gate = module, gate(name)
        self._leaves = {n: leaves[n] for n in masks if n in leaves and bool(masks[n].any())}
        self._least = {n: w.detach().abs()[masks[n] > 0].min() for n, w in self._leaves.items()}

    def __call__(self, x: Tensor) -> Any:
        bind(self._module, {n: self._gate(w, self._least[n]) for n, w in self._leaves.items()})
        return self._module(x)
