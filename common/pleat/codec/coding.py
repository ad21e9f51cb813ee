"""Codings by text: "raw", "bf16", "bf16-delta", "lloyd:3", "topk:0.05/lloyd:4", "topk:0.05/f32" ...

A coding is a chain of named links joined by "/": [low-rank:SHARE/][scr:TAU/][topk:SHARE/]VALUES. First comes what an
update is confined to (low-rank or random, `subspace.py`), whose coefficients the rest codes; then whole filters and
channels of little weight go, then entries, and last it says how values travel; entries that are 0 by then are left out.
Bits count the sign. A new link joins the table `LINKS`; nothing else here, and nothing that calls `build`, changes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import ceil, log2
from typing import Literal, TypeVar

from pleat.codec import blocks
from pleat.codec.frame import LEAST, frame
from pleat.codec.layout import Run, layout
from pleat.codec.links import bf16_delta, coded_values
from pleat.codec.select import kept, structured, topk, topk_each
from pleat.codec.subspace import Subspace, context_of, within
from pleat.codec.transform import Context, Transform, chain, identity
from pleat.elastic.selection import Selection
from pleat.errors import UseError, hint
from pleat.modelmap import ModelMap

N = TypeVar("N", int, float)

BF16_BITS = 11.6  # bf16 by planes: mantissas stay as they are, signs and exponents shrink
HEADERS = 12  # tags, fields and lengths of a block
SUBSPACE, FILTERS, ENTRIES, VALUES = range(4)  # what the links of a chain are about, in their order
CHANGE_BITS = 6.0  # difference of bf16 patterns to a base some steps away; 1.5 to 6 measured


@dataclass(frozen=True)
class Link:
    """One parsed link. `share`: of the matrices' entries kept (a selection); `bits`: what a kept value costs.
    `stage`: its place in a chain, in which stages rise and the last is VALUES."""

    name: str
    share: float | None = None
    bits: float = 0.0
    make: Callable[[float | None], Transform] = field(default=lambda share: identity())
    based: bool = False  # codes against the context's base
    stage: int = VALUES
    subspace: Subspace | None = None


def _topk(name: str, made: Callable[[float], Transform]) -> Callable[[str], Link]:
    def parse(argument: str) -> Link:
        share = _number(argument, float, name, f"the share of entries kept, above 0 and at most 1, as in {name}:0.05")
        if not 0 < share <= 1:
            raise UseError(f"coding link {name}:{argument}: the share of entries kept must be above 0 and at most 1")
        return Link(f"{name}:{share:g}", share=share, make=lambda _: made(share), stage=ENTRIES)

    return parse


def _scr(argument: str) -> Link:
    tau = _number(argument, float, "scr", "the least score of a filter or channel, from 0 and below 1, as in scr:0.1")
    if not 0 <= tau < 1:
        raise UseError(f"coding link scr:{argument}: the score up to which filters go must be from 0 and below 1")
    return Link(f"scr:{tau:g}", make=lambda _: structured(tau), stage=FILTERS)


def _confined(kind: Literal["low-rank", "random"]) -> Callable[[str], Link]:
    def parse(argument: str) -> Link:
        share = _number(argument, float, kind, f"the share of coefficients, above 0 and at most 1, as in {kind}:0.1")
        if not 0 < share <= 1:
            raise UseError(f"coding link {kind}:{argument}: the share of coefficients must be above 0 and at most 1")
        return Link(f"{kind}:{share:g}", stage=SUBSPACE, subspace=Subspace(kind, share))

    return parse


def _lloyd(argument: str) -> Link:
    bits = _number(argument, int, "lloyd", "bits a value with its sign, 1 to 8, as in lloyd:4")
    if not 1 <= bits <= 8:
        raise UseError(f"coding link lloyd:{argument}: bits a value, sign included, must be 1 to 8")

    def make(share: float | None) -> Transform:
        return coded_values(blocks.levels(bits), blocks.bf16(), share)

    return Link(f"lloyd:{bits}", bits=bits, make=make)


def _plain(
    name: str, bits: float, coder: Callable[[], blocks.ValueCoder], vectors: Callable[[], blocks.ValueCoder]
) -> Callable[[str], Link]:
    def parse(argument: str) -> Link:
        _no_argument(name, argument)
        return Link(name, bits=bits, make=lambda share: coded_values(coder(), vectors(), share))

    return parse


def _delta(argument: str) -> Link:
    _no_argument("bf16-delta", argument)
    return Link("bf16-delta", bits=BF16_BITS, make=lambda share: bf16_delta(), based=True)


LINKS: dict[str, Callable[[str], Link]] = {
    "low-rank": _confined("low-rank"),
    "random": _confined("random"),
    "scr": _scr,
    "topk": _topk("topk", topk),
    "topk-each": _topk("topk-each", topk_each),
    "lloyd": _lloyd,
    "raw": _plain("raw", 32, blocks.f32, blocks.f32),
    "f32": _plain("f32", 32, blocks.f32, blocks.bf16),
    "bf16": _plain("bf16", BF16_BITS, blocks.bf16, blocks.bf16),
    "bf16-delta": _delta,
}


def build(text: str) -> Transform:
    """The whole coding: Params in the submodel's shapes -> frame bytes -> Update, dense or `Sparse` per tensor.

    Raises UseError for an unknown link, a bad argument, or links that do not follow each other.
    """
    links = parse(text)
    name = "/".join(link.name for link in links)
    subspace, selecting, value = _parts(links)
    share = _share(selecting)
    first = [link.make(None) for link in selecting]
    if selecting and selecting[-1].stage < ENTRIES:
        first.append(topk(1.0))  # leaves out what is 0
    coded = chain(*first, value.make(share), frame(name, value.based))
    return within(subspace, coded) if subspace else coded


def _parts(links: Sequence[Link]) -> tuple[Subspace | None, list[Link], Link]:
    """What the coded values are confined to, what selects among them, and how they travel."""
    first = links[0].subspace
    return first, list(links[first is not None : -1]), links[-1]


def _share(selecting: Sequence[Link]) -> float | None:
    """Of the matrices' entries, the share that is kept at most; None where all are sent. Filters go by their weight, so
    how many stay is not known before."""
    return min((link.share for link in selecting if link.share is not None), default=1.0) if selecting else None


def uses_base(text: str) -> bool:
    """Whether the coding sends differences to the context's base. Raises UseError as `build` does."""
    return parse(text)[-1].based


def confined_to(text: str) -> Subspace | None:
    """What an update coded so is confined to, and its training with it. Raises UseError as `build` does."""
    return parse(text)[0].subspace


def lossless(text: str) -> bool:
    """Whether decoding gives back what was encoded, so that no error is left to feed back: of what is confined to a
    subspace, up to rounding. Raises UseError as `build` does."""
    _, selecting, value = _parts(parse(text))
    return not selecting and value.name == "raw"


def parse(text: str) -> list[Link]:
    """The links, the last of which says how values travel. Raises UseError."""
    links = [_link(part.strip(), text) for part in text.split("/")]
    *selecting, value = links
    if value.stage != VALUES:
        raise UseError(f"coding {text!r}: after {value.name} say how values travel, as in {value.name}/lloyd:4")
    if any(a.stage >= b.stage for a, b in pairwise(links)) or (selecting and value.based):
        raise UseError(
            f"coding {text!r}: links cannot follow each other so; write "
            f"[low-rank:SHARE/][scr:TAU/][topk:SHARE/]VALUES, as in topk:0.05/lloyd:4"
        )
    return links


def _link(part: str, text: str) -> Link:
    name, _, argument = part.partition(":")
    if name not in LINKS:
        raise UseError(f"coding {text!r}: unknown link {name!r}; {hint(name, sorted(LINKS))}")
    return LINKS[name](argument)


def _number(argument: str, kind: Callable[[str], N], name: str, expected: str) -> N:
    try:
        return kind(argument)
    except ValueError:
        raise UseError(f"coding link {name}:{argument}: expected {expected}") from None


def _no_argument(name: str, argument: str) -> None:
    if argument:
        raise UseError(f"coding link {name}:{argument}: {name} takes no argument")


def predicted_bytes(text: str, model: ModelMap, selection: Selection, has_base: bool = False) -> int:
    """Bytes of a frame for a submodel, by formula: kept x bits, positions at 1.02 H(share), tables and headers.

    A little high for updates that are trained, as their positions and levels are less even than a Gaussian's. A
    difference is taken to have no base, as for a device that joins, unless `has_base` says that the device holds a
    version a round or so old.
    """
    subspace, selecting, value = _parts(parse(text))
    ctx = Context(model, selection)
    at = layout(context_of(subspace, ctx) if subspace else ctx)
    bits = CHANGE_BITS if value.based and has_base else value.bits
    vector_bits = bits if value.based or value.name == "raw" else BF16_BITS
    keep = kept(_share(selecting) or 1.0, at.matrices.size)
    return LEAST + _run_bytes(at.vectors, at.vectors.size, vector_bits) + _run_bytes(at.matrices, keep, bits)


def _run_bytes(run: Run, keep: int, bits: float) -> int:
    segments = len(run.segments())
    if not run.size or not keep:
        return 2 * segments
    values = keep * bits / 8
    if bits <= 8:
        values += segments * 2 * min(2 ** (bits - 1), keep)
    elif bits < 16:  # bf16 in planes: the tables do not pay below some hundred values
        values = min(2 * keep, values + 70 * segments)
    share = keep / run.size
    positions = 0.0
    if share < 1:
        entropy = -(share * log2(share) + (1 - share) * log2(1 - share))
        positions = 1.02 * entropy * run.size / 8 + segments * min(40, 8 + keep / 4)
    return ceil(values + positions) + HEADERS * segments
