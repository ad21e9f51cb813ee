"""The catalogue: every submodel a recipe offers, with what it costs in MACs, bytes and memory.

A row is one width (or mask density) of the recipe's ladder at one coding; rows fall in width, then keep, then bits, so
row 0 is the largest. Costs include the extra passes of the objective. Nothing here measures: predictions in seconds
are made from a row by `cost.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from pleat.codec.coding import lossless, predicted_bytes, uses_base
from pleat.codec.masks import write_mask
from pleat.elastic import size
from pleat.elastic.choosers import Draw, Rung, composed
from pleat.elastic.portion import less, outside
from pleat.elastic.selection import WHOLE, Selection, within
from pleat.errors import UseError
from pleat.exchange.order import STATISTICS
from pleat.exchange.returned import returned_model
from pleat.modelmap import ModelMap
from pleat.params import Params
from pleat.recipes.recipe import Recipe, Rule

BACKWARD = 3.0  # forward + backward cost about three times the forward pass
ENVELOPE = 64  # bytes of an order or report around its frames: ids, selection, work, seconds


@dataclass(frozen=True)
class Worth:
    """What a row scored on the proxy samples held out, so many of them. `loss`: mean cross-entropy."""

    accuracy: float
    loss: float
    samples: int


@dataclass(frozen=True)
class Row:
    """One submodel on offer. `rung`: the ladder's rates; `density`: share of the model's entries held (1 = all)."""

    index: int
    rung: Rung
    density: float
    keep: float
    bits: int
    selection: Selection
    nested: tuple[Selection, ...]
    params: int
    macs: float  # forward + backward MACs a sample, the objective's passes included
    own_macs: float  # the same for one pass of the own size alone, as MEASURE times it
    passes: float  # forward-backward passes a batch takes
    up: str
    down: str
    up_bytes: int
    down_bytes: int
    memory_bytes: int  # above the trainer when it holds no model
    beside_up: int = 0  # bytes of what is asked beside the training, in rounds in which something is
    beside_down: int = 0
    worth: Worth | None = None  # where it was scored before the run


@dataclass(frozen=True)
class _Size:
    """One rung of the ladder, before it is crossed with the codings."""

    rung: Rung
    selection: Selection
    params: int
    own_macs: float
    activations: int


# objective -> (passes, MACs) of a batch, from the MACs of the own size and of the smaller ones it trains along.
Passes = Callable[[float, Sequence[float], Mapping[str, float]], tuple[float, float]]


def _own(own: float, smaller: Sequence[float], settings: Mapping[str, float]) -> tuple[float, float]:
    return 1.0, own


def _all(own: float, smaller: Sequence[float], settings: Mapping[str, float]) -> tuple[float, float]:
    return 1.0 + len(smaller), own + sum(smaller)


def _own_and_one(own: float, smaller: Sequence[float], settings: Mapping[str, float]) -> tuple[float, float]:
    return (2.0, own + sum(smaller) / len(smaller)) if smaller else (1.0, own)


def _one_drawn(own: float, smaller: Sequence[float], settings: Mapping[str, float]) -> tuple[float, float]:
    sizes = 1 + len(smaller)
    if settings.get("distil", 0.0) > 0:  # a smaller draw trains the own size too
        return 2.0 - 1.0 / sizes, own + sum(smaller) / sizes
    return 1.0, (own + sum(smaller)) / sizes


PASSES: dict[str, Passes] = {"joint": _all, "distilled": _own_and_one, "nested_draw": _one_drawn}


def catalogue(
    model: ModelMap, recipe: Recipe, seed: int, params: Params | None = None, kept: Mapping[str, Params] | None = None
) -> tuple[Row, ...]:
    """Every row that `recipe` offers for `model`, largest first; `params` are needed by choosers that look at weights,
    `kept`, what the server prepared for the run, by those that look at gradients.

    Raises UseError if a coding or chooser is unknown, a rate empties a group, or several keeps or bits are offered
    but `returns.up` has no place for them.
    """
    draw = Draw(seed, 0, "", params, kept or {})
    sizes = [_size(model, recipe, rung, draw) for rung in recipe.holds.rungs]
    if recipe.holds.crossed:
        sizes.sort(key=lambda s: (-s.own_macs, -s.params))
    whole = sum(_entries(t.shape) for t in model.tensors)
    rows: list[Row] = []
    for place, own in enumerate(sizes):
        smaller = _smaller(model, recipe, own, sizes[place + 1 :])
        for keep, bits, up in _codings(recipe):
            rows.append(_row(len(rows), model, recipe, own, smaller, whole, (keep, bits, up)))
    return tuple(rows)


def chosen(rule: Rule, model: ModelMap, rung: Rung, draw: Draw) -> Selection:
    """The rule's selection of a rung."""
    return composed(rule.chooser, rule.depth, rule.mask, model, rung, draw)


def _size(model: ModelMap, recipe: Recipe, rung: Rung, draw: Draw) -> _Size:
    selection = chosen(recipe.rule, model, rung, draw)
    return _Size(
        rung,
        selection,
        size.count(model, selection),
        BACKWARD * size.macs(model, selection),
        size.activation_floats(model, selection),
    )


def _smaller(model: ModelMap, recipe: Recipe, own: _Size, below: Sequence[_Size]) -> list[_Size]:
    if not recipe.objective.nested:
        return []
    for other in below:
        if not within(model, other.selection, own.selection):
            raise UseError(
                f"recipe {recipe.name}: objective.nested needs sizes that lie within each other, but chooser "
                f'{recipe.rule.chooser!r} draws size {other.rung.label} outside {own.rung.label}; use "prefix", '
                '"inner" or "balanced"'
            )
    return list(below)


def _codings(recipe: Recipe) -> list[tuple[float, int, str]]:
    returns = recipe.returns
    for mark, offered in (("{keep}", returns.keeps), ("{bits}", returns.bits)):
        if len(offered) > 1 and mark not in returns.up:
            key = mark.strip("{}") + "s" * (mark == "{keep}")
            raise UseError(
                f"recipe {recipe.name}: returns.{key} offers {len(offered)} values, but returns.up "
                f"{returns.up!r} has no {mark} to put them"
            )
    up = "/".join(filter(None, (recipe.objective.subspace, returns.up)))
    keeps, bits = sorted(set(returns.keeps), reverse=True), sorted(set(returns.bits), reverse=True)
    return [(k, b, up.replace("{keep}", f"{k:g}").replace("{bits}", str(b))) for k in keeps for b in bits]


def _row(
    index: int,
    model: ModelMap,
    recipe: Recipe,
    own: _Size,
    smaller: Sequence[_Size],
    whole: int,
    coding: tuple[float, int, str],
) -> Row:
    keep, bits, up = coding
    cost = PASSES.get(recipe.objective.name, _own)
    passes, macs = cost(own.own_macs, [s.own_macs for s in smaller], recipe.objective.settings)
    back, sent = _exchanged(model, recipe, own.selection)
    statistics = _statistics(model, recipe, own.selection)
    bits_chosen = sum(_entries(t.shape) for t in model.tensors) // 8 if recipe.returns.part == "chosen" else 0
    up_bytes = ENVELOPE + predicted_bytes(up, model, back) + bits_chosen  # a bit an entry at most
    up_bytes += _gradients(model, recipe.rule, own.selection)
    masks = sum(len(write_mask(m)) for m in own.selection.masks.values())  # new ones; else 32 bytes
    down_bytes = ENVELOPE + predicted_bytes(recipe.returns.down, model, sent) + masks
    return Row(
        index=index,
        rung=own.rung,
        density=own.params / whole,
        keep=keep,
        bits=bits,
        selection=own.selection,
        nested=tuple(s.selection for s in smaller),
        params=own.params,
        macs=macs,
        own_macs=own.own_macs,
        passes=passes,
        up=up,
        down=recipe.returns.down,
        up_bytes=up_bytes,
        down_bytes=down_bytes,
        memory_bytes=_memory(model, recipe, own, up) + up_bytes + down_bytes,
        beside_up=ENVELOPE + statistics if statistics else 0,
        beside_down=ENVELOPE + predicted_bytes(asked_in(recipe.returns.down), model, sent) if statistics else 0,
    )


def kept_back(model: ModelMap, recipe: Recipe) -> tuple[str, ...]:
    """Tensors that devices do not return: personal ones, and running statistics that are asked for by themselves."""
    patterns, asked = recipe.personal.tensors, recipe.objective.statistics > 0
    return tuple(
        t.name for t in model.tensors if any(fnmatchcase(t.name, p) for p in patterns) or (asked and t.role == "buffer")
    )


def asked_in(down: str) -> str:
    """How a model travels that is asked about beside the training: as others do, but against no version held."""
    return "bf16" if uses_base(down) else down


def _statistics(model: ModelMap, recipe: Recipe, own: Selection) -> int:
    """Bytes of running statistics at most, where the recipe asks for them and the net has any: of all sizes."""
    buffers = returned_model(model, STATISTICS)
    if not recipe.objective.statistics or not buffers.tensors:
        return 0
    return len(recipe.holds.rungs) * predicted_bytes("raw", buffers, Selection(own.kept, own.dropped))


def _gradients(model: ModelMap, rule: Rule, own: Selection) -> int:
    """Bytes of squared gradients, in the rounds in which a device sends them."""
    if not (rule.reconfigure or rule.squares):
        return 0
    dense = Selection(own.kept, own.dropped)
    part = outside(model, dense, own) if rule.reconfigure and rule.fit == "count" else dense
    return predicted_bytes(rule.sends, model, part)


def _exchanged(model: ModelMap, recipe: Recipe, own: Selection) -> tuple[Selection, Selection]:
    """What a row sends back and is sent in the dearest of its rounds: the whole model where the rate begins at 1, and
    personal tensors once, down. A budget that holds must hold in that round too."""
    rule, returns = recipe.rule, recipe.returns
    grows = rule.reconfigure > 0 and rule.fit == "seconds"
    sent = WHOLE if rule.since > 1 or rule.cubic or rule.own or grows else own
    back = outside(model, WHOLE, own) if returns.part == "outside" and sent is not WHOLE else sent
    personal = kept_back(model, recipe)
    return (less(model, back, personal) if personal else back), sent


def _memory(model: ModelMap, recipe: Recipe, own: _Size, up: str) -> int:
    """Bytes above the empty trainer (policy.md 4.3): dense weights, gradients, momentum, what was received, residual.

    A mask shrinks no tensor, so it costs the dense sizes and its bits. Objectives of several sizes run one graph at a
    time, so activations are those of the largest.
    """
    dense, bits = size.allocated(model, own.selection), sum(m.size for m in own.selection.masks.values()) // 8
    copies = 3 + (recipe.training.momentum > 0) + (not lossless(up))
    copies += (recipe.objective.dynamic + recipe.objective.proximal > 0) + 2 * (recipe.objective.dynamic > 0)
    return 4 * copies * dense + bits + 4 * own.activations * recipe.training.batch


def _entries(shape: Sequence[int]) -> int:
    out = 1
    for n in shape:
        out *= n
    return out
