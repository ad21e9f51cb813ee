"""Flat: a submodel's parameters, gradients and momentum as three flat vectors, and smaller submodels as views of them.

Every tensor of the submodel, and of each smaller submodel nested in it, is a view: smaller sizes share weights without
a copy and add their gradients in place, and an optimiser step is three vector operations. SGD is written by hand
because importing torch.optim costs 70 MB.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pleat.codec.subspace import Span
from pleat.elastic.selection import Selection, cut_array, cuts, held
from pleat.exchange.order import Work
from pleat.modelmap import ModelMap
from pleat.nets.nested import views
from pleat.nets.tensors import bind
from pleat.params import Params


@dataclass(frozen=True)
class Pulling:
    """A term of the loss beside the objective: strength/2 |w - anchor|^2 - <w, drift>, in a submodel's coordinates;
    drift: 0 where missing. FedProx has none, FedDyn its own of every device."""

    strength: float
    anchor: Params
    drift: Params


@dataclass(frozen=True)
class Pull:
    """The same on flat vectors."""

    strength: float
    anchor: Tensor
    drift: Tensor | None = None

    def add_to(self, gradient: Tensor, weights: Tensor) -> None:
        """Add the term's gradient: strength (w - anchor) - drift."""
        gradient.add_(weights, alpha=self.strength).sub_(self.anchor, alpha=self.strength)
        if self.drift is not None:
            gradient.sub_(self.drift)


Projection = Callable[[Tensor], None]


@dataclass
class Flat:
    """Parameters, summed gradient and momentum of one submodel as flat vectors, and its tensors as views of them."""

    weights: Tensor
    gradient: Tensor
    velocity: Tensor | None
    leaf: dict[str, Tensor]  # parameter name -> leaf tensor over `weights` whose .grad lies in `gradient`
    grads: dict[str, Tensor]
    inside: Tensor | None  # 1 where an element mask lets a weight live, else 0; None without masks
    subspace: Projection | None = None  # projects a flat vector onto what training is confined to
    summed: Tensor | None = None  # every step's gradient added up, before masks and clipping; None: not asked for
    pull: Pull | None = None

    def step(self, work: Work) -> None:
        """v = m v + g + decay w; w -= rate v, with g, the pull's gradient in it, clipped to norm `work.clip`; g + decay
        w within the subspace."""
        with torch.no_grad():
            g = self.gradient
            if self.summed is not None:
                self.summed.add_(g)
            if self.pull is not None:
                self.pull.add_to(g, self.weights)
            if self.inside is not None:
                g.mul_(self.inside)
            if self.subspace is not None:
                self.subspace(g)
            if work.clip:
                norm = float(g.norm())
                if norm > work.clip:
                    g.mul_(work.clip / norm)
            if work.decay:
                g.add_(self.weights, alpha=work.decay)
                if self.subspace is not None:
                    self.subspace(g)
            if self.velocity is not None:
                g = self.velocity.mul_(work.momentum).add_(g)
            self.weights.add_(g, alpha=-work.rate)
            self.gradient.zero_()


def flatten(module: nn.Module, masks: dict[str, Tensor], momentum: bool) -> Flat:
    """Move the module's parameters into one flat vector; the module computes with views of it from then on."""
    own = dict(module.named_parameters())
    shapes = {name: p.shape for name, p in own.items()}
    weights = torch.cat([p.detach().reshape(-1) for p in own.values()])
    leaf = {name: window.detach().requires_grad_() for name, window in _windows(weights, shapes).items()}
    bind(module, leaf)
    own.clear()  # the old parameters go before gradient and momentum come
    gradient = torch.zeros_like(weights)
    grads = _windows(gradient, shapes)
    for name, parameter in leaf.items():
        parameter.grad = grads[name]
    inside = None
    if masks:
        every = weights.new_ones(())
        inside = torch.cat([masks.get(n, every).expand(shape).reshape(-1) for n, shape in shapes.items()])
    return Flat(weights, gradient, torch.zeros_like(weights) if momentum else None, leaf, grads, inside)


def pull_of(flat: Flat, pulling: Pulling) -> Pull:
    """`pulling` as vectors beside the weights."""

    def laid(tensors: Params) -> Tensor:
        parts = (torch.tensor(tensors[n]) if n in tensors else torch.zeros_like(w) for n, w in flat.leaf.items())
        return torch.cat([part.detach().reshape(-1).to(flat.weights) for part in parts])

    return Pull(pulling.strength, laid(pulling.anchor), laid(pulling.drift) if pulling.drift else None)


def _windows(flat: Tensor, shapes: dict[str, torch.Size]) -> dict[str, Tensor]:
    """Consecutive views of `flat` in these shapes."""
    parts = torch.split(flat, [shape.numel() for shape in shapes.values()])
    return {name: part.view(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}


def projection(shapes: Mapping[str, torch.Size], spans: Mapping[str, Span], device: torch.device) -> Projection:
    """Of a flat vector of tensors of these shapes, in place: each matrix with a span onto it; others stay."""
    bases = {n: torch.from_numpy(s.basis).to(device) for n, s in spans.items() if s.basis is not None}
    inside = {}
    for name, span in spans.items():
        if span.places is not None:
            inside[name] = torch.zeros(shapes[name].numel(), device=device)
            inside[name][torch.from_numpy(span.places).to(device)] = 1

    def project(flat: Tensor) -> None:
        for name, part in _windows(flat, dict(shapes)).items():
            if name in bases:
                matrix = part.view(part.shape[0], -1)
                matrix.copy_(bases[name] @ (bases[name].T @ matrix))
            elif name in inside:
                part.view(-1).mul_(inside[name])

    return project


class Nested:
    """One smaller submodel inside a flat one: the same weights, its gradients added to the same gradient.

    Where a smaller tensor is a plain window of the larger one, it is bound once, as a leaf whose storage is the larger
    weight's; `collect` adds its gradient to the same window of the larger gradient. Elsewhere (scattered channels,
    element masks) it is cut anew for every batch and differentiated through.
    """

    def __init__(self, module: nn.Module, model: ModelMap, inner: Selection, outer: Selection, flat: Flat) -> None:
        self._model, self._inner, self._outer, self._flat, self._module = model, inner, outer, flat, module
        self._masks = local_masks(model, inner, flat.weights.device)
        windows = views(model, inner, outer, {n: p.detach() for n, p in flat.leaf.items()})
        gradients = views(model, inner, outer, flat.grads)
        own = {n for n, w in windows.items() if n not in self._masks and _shares(w, flat.weights)}
        fixed = {name: windows[name].detach().requires_grad_() for name in sorted(own)}
        self._windows = [(leaf, gradients[name]) for name, leaf in fixed.items()]
        self._loose = sorted(windows.keys() - own)
        bind(self._module, fixed)

    def __call__(self, x: Tensor) -> Any:
        if self._loose:
            fresh = views(self._model, self._inner, self._outer, dict(self._flat.leaf))
            cut = {n: fresh[n] * self._masks[n] if n in self._masks else fresh[n] for n in self._loose}
            bind(self._module, cut)
        return self._module(x)

    def collect(self) -> None:
        """Add what backward left in the windows' leaves to the larger gradient."""
        found = [(window, leaf.grad) for leaf, window in self._windows if leaf.grad is not None]
        if found:
            torch._foreach_add_([window for window, _ in found], [grad for _, grad in found])
        for leaf, _ in self._windows:
            leaf.grad = None


def _shares(view: Tensor, whole: Tensor) -> bool:
    return view.untyped_storage().data_ptr() == whole.untyped_storage().data_ptr()


def local_masks(model: ModelMap, selection: Selection, device: torch.device) -> dict[str, Tensor]:
    """The selection's element masks in the submodel's own shapes, as float tensors of 0 and 1."""
    out = {}
    for spec in held(model, selection):
        if spec.name in selection.masks:
            part = cut_array(selection.masks[spec.name], cuts(model, selection, spec))
            out[spec.name] = torch.from_numpy(np.ascontiguousarray(part, np.float32)).to(device)
    return out
