"""A method is six choices (elastic.md section 1), and a recipe is a TOML file of them, validated before anything runs.

The six are the tables `holds`, `rule`, `objective`, `returns`, `fold` and `personal`; `training`, `server` and `plan`
hold what every method needs. A recipe may `extend` another by name or path. A key that is unknown, out of its range or
contradicts another is refused with its line and the nearest valid one. Functions that cut, code, ship, train and fold
know no recipe by name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import msgspec

from pleat.elastic.importance import OF_GRADIENTS, Kind
from pleat.errors import UseError
from pleat.recipes.source import Source, merge, names, nearest, place, sources

__all__ = ["Recipe", "load", "names"]


class Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of all recipe tables: frozen, and closed to unknown keys."""


class Holds(Table, frozen=True):
    """1. What a device holds: the ladder of rows on offer. `widths`: channel rates in (0, 1], largest first.
    `scaled_start`: scale the first weights so that every size begins with activations of the usual strength."""

    widths: tuple[float, ...] = (1.0,)
    scaled_start: bool = False


class Rule(Table, frozen=True):
    """2. The rule that picks it. `chooser`: an entry of `elastic/choosers`; `redraw`: anew each round, or fixed.
    `since`: the first round in which it applies, the whole model before; `cubic`: rounds over which the rate falls from
    1 to the row's, fast at first. `adjust`: how the device changes its masks, an entry of its adjusters, with
    `settings`; `own`: each device goes on from the masks it came to, else all from the server's. `reconfigure`: rounds
    after which the server fits its mask to squared gradients and measured seconds, each time, 0 = never; `free`: the
    share of smallest weights that may then go, halved every `half` rounds. `score`: what entries or channels are ranked
    by (`elastic/importance.py`); `squares`: rounds after which devices send squared gradients, each time, 0 = never."""

    chooser: str = "whole"
    redraw: bool = False
    since: int = 1
    cubic: int = 0
    adjust: str = ""
    own: bool = False
    reconfigure: int = 0
    free: float = 0.3
    half: float = 10000.0
    score: Kind = "size"
    squares: int = 0
    settings: dict[str, float] = {}


class Objective(Table, frozen=True):
    """3. What is trained. `name`: an entry of the device's objectives; `settings`: its numbers; `nested`: train along
    the ladder's smaller rows too. `gate`: how weights enter the net in training, an entry of the device's gates.
    `scaler`: divide what a cut layer puts out by the share of it that is held. `dense`: train what the masks leave out
    too, from 0."""

    name: str = "cross_entropy"
    nested: bool = False
    gate: str = ""
    scaler: bool = False
    dense: bool = False
    settings: dict[str, float] = {}


class Returns(Table, frozen=True):
    """4. What comes back and how it is coded; `up` and `down` are codec chains. `keeps`: shares of an update's entries
    on offer as rows, replacing `{keep}` in `up`; `bits` likewise `{bits}`. `part`: the own submodel, what lay outside
    the masks of what was received, or the masks that the device chose."""

    payload: str = "update"
    part: Literal["own", "outside", "chosen"] = "own"
    up: str = "raw"
    down: str = "raw"
    keeps: tuple[float, ...] = (1.0,)
    bits: tuple[int, ...] = (32,)


class FoldChoice(Table, frozen=True):
    """5. Fill and average: step = sum p_k delta_k / W^exponent (1: coverage, 0: residual). `weights`: p_k by samples or
    equal. `rows`: leave rows of classes absent on a device out of its coverage. `clears`: what is set to 0 before the
    step is added: nothing, entries that no device was sent, or also those that none returned."""

    exponent: float = 1.0
    fill: Literal["update", "zero"] = "update"
    clears: Literal["nothing", "unsent", "unreturned"] = "nothing"
    weights: Literal["samples", "equal"] = "samples"
    rows: bool = False


class Personal(Table, frozen=True):
    """6. What stays on the device: glob patterns of tensor names, neither sent nor averaged."""

    tensors: tuple[str, ...] = ()


class Training(Table, frozen=True):
    """Local training: `rate` is the learning rate of SGD with `momentum`; `clip` bounds a batch's gradient, 0 = off."""

    epochs: int = 2
    batch: int = 32
    rate: float = 0.05
    momentum: float = 0.9
    decay: float = 0.0
    clip: float = 0.0


class Server(Table, frozen=True):
    """Server optimiser (v = momentum v + step; model += rate v) and the decay of the averaged copy (0 = none)."""

    rate: float = 1.0
    momentum: float = 0.0
    average: float = 0.0
    quorum: float = 1.0  # share of the cohort whose reports close a round before the deadline
    deadline_s: float = 0.0  # 0: from the policy's predicted times
    cohort: float = 1.0  # share of connected devices drawn each round
    least: int = 1  # devices to wait for before a round is planned


class Plan(Table, frozen=True):
    """Who trains which row. `policy`: sweep, ducb, lookup or fixed; `settings`: its numbers. `limits`: rows that break
    a device's budgets are not offered to it; without (an upper reference) only the device's own check of memory stands.
    """

    policy: str = "sweep"
    limits: bool = True
    settings: dict[str, float] = {}


class Recipe(Table, frozen=True):
    """`saves`: of what a device needs less than under FedAvg, at least at its smallest size; `costs`: what for."""

    name: str = ""
    summary: str = ""
    paper: str = ""
    saves: tuple[Literal["compute", "memory", "down", "up"], ...] = ()
    costs: str = ""
    extends: str = ""
    holds: Holds = Holds()
    rule: Rule = Rule()
    objective: Objective = Objective()
    returns: Returns = Returns()
    fold: FoldChoice = FoldChoice()
    personal: Personal = Personal()
    training: Training = Training()
    server: Server = Server()
    plan: Plan = Plan()
    models: dict[str, dict[str, Any]] = {}  # per net name: tables laid over this recipe ("tiny nets: joint")


def load(name: str, *, model: str = "", overrides: dict[str, Any] | None = None) -> Recipe:
    """The recipe called `name`, or in the file `name`, as it applies to the net `model`, with `overrides` laid on top.

    Raises UseError, naming the file, the line, the key and the nearest valid one.
    """
    files, raw = sources(name), dict[str, Any]()
    for source in files:
        _known(source.raw, source)
        raw = merge(raw, source.raw)
    raw = merge(raw, raw.get("models", {}).get(model, {}))
    if overrides:
        laid = Source(f"{name} with --set", "", overrides)
        _known(overrides, laid)
        files, raw = [*files, laid], merge(raw, overrides)
    try:
        recipe = msgspec.convert(raw, Recipe)
    except msgspec.ValidationError as error:
        told = str(error)
        key = told.rpartition("$.")[2].rstrip("`").partition("[")[0]
        raise UseError(f"recipe {_place(files, raw, key, model)}: {told}") from None
    _check(recipe, lambda key: _place(files, raw, key, model))
    return recipe


def _place(files: list[Source], raw: dict[str, Any], key: str, model: str) -> str:
    """Where a value of the merged recipe comes from: the command line, what the net lays on top, or the recipe."""
    table, _, last = key.partition(".")
    if files[-1].text == "" and last in (files[-1].raw.get(table) or {}):
        return files[-1].where
    laid = raw.get("models", {}).get(model, {}).get(table, {})
    return place(files, f"models.{model}.{key}" if last in laid else key)


def _known(raw: dict[str, Any], source: Source, table: str = "", prefix: str = "") -> None:
    """Refuse the first unknown key of a file, in what it says for single nets too."""
    for key, value in raw.items():
        if key not in _keys(table):
            where = place([source], prefix + key)
            raise UseError(f"recipe {where}: unknown key {prefix + key!r}; {nearest(key, table, _keys)}")
        if not table and key == "models" and isinstance(value, dict):
            for net, laid in value.items():
                if isinstance(laid, dict):
                    _known(laid, source, "", f"models.{net}.")
        elif not table and _keys(key) and isinstance(value, dict):
            _known(value, source, key, f"{prefix}{key}.")


def _keys(table: str) -> tuple[str, ...]:
    """The keys of a table, or of the recipe itself for ""; none for what is no table."""
    if not table:
        return Recipe.__struct_fields__
    kind = next((f.type for f in msgspec.structs.fields(Recipe) if f.name == table), None)
    return kind.__struct_fields__ if isinstance(kind, type) and issubclass(kind, Table) else ()


def _check(recipe: Recipe, where: Callable[[str], str]) -> None:
    def need(good: bool, key: str, expected: str, got: object) -> None:
        if not good:
            raise UseError(f"recipe {where(key)}: {key} must be {expected}, got {got!r}")

    widths, t, s = recipe.holds.widths, recipe.training, recipe.server
    falling = bool(widths) and list(widths) == sorted(set(widths), reverse=True)
    need(falling and all(0 < w <= 1 for w in widths), "holds.widths", "rates in (0, 1], falling", widths)
    need(all(0 < k <= 1 for k in recipe.returns.keeps), "returns.keeps", "shares in (0, 1]", recipe.returns.keeps)
    need(0 <= recipe.fold.exponent <= 1, "fold.exponent", "in [0, 1]", recipe.fold.exponent)
    need(recipe.rule.since >= 1, "rule.since", "a round from 1", recipe.rule.since)
    need(recipe.rule.squares >= 0, "rule.squares", "0 (never) or a number of rounds", recipe.rule.squares)
    need(recipe.rule.reconfigure >= 0, "rule.reconfigure", "0 (never) or a number of rounds", recipe.rule.reconfigure)
    need(0 <= recipe.rule.free <= 1, "rule.free", "in [0, 1]", recipe.rule.free)
    need(recipe.rule.half > 0, "rule.half", "above 0 rounds", recipe.rule.half)
    need(recipe.rule.cubic >= 0, "rule.cubic", "0 (off) or a number of rounds", recipe.rule.cubic)
    need(t.epochs >= 1, "training.epochs", "at least 1", t.epochs)
    need(t.batch >= 1, "training.batch", "at least 1", t.batch)
    need(t.rate > 0, "training.rate", "above 0", t.rate)
    need(0 <= t.momentum < 1, "training.momentum", "in [0, 1)", t.momentum)
    need(t.clip >= 0, "training.clip", "0 (off) or more", t.clip)
    need(0 <= s.momentum < 1, "server.momentum", "in [0, 1)", s.momentum)
    need(0 <= s.average < 1, "server.average", "in [0, 1)", s.average)
    need(0 < s.quorum <= 1, "server.quorum", "in (0, 1]", s.quorum)
    need(0 < s.cohort <= 1, "server.cohort", "in (0, 1]", s.cohort)
    need(s.deadline_s >= 0, "server.deadline_s", "0 (from the plan) or more seconds", s.deadline_s)
    _consistent(recipe, where)


def _consistent(recipe: Recipe, where: Callable[[str], str]) -> None:
    """Refuse keys of which one takes away the other's meaning."""

    def clash(both: bool, key: str, why: str) -> None:
        if both:
            raise UseError(f"recipe {where(key)}: {key} contradicts {why}")

    rule, fold, holds = recipe.rule, recipe.fold, recipe.holds
    clash(
        fold.fill == "zero" and fold.exponent != 1,
        "fold.exponent",
        f'fold.fill = "zero", which has no exponent; remove it, or write fill = "update" (exponent {fold.exponent:g})',
    )
    clash(
        rule.cubic > 0 and not rule.redraw,
        "rule.cubic",
        "rule.redraw = false, under which no rate changes; write redraw = true, or remove cubic",
    )
    clash(
        rule.reconfigure > 0 and rule.chooser != "stored",
        "rule.reconfigure",
        f'rule.chooser = "{rule.chooser}", which does not hold the mask that it makes; write chooser = "stored"',
    )
    clash(
        rule.score in OF_GRADIENTS and not rule.squares,
        "rule.score",
        "rule.squares = 0, under which no gradient ever comes; write squares = 1, or a score of weights alone",
    )
    clash(
        rule.own and rule.redraw,
        "rule.own",
        "rule.redraw = true: the masks are either the device's own or drawn anew; remove one of them",
    )
    clash(
        rule.chooser == "whole" and holds.widths != (1.0,),
        "holds.widths",
        'rule.chooser = "whole", which knows one size; write widths = [1.0], or another chooser such as "prefix"',
    )
