"""Choosers: model map + rate + draw -> selection, one family a file; this is the one table of their names.

`rate` lies in (0, 1], 1 = the whole model. It is the share of channels kept (prefix, random, rolling, inner,
channels), of blocks that can be spared (depth), of exits (depth-prefix, depth-own), of parameters (hyb), of what blocks
cost (balanced) or of matrix entries (magnitude and its kin). `stored` gives the run's mask
whatever the rate, and before there is one what magnitude gives.
"""

from __future__ import annotations

from pleat.elastic.choosers.channels import channels
from pleat.elastic.choosers.depth import depth
from pleat.elastic.choosers.draw import Chooser, Draw
from pleat.elastic.choosers.exits import depth_own, depth_prefix
from pleat.elastic.choosers.inner import balanced, hybrid, inner
from pleat.elastic.choosers.magnitude import magnitude, magnitude_erk, magnitude_global, sensitive, stored
from pleat.elastic.choosers.rung import Rung
from pleat.elastic.choosers.width import prefix, random, rolling, whole
from pleat.elastic.selection import Selection, compose
from pleat.errors import UseError, named
from pleat.modelmap import ModelMap

__all__ = ["CHOOSERS", "Chooser", "Draw", "Rung", "choose", "composed"]

CHOOSERS: dict[str, Chooser] = {
    "whole": whole,
    "prefix": prefix,
    "inner": inner,
    "hyb": hybrid,
    "balanced": balanced,
    "random": random,
    "rolling": rolling,
    "channels": channels,
    "depth": depth,
    "depth-prefix": depth_prefix,
    "depth-own": depth_own,
    "magnitude": magnitude,
    "magnitude-global": magnitude_global,
    "magnitude-erk": magnitude_erk,
    "sensitive": sensitive,
    "stored": stored,
}


def choose(name: str, model: ModelMap, rate: float, draw: Draw) -> Selection:
    """The selection that chooser `name` makes. Raises UseError for an unknown name or a rate outside (0, 1]."""
    chooser = named("chooser", name, CHOOSERS)
    if not 0 < rate <= 1:
        raise UseError(f"chooser {name!r}: the rate must lie in (0, 1], got {rate!r}; 0 would leave no channel")
    return chooser(model, rate, draw)


def composed(width: str, depth: str, mask: str, model: ModelMap, rung: Rung, draw: Draw) -> Selection:
    """What the three choosers all hold, each at the rung's rate; that of masks only where it is below 1."""
    selection = compose(model, choose(width, model, rung.width, draw), choose(depth, model, rung.depth, draw))
    return selection if rung.density == 1 else compose(model, selection, choose(mask, model, rung.density, draw))
