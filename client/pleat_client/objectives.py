"""Objectives: what a device minimises on one batch, as a stream of terms.

An objective is a function `(logits_of, y, settings, rng)` that yields (weight, loss). `logits_of(0)` are
the device's own submodel, `logits_of(i)` those of its i-th nested (smaller) one, `logits_of.sizes` how many there are,
`logits_of.seen` which classes the device has samples of. Of a net with exits those are the deepest exit's logits;
`logits_of.exits(i)` are all exits', shallowest first, by one pass.
The trainer differentiates each as it comes, before the next is computed, and takes one step on their weighted sum: one
graph lives at a time, so several sizes cost the memory of the largest. The first loss is the one a report tells.
A new objective is one function and one row of the table.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pleat.errors import named


class Logits(Protocol):
    """The submodels of one device applied to the current batch."""

    @property
    def sizes(self) -> int: ...

    @property
    def seen(self) -> Tensor | None: ...

    def __call__(self, size: int) -> Tensor: ...

    def exits(self, size: int) -> tuple[Tensor, ...]: ...


Settings = Mapping[str, float]
Term = tuple[float, Tensor]
Objective = Callable[[Logits, Tensor, Settings, np.random.Generator], Iterator[Term]]


def cross_entropy(logits_of: Logits, y: Tensor, settings: Settings, rng: np.random.Generator) -> Iterator[Term]:
    """Cross-entropy of the own size."""
    yield 1.0, F.cross_entropy(logits_of(0), y)


def masked(logits_of: Logits, y: Tensor, settings: Settings, rng: np.random.Generator) -> Iterator[Term]:
    """Cross-entropy of the own size with the logits of classes that the device has no samples of set to 0 (HeteroFL).

    0, not minus infinity: absent classes keep a share of the softmax, but their rows of the last layer get no gradient.
    """
    logits = logits_of(0)
    yield 1.0, F.cross_entropy(logits if logits_of.seen is None else logits * logits_of.seen, y)


def joint(logits_of: Logits, y: Tensor, settings: Settings, rng: np.random.Generator) -> Iterator[Term]:
    """Cross-entropy summed over the own size and every smaller one, all on the same weights.

    `total`: what the sizes' weights add up to, shared equally, so that a device of few sizes moves the weights that
    all share as far as one of many does; by default each size weighs 1.
    """
    weight = settings.get("total", float(logits_of.sizes)) / logits_of.sizes
    for size in range(logits_of.sizes):
        yield weight, F.cross_entropy(logits_of(size), y)


def distilled(logits_of: Logits, y: Tensor, settings: Settings, rng: np.random.Generator) -> Iterator[Term]:
    """Cross-entropy of the own size, and for one random smaller size (1 - d) cross-entropy + d distillation.

    The smaller size learns from the own size's softmax, which is held fixed. `distil`: d, by default .5;
    `temperature`: T of both softmaxes, by default 1, with the usual factor T^2.
    """
    own = logits_of(0)
    yield 1.0, F.cross_entropy(own, y)
    if logits_of.sizes == 1:
        return
    share, heat = settings.get("distil", 0.5), settings.get("temperature", 1.0)
    teacher = F.softmax(own.detach() / heat, dim=1)
    small = logits_of(int(rng.integers(1, logits_of.sizes)))
    taught = F.cross_entropy(small / heat, teacher) * heat * heat
    yield 1.0, (1 - share) * F.cross_entropy(small, y) + share * taught


def nested_draw(logits_of: Logits, y: Tensor, settings: Settings, rng: np.random.Generator) -> Iterator[Term]:
    """Ordered dropout (FjORD): the size is drawn anew for each batch, uniformly from those the device holds.

    With `distil` above 0, a draw below the own size trains the own size too and learns from its softmax, held fixed.
    """
    size = int(rng.integers(0, logits_of.sizes))
    share = settings.get("distil", 0.0)
    if size == 0 or share == 0:
        yield 1.0, F.cross_entropy(logits_of(size), y)
        return
    own = logits_of(0)
    yield 1.0, F.cross_entropy(own, y)
    small = logits_of(size)
    taught = F.cross_entropy(small, F.softmax(own.detach(), dim=1))
    yield 1.0, (1 - share) * F.cross_entropy(small, y) + share * taught


def exits(logits_of: Logits, y: Tensor, settings: Settings, rng: np.random.Generator) -> Iterator[Term]:
    """Cross-entropy summed over all exits of the own size, which one pass gives; with `distil` above 0 each of the n
    exits learns from all others (DepthFL), lambda / (n - 1) sum of KL(other, held fixed || exit) in round t.

    lambda = distil exp(-5 (1 - min(t, R) / R)^2) grows until round R = `ramp`; 0: from the first on.
    """
    found = logits_of.exits(0)
    loss = torch.stack([F.cross_entropy(logits, y) for logits in found]).sum()
    share = ramped(settings)
    if share and len(found) > 1:
        logs = [F.log_softmax(logits, dim=1) for logits in found]
        pairs = [_divergence(a.detach(), b) for a, b in itertools.permutations(logs, 2)]
        loss = loss + share / (len(found) - 1) * torch.stack(pairs).sum()
    yield 1.0, loss


def ramped(settings: Settings) -> float:
    """How much distillation between exits counts in round `round`."""
    ramp, share = settings.get("ramp", 0.0), settings.get("distil", 0.0)
    left = 1 - min(settings.get("round", ramp), ramp) / ramp if ramp > 0 else 0.0
    return share * math.exp(-5 * left * left)


def weighted_exits(logits_of: Logits, y: Tensor, settings: Settings, rng: np.random.Generator) -> Iterator[Term]:
    """Cross-entropy of the n exits of the own size, the j-th by 2 j / (n (n + 1)), the deepest most (ScaleFL).

    From round `since` on the others learn from the deepest too, held fixed: `distil` T^2 KL(deepest / T || exit / T),
    `temperature`: T.
    """
    found = logits_of.exits(0)
    heat, count = settings.get("temperature", 1.0), len(found)
    share = settings.get("distil", 0.0) if settings.get("round", 1.0) >= settings.get("since", 1.0) else 0.0
    teacher = F.log_softmax(found[-1].detach() / heat, dim=1)
    losses = []
    for place, logits in enumerate(found, 1):
        loss = F.cross_entropy(logits, y)
        if share and place < count:
            loss = loss + share * heat * heat * _divergence(teacher, F.log_softmax(logits / heat, dim=1))
        losses.append(2 * place / (count * (count + 1)) * loss)
    yield 1.0, torch.stack(losses).sum()


def _divergence(teacher: Tensor, learner: Tensor) -> Tensor:
    """KL(teacher || learner) of log-probabilities, the mean over samples."""
    return F.kl_div(learner, teacher, reduction="batchmean", log_target=True)


OBJECTIVES: dict[str, Objective] = {
    "cross_entropy": cross_entropy,
    "distilled": distilled,
    "exits": exits,
    "joint": joint,
    "masked": masked,
    "nested_draw": nested_draw,
    "weighted_exits": weighted_exits,
}


def objective(name: str) -> Objective:
    """The objective called `name`. Raises UseError with the nearest name."""
    return named("objective", name, OBJECTIVES)
