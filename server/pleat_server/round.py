"""One round, pure: decide who trains what, write the orders, fold the reports, close. No sockets, clock or disk.

    decide -> orders -> (carrier) -> fold -> advance

The policy decides (`fleet.py`); `orders` depends on the state and the decisions alone, so that a resumed round sends
the same bytes. The other half of a round, from reports to the next model, is `folding.py` and
`closing.py`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Any

from pleat.codec.coding import build, uses_base
from pleat.codec.transform import Context
from pleat.elastic.choosers import Draw, Rung
from pleat.elastic.importance import importance
from pleat.elastic.portion import less
from pleat.elastic.selection import WHOLE, Selection, compose, embed, extract
from pleat.exchange.order import SQUARES, Kind, NetSpec, Order, OrderId, Part, Payload, Return, Work
from pleat.modelmap import ModelMap
from pleat.params import Params, dense
from pleat.recipes.recipe import Recipe
from pleat_server.plan.catalogue import Row, chosen, kept_back
from pleat_server.state import Holding, State, publish, seen_at, version


@dataclass(frozen=True)
class Setup:
    """What stays the same for a whole run. `kept`: named tensors of methods, such as scores that choosers rank by."""

    model: ModelMap
    net: NetSpec
    recipe: Recipe
    rows: tuple[Row, ...]
    kept: Mapping[str, Params] = field(default_factory=dict)

    @cached_property
    def personal(self) -> tuple[str, ...]:
        """The tensors that stay on the devices."""
        patterns = self.recipe.personal.tensors
        return tuple(t.name for t in self.model.tensors if any(fnmatchcase(t.name, p) for p in patterns))

    @cached_property
    def kept_back(self) -> tuple[str, ...]:
        """The tensors that devices do not return: personal ones, and statistics that are asked for by themselves."""
        return kept_back(self.model, self.recipe)

    @property
    def sizes(self) -> dict[Rung, Selection]:
        """Offered size -> its selection, largest first: what the global model is scored at."""
        return {row.rung: row.selection for row in self.rows}


@dataclass(frozen=True)
class Decisions:
    """Who trains which row of the catalogue in one round, and why; plain data, so that a resumed round repeats it."""

    round: int
    rows: Mapping[str, int]  # device -> row index
    idle: Mapping[str, str]  # device -> why it has nothing to do
    predicted_s: Mapping[str, float]
    policy: Any  # the policy's state after choosing
    diagnostics: Mapping[str, Any]

    def to_plain(self) -> dict[str, Any]:
        return {f: getattr(self, f) for f in self.__dataclass_fields__}

    @staticmethod
    def from_plain(plain: Mapping[str, Any]) -> Decisions:
        return Decisions(**plain)


def seed_of(seed: int, *what: object) -> int:
    """A 63-bit seed that is a function of its arguments alone."""
    text = "/".join(str(w) for w in (seed, *what))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def publication(setup: Setup, state: State) -> State:
    """The state with its current model published, where the downlink codes against earlier versions."""
    return publish(state) if any(uses_base(r.down) for r in setup.rows) else state


def orders(setup: Setup, state: State, decisions: Decisions) -> list[Order]:
    """The orders of one round, ranked by device name; a frame is coded once per distinct selection and base."""
    frames: dict[tuple[bytes, int, bytes, str], bytes] = {}
    out = []
    for rank, device in enumerate(sorted(decisions.rows)):
        row = setup.rows[decisions.rows[device]]
        selection, received = submodel_of(setup, state, row, device, decisions.round)
        holding, returns = state.holdings.get(device), setup.recipe.returns
        model = _model_payload(setup, state, received, device, row, decisions.round, frames)
        out.append(
            Order(
                id=OrderId(state.run, decisions.round, rank),
                device=device,
                kind=Kind.TRAIN,
                net=setup.net,
                selection=selection,
                nested=tuple(compose(setup.model, n, selection) for n in row.nested),
                work=_work(setup.recipe, state.seed),
                payloads=(model if received == selection else replace(model, selection=received),),
                returns=(Return(returns.payload, row.up, Part(returns.part)), *_squares(setup.recipe, decisions.round)),
                seed=seed_of(state.seed, "train", decisions.round, device),
                memory_bytes=row.memory_bytes,
                personal=setup.kept_back,
                known=holding.known if holding else frozenset(),
            )
        )
    return out


def _squares(recipe: Recipe, number: int) -> tuple[Return, ...]:
    """Squared gradients come back in the rounds after which something is made of them."""
    rule = recipe.rule
    due = any(every and number % every == 0 for every in (rule.reconfigure, rule.squares))
    part = Part.OUTSIDE if rule.reconfigure and rule.fit == "count" else Part.DENSE
    return (Return(SQUARES, rule.sends, part),) if due and number <= (rule.until or number) else ()


def submodel_of(setup: Setup, state: State, row: Row, device: str, number: int) -> tuple[Selection, Selection]:
    """What a device trains, and what of it the model's payload brings: not its personal tensors, once it has them,
    and not what lies outside masks that hold for the payload alone."""
    held = selection_of(setup, state, row, device, number)
    trained = Selection(held.kept, held.dropped) if setup.recipe.objective.dense else held
    received = less(setup.model, held, setup.personal) if setup.personal and device in state.holdings else held
    return trained, received


def selection_of(setup: Setup, state: State, row: Row, device: str, number: int) -> Selection:
    """The row's own selection; a fresh draw where the recipe redraws each round; or the masks the device came to."""
    rule, model, holding = setup.recipe.rule, setup.model, state.holdings.get(device)
    if number < rule.since:
        return WHOLE
    if rule.own and holding is not None and holding.own is not None:
        return compose(model, row.selection, holding.own)
    if not rule.redraw:
        return row.selection
    extras = {**setup.kept, **state.extras}
    rung, scores = rung_at(row.rung, rule.cubic, number), importance(rule.score, state.params, extras)
    return chosen(rule, model, rung, Draw(state.seed, number, device, scores, extras))


def rung_at(rung: Rung, rounds: int, number: int) -> Rung:
    """The rung with each of its rates as it is in round `number`."""
    return Rung(*(rate_at(rate, rounds, number) for rate in rung))


def rate_at(rate: float, rounds: int, number: int) -> float:
    """The rate in round `number` when it falls from 1 to `rate` over `rounds` rounds: r + (1 - r)(1 - t / T)^3."""
    return rate + (1 - rate) * (1 - min(1.0, (number - 1) / rounds)) ** 3 if rounds else rate


def sizes_of(setup: Setup, state: State) -> dict[Rung, Selection]:
    """Size -> the selection that the model is scored at, largest first. No draw of a size that is drawn anew is the
    model, so that the whole one is always scored too."""
    rungs = dict.fromkeys((Rung(), *setup.sizes)) if setup.recipe.rule.redraw else setup.sizes
    return {rung: size_of(setup, state, rung) for rung in rungs}


def size_of(setup: Setup, state: State, rung: Rung, first: Params | None = None) -> Selection:
    """The selection at which the model of today is scored and exported at a size, on offer or not; the whole model at
    all rates 1, unless that is on offer. A size that is drawn anew each round is the one that this model would give.

    `first`: the run's first weights, by which a fixed size not on offer is ranked where its chooser looks at weights.
    """
    rule, extras = setup.recipe.rule, {**setup.kept, **state.extras}
    if not rule.redraw:
        known = setup.sizes.get(rung)
        ranks = importance(rule.score, first, setup.kept) if first is not None else None
        return chosen(rule, setup.model, rung, Draw(state.seed, 0, "", ranks, setup.kept)) if known is None else known
    if rung == Rung() and rung not in setup.sizes:
        return WHOLE
    draw = Draw(state.seed, state.round, "", importance(rule.score, state.evaluated, extras), extras)
    return chosen(rule, setup.model, rung_at(rung, rule.cubic, max(1, state.round)), draw)


def rung_of(setup: Setup, size: str) -> Rung:
    """The size that is called `size`: rates by name, or a single one. That names the largest size on offer with this
    rate, of the first of width, depth and density by which the sizes on offer differ (width, if by none); else that
    rate alone. Raises UseError."""
    named, sizes = Rung.named(size), list(setup.sizes)
    if len(size.split()) > 1:
        return named
    rate = named.width
    if rate == 1 and setup.recipe.rule.redraw:
        return Rung()
    axis = next((i for i in range(len(Rung._fields)) if len({size[i] for size in sizes}) > 1), 0)
    return next((s for s in sizes if s[axis] == rate), Rung(**{Rung._fields[axis]: rate}))


def _work(recipe: Recipe, seed: int) -> Work:
    """An adjuster may want the run's first weights, which follow from the run's seed."""
    work = work_of(recipe)
    return replace(work, settings={**work.settings, "start": float(seed)}) if work.adjust else work


def work_of(recipe: Recipe) -> Work:
    t, o = recipe.training, recipe.objective
    terms = {"ensemble": float(o.ensemble), "dynamic": o.dynamic, "proximal": o.proximal}
    return Work(
        objective=recipe.objective.name,
        settings={**o.settings, **recipe.rule.settings, **{name: term for name, term in terms.items() if term}},
        epochs=t.epochs,
        batch=t.batch,
        rate=t.rate,
        momentum=t.momentum,
        decay=t.decay,
        clip=t.clip,
        scaler=recipe.objective.scaler,
        gate=recipe.objective.gate,
        adjust=recipe.rule.adjust,
    )


def _model_payload(
    setup: Setup,
    state: State,
    selection: Selection,
    device: str,
    row: Row,
    number: int,
    frames: dict[tuple[bytes, int, bytes, str], bytes],
) -> Payload:
    holding, coding = state.holdings.get(device), row.down
    known = holding is not None and uses_base(coding) and holding.version in state.published
    base_version = holding.version if holding and known else -1
    key = (selection.digest, base_version, holding.selection.digest if holding and known else b"", coding)
    if key not in frames:
        base = held_base(setup.model, state, holding, selection) if holding and known else None
        context = Context(setup.model, selection, number, 0, state.round, base)
        # a size that stays comes with its own statistics, by which the device scores it; the published version has none
        stays = not uses_base(coding) and not setup.recipe.rule.redraw
        params = seen_at(state.params, state.extras, row.rung) if stays else state.params
        transform = build(coding)
        frames[key], _ = transform.encode(extract(setup.model, selection, params), transform.init(context), context)
    return Payload("model", coding, frames[key], version=state.round, base=base_version)


def held_base(model: ModelMap, state: State, holding: Holding, selection: Selection) -> Params:
    """What the device can build of `selection` from what it holds: its published version, 0 where it held nothing."""
    published = version(state, holding.version)
    if holding.selection == selection:
        return extract(model, selection, published)
    own = dense(embed(model, holding.selection, extract(model, holding.selection, published)))
    return extract(model, selection, own)
