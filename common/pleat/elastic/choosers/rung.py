"""Rung: one size of a recipe's ladder, as the rates of width, depth and mask density that make it. Plain data."""

from __future__ import annotations

from typing import NamedTuple


class Rung(NamedTuple):
    """Rates in (0, 1], 1 = whole. `density`: share of the whole model's matrix entries that the masks hold."""

    width: float = 1.0
    depth: float = 1.0
    density: float = 1.0

    @property
    def label(self) -> str:
        """ "0.5" for a width alone, else "width 0.5 depth 0.67" and so on of the rates that are not 1; "1" for all."""
        if self.depth == self.density == 1:
            return f"{self.width:g}"
        return " ".join(f"{axis} {rate:g}" for axis, rate in zip(self._fields, self, strict=True) if rate != 1)
