"""Draw: what a chooser may depend on beside the model and the rate; and the randomness that follows from it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from pleat.elastic.selection import Selection
from pleat.modelmap import ModelMap
from pleat.params import Params


@dataclass(frozen=True)
class Draw:
    """`params`: the global model, for choosers that look at weights; `extras`: named tensors that a method keeps."""

    seed: int = 0
    round: int = 0
    device: str = ""
    params: Params | None = None
    extras: Mapping[str, Params] = field(default_factory=dict)


Chooser = Callable[[ModelMap, float, Draw], Selection]


def generator(draw: Draw, purpose: str) -> np.random.Generator:
    """The random stream of (seed, round, device, purpose): the same on every machine, and apart from all others."""
    text = f"{draw.seed}\0{draw.round}\0{draw.device}\0{purpose}".encode()
    return np.random.default_rng(np.frombuffer(hashlib.sha256(text).digest(), np.uint32))
