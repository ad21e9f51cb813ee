"""Lengths: sizes that a forward reads from its values, as numbers that remember where they come from.

A forward may use sizes for anything: to shape a view, to count in a loop, to scale an attention. Those that only shape
values follow a smaller net by themselves; those that are computed with, or compared with a number written in the net,
would not. So every size read is a `Length`, and each use that is not harmless is noted in the `Reads` of the trace;
the walk then freezes the axes concerned.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from torch import fx

Source = tuple[fx.Node, int]  # a value and one of its axes


@dataclass
class Reads:
    """`told`: axes whose length a forward has computed with or compared with a number. `compared`: pairs of lengths it
    compared with each other."""

    told: list[Source] = field(default_factory=list)
    compared: list[tuple[Length, Length]] = field(default_factory=list)


class Length(int):
    """`share` times the product of the lengths of the axes `sources`."""

    sources: tuple[Source, ...]
    share: Fraction
    reads: Reads

    @staticmethod
    def of(node: fx.Node, axis: int, length: int, reads: Reads) -> Length:
        return Length._made(length, ((node, axis),), Fraction(1), reads)

    @staticmethod
    def _made(value: int, sources: tuple[Source, ...], share: Fraction, reads: Reads) -> Length:
        out = Length(value)
        out.sources, out.share, out.reads = sources, share, reads
        return out

    def tell(self) -> int:
        """The plain number; from here on nobody knows what becomes of it."""
        self.reads.told += self.sources
        return int.__add__(self, 0)

    def _times(self, other: Any) -> Any:
        if isinstance(other, Length):
            value = int.__mul__(self, other)
            return Length._made(value, self.sources + other.sources, self.share * other.share, self.reads)
        if type(other) is int:
            return Length._made(int.__mul__(self, other), self.sources, self.share * other, self.reads)
        return self.tell() * other

    __mul__ = __rmul__ = _times

    def __floordiv__(self, other: Any) -> Any:
        if type(other) is int and other > 0 and int.__mod__(self, other) == 0:
            return Length._made(int.__floordiv__(self, other), self.sources, self.share / other, self.reads)
        return self.tell() // _plain(other)

    def _equal(self, other: Any, compare: Callable[[Any, Any], bool]) -> Any:
        if isinstance(other, Length):
            self.reads.compared.append((self, other))
            return compare(int.__add__(self, 0), int.__add__(other, 0))
        return compare(self.tell(), other)

    def __eq__(self, other: object) -> Any:
        return self._equal(other, operator.eq)

    def __ne__(self, other: object) -> Any:
        return self._equal(other, operator.ne)

    __hash__ = int.__hash__


def _plain(value: Any) -> Any:
    return value.tell() if isinstance(value, Length) else value


def _telling(name: str) -> Callable[..., Any]:
    plain = getattr(int, name)

    def told(self: Length, *others: Any) -> Any:
        return plain(self.tell(), *map(_plain, others))

    return told


_TELLING = (
    "__add__ __radd__ __sub__ __rsub__ __truediv__ __rtruediv__ __rfloordiv__ __mod__ __rmod__ __pow__ __rpow__ "
    "__divmod__ __rdivmod__ __neg__ __float__ __int__ __bool__ __lt__ __le__ __gt__ __ge__ __round__ __and__ __or__"
)
for _name in _TELLING.split():
    setattr(Length, _name, _telling(_name))


class Sizes(tuple[Length, ...]):
    """A shape whose entries are `Length`s."""

    def numel(self) -> Any:
        out: Any = 1
        for n in self:
            out = n * out
        return out

    def __getitem__(self, index: Any) -> Any:
        found = super().__getitem__(index)
        return Sizes(found) if isinstance(index, slice) else found
