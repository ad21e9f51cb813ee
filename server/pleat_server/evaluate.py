"""Scores a model, whole or cut to a submodel, on the server's own data; the only file of the server that runs torch.

The same parameters, selection and samples give the same numbers; nothing is trained and no gradient is kept. Shrunk
modules are kept between calls, so scoring every offered size each round costs the forward passes alone.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import torch
from torch.nn.functional import cross_entropy

from pleat.elastic.selection import WHOLE, Selection, extract
from pleat.exchange.order import NetSpec
from pleat.modelmap import ModelMap
from pleat.nets.build import build, classes_of, input_shape_of
from pleat.nets.exits import answer
from pleat.nets.shrink import load, shrink
from pleat.params import Params
from pleat.shard import Shard, check_fits

KEPT_MODULES = 16  # shrunk modules kept between calls


def use_threads(count: int) -> None:
    """Threads that torch uses in this process. Small nets on a shared machine run several times faster on one."""
    torch.set_num_threads(count)


@dataclass(frozen=True)
class Score:
    """`loss`: mean cross-entropy a sample."""

    accuracy: float
    loss: float
    samples: int


class Evaluator:
    """Calling it scores `params` (global, whole) cut to `selection`: (correct, scored, summed cross-entropy). Of
    several exits the deepest answers, or, as an `ensemble`, the mean of their logits.

    Raises UseError if the shard's samples or labels do not fit the net; `where` names the shard in the message.
    """

    def __init__(
        self,
        net: NetSpec,
        model: ModelMap,
        shard: Shard,
        batch: int = 512,
        where: str = "test data",
        ensemble: bool = False,
    ) -> None:
        check_fits(shard, input_shape_of(net), classes_of(net), where)
        self._model, self._ensemble = model, ensemble
        self._whole = build(net.factory, net.arguments).eval()
        self._x, self._y, self._batch = torch.from_numpy(shard.x), torch.from_numpy(shard.y), batch
        self._modules: OrderedDict[Selection, torch.nn.Module] = OrderedDict()

    def __call__(self, params: Params, selection: Selection = WHOLE) -> tuple[int, int, float]:
        module = self._module(selection)
        load(module, extract(self._model, selection, params))
        correct, loss = 0, 0.0
        with torch.inference_mode():
            for start in range(0, len(self._y), self._batch):
                x, y = self._x[start : start + self._batch], self._y[start : start + self._batch]
                logits = answer(module(x), self._ensemble)
                correct += int((logits.argmax(1) == y).sum())
                loss += float(cross_entropy(logits, y, reduction="sum"))
        return correct, len(self._y), loss

    def score(self, params: Params, selection: Selection = WHOLE) -> Score:
        """The same as a share and a mean."""
        correct, scored, loss = self(params, selection)
        return Score(correct / scored, loss / scored, scored)

    def _module(self, selection: Selection) -> torch.nn.Module:
        if selection not in self._modules:
            self._modules[selection] = shrink(self._whole, self._model, selection).eval()
            if len(self._modules) > KEPT_MODULES:
                self._modules.popitem(last=False)
        self._modules.move_to_end(selection)
        return self._modules[selection]
