"""Skills: what an order may ask of a device by name, and the numbers that each of them takes.

A recipe that asks for another is refused before anything runs; the device's own tables hold what the names stand for.
"""

from __future__ import annotations

OBJECTIVES: dict[str, tuple[str, ...]] = {
    "cross_entropy": (),
    "distilled": ("distil", "temperature"),
    "exits": ("distil", "ramp"),
    "joint": ("total",),
    "masked": (),
    "nested_draw": ("distil",),
    "weighted_exits": ("distil", "since", "temperature"),
}
GATES: dict[str, tuple[str, ...]] = {"hard": (), "swat": ("sparsity",), "threshold": ()}
ADJUSTERS: dict[str, tuple[str, ...]] = {
    "heaviest": ("margin", "sparsity"),
    "regrow": ("after", "every", "share", "until"),
    "rewind": ("least", "prune", "target"),
    "shrink": ("distance", "least", "prune", "target"),
}
