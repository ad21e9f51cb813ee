"""The algebra of codings: a `Transform` is three pure functions, and transforms compose.

Laws (tests/laws/test_codec_algebra.py): `chain(a, b)` encodes as b after a and decodes as a after b, exactly as by
hand; chaining is associative and `identity()` is its neutral element. State is passed, never kept: `encode` returns
the next state beside the coded value, and `decode` needs none.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pleat.elastic.selection import Selection
from pleat.modelmap import ModelMap
from pleat.params import Params


@dataclass(frozen=True, eq=False)
class Context:
    """What both ends know of one value without sending it; a frame is bound to all of it.

    `base`: what both ends hold, in the submodel's shapes, for codings that send differences; missing tensors are 0.
    Its values are bf16 numbers: of others the upper half alone counts.
    `checked`: this frame passed every check before and lay safely since; its checksum is not computed again.
    """

    model: ModelMap
    selection: Selection
    round: int = 0
    seed: int = 0
    version: int = 0
    base: Params | None = None
    checked: bool = False


@dataclass(frozen=True)
class Transform:
    """`init(ctx) -> state`; `encode(value, state, ctx) -> (coded, next state)`; `decode(coded, ctx) -> value`."""

    init: Callable[[Context], Any]
    encode: Callable[[Any, Any, Context], tuple[Any, Any]]
    decode: Callable[[Any, Context], Any]


def stateless(encode: Callable[[Any, Context], Any], decode: Callable[[Any, Context], Any]) -> Transform:
    """A transform without state, from two functions of (value, ctx)."""
    return Transform(lambda ctx: (), lambda value, state, ctx: (encode(value, ctx), state), decode)


def identity() -> Transform:
    """Leaves every value as it is."""
    return stateless(lambda value, ctx: value, lambda coded, ctx: coded)


def chain(*links: Transform) -> Transform:
    """Encode through `links` from left to right, decode from right to left; the state is the tuple of theirs."""

    def init(ctx: Context) -> Any:
        return tuple(link.init(ctx) for link in links)

    def encode(value: Any, state: Any, ctx: Context) -> tuple[Any, Any]:
        after = []
        for link, before in zip(links, state, strict=True):
            value, next_state = link.encode(value, before, ctx)
            after.append(next_state)
        return value, tuple(after)

    def decode(coded: Any, ctx: Context) -> Any:
        for link in reversed(links):
            coded = link.decode(coded, ctx)
        return coded

    return Transform(init, encode, decode)
