"""Adjusters: how a device changes its masks, before it trains or after. Pure, but for the gradients it may ask for.

An adjuster returns the new selection and the submodel's parameters under it, or None where all stays. Only matrices
and kernels have masks; of equal sizes the first entries are taken. A new adjuster is one row of the table.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pleat.elastic.place import gather
from pleat.elastic.portion import within_masks
from pleat.elastic.pruning import keep_largest, pruned
from pleat.elastic.selection import Selection, cuts, held, make, shape_of
from pleat.elastic.selection import global_index as at
from pleat.errors import named
from pleat.modelmap import ModelMap, TensorSpec
from pleat.params import Array, Params

Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Moment:
    """What an adjuster may look at. `params`: as received before training, as trained after; `early`: after the first
    local epoch; the functions are called with parameters of the submodel. `start`: the run's first weights, so cut."""

    model: ModelMap
    selection: Selection
    params: Params
    round: int
    settings: Mapping[str, float]
    gradient: Callable[[Params], Params]  # of one batch, at every entry, whatever the masks
    accuracy: Callable[[Params], float]  # on what the device holds out, else on its shard
    early: Params
    start: Callable[[], Params]

    def masks(self) -> dict[str, Bools]:
        """The mask of every matrix in the submodel's own shapes; all true where there is none."""
        out = {}
        for spec in ranked(self.model, self.selection):
            mask, shape = self.selection.masks.get(spec.name), shape_of(self.model, self.selection, spec)
            whole = np.ones(shape, np.bool_)
            out[spec.name] = whole if mask is None else gather(mask, cuts(self.model, self.selection, spec)) & whole
        return out

    def with_masks(self, masks: Mapping[str, Bools]) -> Selection:
        """The same submodel under these masks, which are given in its own shapes."""
        whole = {}
        for name, mask in masks.items():
            spec = self.model.tensor[name]
            whole[name] = np.zeros(spec.shape, np.bool_)
            whole[name][at(spec, cuts(self.model, self.selection, spec))] = mask
        return make(self.model, self.selection.kept, self.selection.dropped, whole)

    def density(self) -> float:
        """Share of the matrices' entries that the masks hold."""
        masks = self.masks().values()
        return sum(int(m.sum()) for m in masks) / max(1, sum(m.size for m in masks))


def ranked(model: ModelMap, selection: Selection) -> list[TensorSpec]:
    """The tensors that may be masked."""
    return [t for t in held(model, selection) if t.role == "weight" and len(t.shape) >= 2]


Changed = tuple[Selection, Params] | None


def regrow(moment: Moment) -> Changed:
    """FedDST: of each mask the share a_t of smallest weights goes, and as many entries of largest gradient come, at 0.

    Every `every` rounds until round `until`, a_t = (a / 2)(1 + cos(pi t / until)) with a = `share`. What goes may
    come again; what comes is trained in the local epochs that are left.
    """
    settings, number = moment.settings, moment.round
    every, until = int(settings.get("every", 10)), settings.get("until", 100)
    if number % every or number > until or not moment.selection.masks:
        return None
    share = settings.get("share", 0.05) / 2 * (1 + math.cos(math.pi * number / until))
    masks, gradient = moment.masks(), moment.gradient(moment.params)
    params, new = dict(moment.params), dict(masks)
    for name in moment.selection.masks.keys() & masks.keys():
        new[name] = moved(masks[name], moment.params[name], gradient[name], share)
        params[name] = np.where(masks[name] & new[name], moment.params[name], np.float32(0))
    return moment.with_masks(new), params


def moved(mask: Bools, weights: Array, gradient: Array, share: float) -> Bools:
    """A mask of as many entries, of which floor(share x entries) smallest weights gave way to largest gradients."""
    held_now = int(mask.sum())
    count = math.floor(round(share * held_now, 9))
    left = keep_largest(mask, weights, held_now - count)
    return left | keep_largest(~left, gradient, count)


def shrink(moment: Moment) -> Changed:
    """Sub-FedAvg: prune `prune` of each layer's weights, if the mask still moved and the device still does well.

    One candidate mask follows from the weights after the first local epoch, one from those after the last; the second
    holds if they differ in more than `distance` of the entries, less than `target` of all is pruned, and the accuracy
    under it is above `least`.
    """
    settings, masks = moment.settings, moment.masks()
    prune = settings.get("prune", 0.1)
    first, last = (pruned(masks, p, prune) for p in (moment.early, moment.params))
    differing = sum(int((first[n] ^ last[n]).sum()) for n in last) / max(1, sum(m.size for m in last.values()))
    if differing <= settings.get("distance", 1e-4) or 1 - moment.density() >= settings.get("target", 0.3):
        return None
    chosen = moment.with_masks(last)
    params = within_masks(moment.model, chosen, moment.params)
    if moment.accuracy(params) <= settings.get("least", 0.5):
        return None
    return chosen, params


def rewind(moment: Moment) -> Changed:
    """LotteryFL, before training: where the device does well and its mask is not yet as sparse as `target`, prune
    `prune` of each layer's weights and put the survivors back to the run's first weights. Where that prunes nothing,
    nothing goes back."""
    settings = moment.settings
    if moment.density() <= settings.get("target", 0.5) or moment.accuracy(moment.params) <= settings.get("least", 0.2):
        return None
    before = moment.masks()
    masks = pruned(before, moment.params, settings.get("prune", 0.2))
    if all(np.array_equal(masks[n], m) for n, m in before.items()):
        return None
    chosen, start = moment.with_masks(masks), moment.start()
    fresh = {n: start[n] if n in masks else a for n, a in moment.params.items()}
    return chosen, within_masks(moment.model, chosen, fresh)


def heaviest(moment: Moment) -> Changed:
    """ZeroFL's Top-K-Weights: the share 1 - `sparsity` + `margin` of each matrix returns, its largest weights."""
    share = 1 - moment.settings.get("sparsity", 0.9) + moment.settings.get("margin", 0.2)
    if share >= 1:
        return None
    masks = {
        n: keep_largest(m, moment.params[n], math.ceil(round(share * int(m.sum()), 9)))
        for n, m in moment.masks().items()
    }
    return moment.with_masks(masks), moment.params


@dataclass(frozen=True)
class Adjuster:
    """What is done before training, after the epoch that the setting `after` names (the last by default), and after
    all of it."""

    before: Callable[[Moment], Changed] = lambda moment: None
    between: Callable[[Moment], Changed] | None = None
    after: Callable[[Moment], Changed] = lambda moment: None


ADJUSTERS: dict[str, Adjuster] = {
    "": Adjuster(),
    "regrow": Adjuster(between=regrow),
    "shrink": Adjuster(after=shrink),
    "rewind": Adjuster(before=rewind),
    "heaviest": Adjuster(after=heaviest),
}


def adjuster(name: str) -> Adjuster:
    """The adjuster called `name`; none for "". Raises UseError with the nearest name."""
    return named("adjuster", name, ADJUSTERS)
