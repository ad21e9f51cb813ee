"""Importance of every entry, for choosers that rank: what stands where weights would, so that any ranks by any. Pure.

    size      |w|
    change    |w - w at the start|
    gradient  |g|, the root of the mean square over devices and rounds
    square    g^2, the Fisher information's diagonal
    taylor    |g w|, what the loss changes to first order when the entry goes
    imp       when iterative magnitude pruning let it go, the later the higher (`pruning.py`)

g comes from devices, as squares of gradients summed over an order's steps, or at first from proxy data of the server's.
Before there is any, importance is size.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

import numpy as np

from pleat.params import Params

Kind = Literal["size", "change", "gradient", "square", "taylor", "imp"]
KINDS: tuple[str, ...] = get_args(Kind)
OF_GRADIENTS = ("gradient", "square", "taylor")
START, SQUARES, IMP = "start", "squares", "imp"  # names of what a run keeps for these


def importance(kind: str, params: Params, kept: Mapping[str, Params]) -> Params:
    """Importance of `kind`, named and shaped as `params`. `kept`: the run's first weights, its mean squares, and
    the scores of pruning, of matrices and kernels alone."""
    if kind == IMP:
        return kept.get(IMP, params)
    start, squares = kept.get(START), kept.get(SQUARES)
    if kind == "change" and start is not None:
        return {n: np.abs(a - start[n]) for n, a in params.items()}
    if kind not in OF_GRADIENTS or squares is None:
        return params
    if kind == "square":
        return squares
    size = {n: np.sqrt(np.maximum(a, 0)) for n, a in squares.items()}
    return size if kind == "gradient" else {n: size[n] * np.abs(a) for n, a in params.items()}
