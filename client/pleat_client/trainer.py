"""Trainer: local training of a submodel, its score and its step time. Torch lives here and in `objectives`.

`train` is a function of its arguments: the batches and every random draw follow from the order's seed. Parameters,
gradients and momentum are three flat vectors, and every tensor of the submodel, and of each smaller submodel nested in
it, is a view of them: smaller sizes share weights without a copy and add their gradients in place, and an optimiser
step is three vector operations. SGD is written by hand because importing torch.optim costs 70 MB.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pleat.elastic.selection import Selection, cut_array, cuts, held
from pleat.errors import LocalError
from pleat.exchange.order import NetSpec, Work
from pleat.modelmap import ModelMap
from pleat.nets.build import build
from pleat.nets.nested import views
from pleat.nets.shrink import load, read, shrink
from pleat.params import Params
from pleat.shard import Shard
from pleat_client.objectives import objective

Tick = Callable[[float, float | None], None]  # (share of steps done, loss); raises to stop the training
Metrics = dict[str, float]

_SCORED_AT_ONCE = 64  # samples; without gradients this needs less memory than any training batch


class Diverged(LocalError):
    """The loss is no longer a number; the update would poison the average."""


def no_tick(done: float, loss: float | None) -> None:
    """Watch nothing and never stop."""


def batches(samples: int, batch: int, epochs: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """The sample indices of every step: each epoch a fresh permutation by `seed`, cut into runs of `batch`."""
    rng = np.random.Generator(np.random.PCG64(seed))
    for _ in range(epochs):
        order = rng.permutation(samples)
        for start in range(0, samples, batch):
            yield order[start : start + batch]


@dataclass
class Flat:
    """Parameters, summed gradient and momentum of one submodel as flat vectors, and its tensors as views of them."""

    weights: Tensor
    gradient: Tensor
    velocity: Tensor | None
    leaf: dict[str, Tensor]  # parameter name -> leaf tensor over `weights` whose .grad lies in `gradient`
    grads: dict[str, Tensor]
    inside: Tensor | None  # 1 where an element mask lets a weight live, else 0; None without masks

    def step(self, work: Work) -> None:
        """v = m v + g + decay w; w -= rate v, with g clipped to norm `work.clip`."""
        with torch.no_grad():
            g = self.gradient
            if self.inside is not None:
                g.mul_(self.inside)
            if work.clip:
                norm = float(g.norm())
                if norm > work.clip:
                    g.mul_(work.clip / norm)
            if work.decay:
                g.add_(self.weights, alpha=work.decay)
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
    _bind(module, leaf)
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


def _windows(flat: Tensor, shapes: dict[str, torch.Size]) -> dict[str, Tensor]:
    """Consecutive views of `flat` in these shapes."""
    parts = torch.split(flat, [shape.numel() for shape in shapes.values()])
    return {name: part.view(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}


def _bind(module: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Let `module` compute with `tensors` as its parameters: plain tensors, which registration would refuse."""
    for name, tensor in tensors.items():
        owner, _, attribute = name.rpartition(".")
        module.get_submodule(owner)._parameters[attribute] = tensor  # type: ignore[assignment]


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
        _bind(self._module, fixed)

    def __call__(self, x: Tensor) -> Tensor:
        if self._loose:
            fresh = views(self._model, self._inner, self._outer, dict(self._flat.leaf))
            cut = {n: fresh[n] * self._masks[n] if n in self._masks else fresh[n] for n in self._loose}
            _bind(self._module, cut)
        out: Tensor = self._module(x)
        return out

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


class _Batch:
    """The submodels applied to one batch, largest first."""

    def __init__(self, forwards: Sequence[Callable[[Tensor], Tensor]], x: Tensor) -> None:
        self._forwards, self._x = forwards, x

    @property
    def sizes(self) -> int:
        return len(self._forwards)

    def __call__(self, size: int) -> Tensor:
        return self._forwards[size](self._x)


def _modules(net: NetSpec, model: ModelMap, selections: Sequence[Selection], device: str) -> list[nn.Module]:
    """The smaller modules; the whole one, which they are cut from, is let go."""
    whole = build(net.factory, net.arguments)
    return [shrink(whole, model, selection).to(device).train() for selection in selections]


class Trainer:
    """A submodel ready to train: built once, stepped batch by batch. `device`: torch's name of where it is trained."""

    def __init__(
        self,
        net: NetSpec,
        model: ModelMap,
        selection: Selection,
        params: Params | None,
        nested: Sequence[Selection],
        work: Work,
        device: str = "cpu",
    ) -> None:
        self._device = torch.device(device)
        self._work, self._objective = work, objective(work.objective)
        smaller = [inner for inner in nested if inner != selection]
        self._module, *modules = _modules(net, model, (selection, *smaller), device)
        if params is not None:
            load(self._module, params)
        self._flat = flatten(self._module, local_masks(model, selection, self._device), work.momentum > 0)
        pairs = zip(modules, smaller, strict=True)
        self._nested = [Nested(module, model, inner, selection, self._flat) for module, inner in pairs]
        self._forwards: list[Callable[[Tensor], Tensor]] = [self._module, *self._nested]

    def step(self, x: Tensor, y: Tensor, rng: np.random.Generator) -> float:
        """One optimiser step on one batch; returns the objective's first loss, unweighted."""
        first: float | None = None
        x, y = x.to(self._device), y.to(self._device)
        for weight, loss in self._objective(_Batch(self._forwards, x), y, self._work.settings, rng):
            (loss * weight).backward()  # type: ignore[no-untyped-call]  # backward(weight) loads sympy: 33 MB
            first = float(loss.detach()) if first is None else first
            for smaller in self._nested:
                smaller.collect()
        self._flat.step(self._work)
        return first if first is not None else 0.0

    def result(self) -> Params:
        return read(self._module)


def train(
    net: NetSpec,
    model: ModelMap,
    selection: Selection,
    params: Params,
    nested: Sequence[Selection],
    work: Work,
    shard: Shard,
    seed: int = 0,
    tick: Tick = no_tick,
    device: str = "cpu",
) -> tuple[Params, Metrics]:
    """Train the submodel `selection` from `params`; returns its parameters and the mean loss of the last epoch.

    `nested`: smaller selections, within `selection`, that the objective may train along. Raises Diverged when the loss
    is no longer finite, and whatever `tick` raises.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed % (1 << 63))
        trainer = Trainer(net, model, selection, params, nested, work, device)
        x, y = torch.from_numpy(shard.x), torch.from_numpy(shard.y)
        steps = work.epochs * -(-len(shard) // work.batch)
        draw = np.random.Generator(np.random.PCG64([seed, 1]))
        total = 0.0
        for number, index in enumerate(batches(len(shard), work.batch, work.epochs, seed)):
            rows = torch.from_numpy(index)
            loss = trainer.step(x[rows], y[rows], draw)
            if not np.isfinite(loss):
                raise Diverged(
                    f"loss became {loss} at step {number + 1} of {steps}; a lower training.rate or a clip helps"
                )
            total = (0.0 if number % (steps // work.epochs) == 0 else total) + loss * len(index)
            tick((number + 1) / steps, loss)
        return trainer.result(), {"loss": total / len(shard)}


def score(
    net: NetSpec, model: ModelMap, selection: Selection, params: Params, shard: Shard, device: str = "cpu"
) -> tuple[int, int, float]:
    """(samples classified right, samples, summed cross-entropy) of a submodel on `shard`."""
    module = shrink(build(net.factory, net.arguments), model, selection).to(device).eval()
    load(module, params)
    right, loss = 0, 0.0
    with torch.no_grad():
        for start in range(0, len(shard), _SCORED_AT_ONCE):
            x = torch.from_numpy(shard.x[start : start + _SCORED_AT_ONCE]).to(device)
            y = torch.from_numpy(shard.y[start : start + _SCORED_AT_ONCE]).to(device)
            logits = module(x)
            right += int((logits.argmax(dim=1) == y).sum())
            loss += float(nn.functional.cross_entropy(logits, y, reduction="sum"))
    return right, len(shard), loss


def time_steps(
    net: NetSpec,
    model: ModelMap,
    selection: Selection,
    work: Work,
    shard: Shard,
    steps: int,
    clock: Callable[[], float] = time.perf_counter,
    tick: Tick = no_tick,
    device: str = "cpu",
) -> float:
    """Median seconds of an optimiser step of the own size alone, after one step to warm up."""
    own = Work(batch=work.batch, rate=1e-6, momentum=work.momentum)
    trainer = Trainer(net, model, selection, None, (), own, device)
    index = np.arange(work.batch) % len(shard)
    x, y = torch.from_numpy(shard.x[index]), torch.from_numpy(shard.y[index])
    rng, taken = np.random.Generator(np.random.PCG64(0)), []
    for number in range(steps + 1):
        begun = clock()
        trainer.step(x, y, rng)
        taken.append(clock() - begun)
        tick((number + 1) / (steps + 1), None)
    return float(np.median(taken[1:]))
