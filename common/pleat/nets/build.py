"""Build: nets by name, their specs, and their first parameters."""

from __future__ import annotations

import torch

from pleat.errors import UseError
from pleat.exchange.order import NetSpec, Scalar
from pleat.nets.arguments import classes_of, input_shape_of, parse_shape
from pleat.nets.factory import build, check_exits, resolve, skeleton
from pleat.nets.tensors import read
from pleat.nets.trace import model_map
from pleat.params import Params

__all__ = [
    "build",
    "check_exits",
    "classes_of",
    "initial",
    "input_shape_of",
    "parse_shape",
    "resolve",
    "skeleton",
    "spec",
]


def spec(name: str, input_shape: tuple[int, ...], classes: int, exits: int = 0, **more: Scalar) -> NetSpec:
    """The net `name` for these data, with its digest filled in; `exits`: heads that it is to be built with, 0 and 1: as
    it is. Raises UseError where it cannot be built so, or not traced."""
    shape = "x".join(map(str, input_shape))
    check_exits(name, exits)
    more |= {"exits": exits} if exits > 1 else {}
    bare = NetSpec(resolve(name), {"input_shape": shape, "classes": classes, **more}, b"")
    model = model_map(bare)
    if exits > 1 and len(model.exits) != exits:
        raise UseError(
            f"net {name}: expected {exits} exits, got {len(model.exits)}; let it name them, shallowest first, in an "
            f"attribute exits, and return their logits as a tuple"
        )
    return NetSpec(bare.factory, bare.arguments, model.digest)


def initial(net: NetSpec, seed: int) -> Params:
    """The net's first parameters: a function of `seed` alone, which leaves torch's global generator as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed % (1 << 63))
        return read(build(net.factory, net.arguments))
