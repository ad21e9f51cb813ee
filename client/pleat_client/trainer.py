"""Trainer: local training of a submodel, its score and its step time. Torch lives here and in the files it is made of.

`train` is a function of its arguments: the batches and every random draw follow from the order's seed. How weights,
gradients and momentum lie in memory is `flat.py`, how weights enter the net `gates.py`, what is minimised
`objectives.py`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pleat.codec.subspace import Span
from pleat.elastic.selection import Selection
from pleat.errors import LocalError
from pleat.exchange.order import NetSpec, Work
from pleat.modelmap import ModelMap
from pleat.nets.build import classes_of, skeleton
from pleat.nets.exits import answer, logits_of
from pleat.nets.shrink import load, read, shrink
from pleat.nets.tensors import bind
from pleat.params import Params
from pleat.shard import Shard
from pleat_client.batches import batches, steps_an_epoch
from pleat_client.flat import Nested, Pulling, flatten, local_masks, projection, pull_of
from pleat_client.gates import Gated
from pleat_client.objectives import objective
from pleat_client.scaler import scale

Tick = Callable[[float, float | None], None]  # (share of steps done, loss); raises to stop the training
Metrics = dict[str, float]
Forward = Callable[[Tensor], Any]  # samples -> logits, or a tuple of them, one of each exit
EpochEnded = Callable[[int, Callable[[], Params]], None]
Stepping = Callable[[], AbstractContextManager[None]]

_SCORED_AT_ONCE = 64  # samples; without gradients this needs less memory than any training batch


class Diverged(LocalError):
    """The loss is no longer a number; the update would poison the average."""


def no_tick(done: float, loss: float | None) -> None:
    """Watch nothing and never stop."""


class _Batch:
    """The submodels applied to one batch, largest first: what the i-th one answers, or by `exits` the logits of all its
    exits, shallowest first, in one pass. `seen`: which classes the device has samples of, 1 or 0."""

    def __init__(self, forwards: Sequence[Forward], x: Tensor, seen: Tensor | None) -> None:
        self._forwards, self._x, self.seen = forwards, x, seen

    @property
    def sizes(self) -> int:
        return len(self._forwards)

    def __call__(self, size: int) -> Tensor:
        return answer(self._forwards[size](self._x))

    def exits(self, size: int) -> tuple[Tensor, ...]:
        return logits_of(self._forwards[size](self._x))


def _modules(
    net: NetSpec, model: ModelMap, selections: Sequence[Selection], device: str, scaler: bool
) -> list[nn.Module]:
    """The smaller modules, without values; the whole one, which they are cut from, has no memory."""
    whole = skeleton(net.factory, net.arguments)
    modules = [shrink(whole, model, selection).to(device).train() for selection in selections]
    if scaler:
        for module, selection in zip(modules, selections, strict=True):
            scale(module, model, selection)
    return modules


def _fill(module: nn.Module) -> None:
    """Values that take the time that any do, where none are given: zeros might take less, NaN be made of them."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(0.0, 0.02)


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
        self._module, *modules = _modules(net, model, (selection, *smaller), device, work.scaler)
        if params is None:
            _fill(self._module)
        else:
            load(self._module, params)
        masks = local_masks(model, selection, self._device)
        self._flat = flatten(self._module, masks, work.momentum > 0)
        pairs = zip(modules, smaller, strict=True)
        self._nested = [Nested(module, model, inner, selection, self._flat) for module, inner in pairs]
        own: Forward = self._module
        if work.gate:
            own = Gated(self._module, self._flat.leaf, masks, work.gate, work.settings)
        self._forwards: list[Forward] = [own, *self._nested]

    def step(self, x: Tensor, y: Tensor, rng: np.random.Generator, seen: Tensor | None = None) -> float:
        """One optimiser step on one batch; returns the objective's first loss, unweighted."""
        first = self.differentiate(x, y, rng, seen)
        self._flat.step(self._work)
        return first

    def differentiate(self, x: Tensor, y: Tensor, rng: np.random.Generator, seen: Tensor | None = None) -> float:
        """Add one batch's gradient to what is there; returns the objective's first loss, unweighted."""
        first: float | None = None
        x, y, seen = x.to(self._device), y.to(self._device), None if seen is None else seen.to(self._device)
        for weight, loss in self._objective(_Batch(self._forwards, x, seen), y, self._work.settings, rng):
            (loss * weight).backward()  # type: ignore[no-untyped-call]  # backward(weight) loads sympy: 33 MB
            first = float(loss.detach()) if first is None else first
            for smaller in self._nested:
                smaller.collect()
        return first if first is not None else 0.0

    def pull(self, pulling: Pulling) -> None:
        """From now on, every step's gradient has that of `pulling` in it."""
        self._flat.pull = pull_of(self._flat, pulling)

    def result(self) -> Params:
        bind(self._module, self._flat.leaf)  # a gate leaves what it let through
        return read(self._module)

    def confine(self, spans: Mapping[str, Span]) -> None:
        """From now on, keep every step within these spans."""
        shapes = {name: leaf.shape for name, leaf in self._flat.leaf.items()}
        self._flat.subspace = projection(shapes, spans, self._device)

    def sum_gradients(self) -> None:
        """From now on, keep the sum of all steps' gradients."""
        self._flat.summed = torch.zeros_like(self._flat.gradient)

    def summed(self) -> Params:
        """That sum, by tensor, at every entry of the submodel."""
        assert self._flat.summed is not None  # `sum_gradients` makes it
        shapes = {name: tuple(leaf.shape) for name, leaf in self._flat.leaf.items()}
        parts = torch.split(self._flat.summed, [leaf.numel() for leaf in self._flat.leaf.values()])
        return {n: p.reshape(s).cpu().numpy().copy() for (n, s), p in zip(shapes.items(), parts, strict=True)}

    def gradient(self) -> Params:
        """What `differentiate` has summed up, by tensor."""
        return {name: grad.cpu().numpy().copy() for name, grad in self._flat.grads.items()}


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
    epoch_ended: EpochEnded = lambda epoch, params: None,
    gradients: Callable[[Params], None] | None = None,
    stepping: Stepping = nullcontext,
    pulling: Pulling | None = None,
    spans: Mapping[str, Span] | None = None,
) -> tuple[Params, Metrics]:
    """Train the submodel `selection` from `params`; returns its parameters and the mean loss of the last epoch.

    `nested`: smaller selections, within `selection`, that the objective may train along. Raises Diverged when the loss
    is no longer finite, and whatever `tick` raises. `epoch_ended` is called with the number of each epoch
    done and a function that gives the parameters of then, `gradients` at the end with the sum of all steps' gradients.
    `stepping` is entered around the steps, when what the submodel was cut from is gone. `pulling` joins the loss.
    `spans`: what the steps keep to.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed % (1 << 63))
        trainer = Trainer(net, model, selection, params, nested, work, device)
        x, y = torch.from_numpy(shard.x), torch.from_numpy(shard.y)
        if gradients is not None:
            trainer.sum_gradients()
        if pulling is not None:
            trainer.pull(pulling)
        if spans:
            trainer.confine(spans)
        seen, steps = seen_classes(net, shard), work.epochs * steps_an_epoch(len(shard), work.batch)
        draw = np.random.Generator(np.random.PCG64([seed, 1]))
        total = 0.0
        with stepping():
            for number, index in enumerate(batches(len(shard), work.batch, work.epochs, seed)):
                rows = torch.from_numpy(index)
                loss = trainer.step(x[rows], y[rows], draw, seen)
                if not np.isfinite(loss):
                    raise Diverged(
                        f"loss became {loss} at step {number + 1} of {steps}; a lower training.rate or a clip helps"
                    )
                total = (0.0 if number % (steps // work.epochs) == 0 else total) + loss * len(index)
                tick((number + 1) / steps, loss)
                if (number + 1) % (steps // work.epochs) == 0:
                    epoch_ended((number + 1) // (steps // work.epochs), trainer.result)
        if gradients is not None:
            gradients(trainer.summed())
        return trainer.result(), {"loss": total / len(shard)}


def seen_classes(net: NetSpec, shard: Shard) -> Tensor:
    """1 for each class that the shard has samples of, else 0."""
    seen = torch.zeros(classes_of(net))
    seen[list(shard.labels)] = 1
    return seen


def gradient(
    net: NetSpec,
    model: ModelMap,
    selection: Selection,
    params: Params,
    work: Work,
    shard: Shard,
    seed: int,
    device: str = "cpu",
) -> Params:
    """The objective's gradient on one batch at `params`, at every entry of the submodel, whatever its masks."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed % (1 << 63))
        plain = replace(work, gate="")
        trainer = Trainer(net, model, Selection(selection.kept, selection.dropped), params, (), plain, device)
        rows = torch.from_numpy(next(batches(len(shard), work.batch, 1, seed)))
        x, y = torch.from_numpy(shard.x)[rows], torch.from_numpy(shard.y)[rows]
        draw = np.random.Generator(np.random.PCG64([seed, 1]))
        trainer.differentiate(x, y, draw, seen_classes(net, shard))
        return trainer.gradient()


def score(
    net: NetSpec,
    model: ModelMap,
    selection: Selection,
    params: Params,
    shard: Shard,
    device: str = "cpu",
    ensemble: bool = False,
) -> tuple[int, int, float]:
    """(samples classified right, samples, summed cross-entropy) of a submodel on `shard`; `ensemble`: all its exits
    together."""
    module = shrink(skeleton(net.factory, net.arguments), model, selection).to(device).eval()
    load(module, params)
    right, loss = 0, 0.0
    with torch.no_grad():
        for start in range(0, len(shard), _SCORED_AT_ONCE):
            x = torch.from_numpy(shard.x[start : start + _SCORED_AT_ONCE]).to(device)
            y = torch.from_numpy(shard.y[start : start + _SCORED_AT_ONCE]).to(device)
            logits = answer(module(x), ensemble)
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
    stepping: Stepping = nullcontext,
) -> float:
    """Median seconds of an optimiser step of the own size alone, all its exits trained, after one step to warm up."""
    own = Work("exits" if model.exits else "cross_entropy", batch=work.batch, rate=1e-6, momentum=work.momentum)
    trainer = Trainer(net, model, selection, None, (), own, device)
    index = np.arange(work.batch) % len(shard)
    x, y = torch.from_numpy(shard.x[index]), torch.from_numpy(shard.y[index])
    rng, taken = np.random.Generator(np.random.PCG64(0)), []
    with stepping():
        for number in range(steps + 1):
            begun = clock()
            trainer.step(x, y, rng)
            taken.append(clock() - begun)
            tick((number + 1) / (steps + 1), None)
    return float(np.median(taken[1:]))
