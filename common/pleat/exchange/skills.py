"""Skills: what an order may ask of a device by name.

A recipe that asks for another is refused before anything runs; the device's own tables hold what the names stand for.
"""

from __future__ import annotations

OBJECTIVES = ("cross_entropy", "distilled", "exits", "joint", "masked", "nested_draw", "weighted_exits")
GATES = ("hard", "swat", "threshold")
ADJUSTERS = ("heaviest", "regrow", "rewind", "shrink")
