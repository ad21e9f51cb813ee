"""Build: nets by name, their specs, and their first parameters."""

from __future__ import annotations

import torch

from pleat.exchange.order import NetSpec, Scalar
from pleat.nets.arguments import classes_of, input_shape_of, parse_shape
from pleat.nets.factory import build, resolve, skeleton
from pleat.nets.tensors import read
from pleat.nets.trace import model_map
from pleat.params import Params

__all__ = ["build", "classes_of", "initial", "input_shape_of", "parse_shape", "resolve", "skeleton", "spec"]


def spec(name: str, input_shape: tuple[int, ...], classes: int, **more: Scalar) -> NetSpec:
    """The net `name` for these data, with its digest filled in. Raises UseError where it cannot be built or traced."""
    shape = "x".join(map(str, input_shape))
    bare = NetSpec(resolve(name), {"input_shape": shape, "classes": classes, **more}, b"")
    return NetSpec(bare.factory, bare.arguments, model_map(bare).digest)


def initial(net: NetSpec, seed: int) -> Params:
    """The net's first parameters: a function of `seed` alone, which leaves torch's global generator as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed % (1 << 63))
        return read(build(net.factory, net.arguments))
