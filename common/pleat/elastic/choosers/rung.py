"""Rung: one size of a recipe's ladder, as the rates of width, depth and mask density that make it. Plain data."""

from __future__ import annotations

from typing import NamedTuple

from pleat.errors import UseError


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

    @staticmethod
    def named(label: str) -> Rung:
        """The rung that is called `label`. Raises UseError for words and rates that no label has."""
        words = label.split()
        if len(words) == 1:
            words = ["width", *words]
        axes, rates = words[::2], words[1::2]
        try:
            found = Rung(**{axis: float(rate) for axis, rate in zip(axes, rates, strict=True)})
        except (TypeError, ValueError):
            found = Rung(0.0)
        if not words or len(set(axes)) < len(axes) or not all(0 < rate <= 1 for rate in found):
            raise UseError(
                f"size {label!r}: expected a rate in (0, 1], such as 0.5, or rates by name as a run prints them, such "
                "as 'depth 0.67 density 0.33'"
            )
        return found
