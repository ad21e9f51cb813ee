"""A method is six choices (elastic.md section 1), and a recipe is a TOML file of them, validated before anything runs.

The six are the tables `holds`, `rule`, `objective`, `returns`, `fold` and `personal`; `training`, `server` and `plan`
hold what every method needs. A recipe may `extend` another by name or path. An unknown key is refused with the nearest
valid one. Functions that cut, code, ship, train and fold know no recipe by name.
"""

from __future__ import annotations

import difflib
import sys
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import msgspec

from pleat.errors import UseError

if sys.version_info >= (3, 11):
    import tomllib
else:  # pragma: no cover - exercised on Python 3.10
    import tomli as tomllib


class Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of all recipe tables: frozen, and closed to unknown keys."""


class Holds(Table, frozen=True):
    """1. What a device holds: the ladder of rows on offer. `widths`: channel rates in (0, 1], largest first.
    `scaled_start`: scale the first weights so that every size begins with activations of the usual strength."""

    widths: tuple[float, ...] = (1.0,)
    scaled_start: bool = False


class Rule(Table, frozen=True):
    """2. The rule that picks it. `chooser`: an entry of `elastic/choosers`; `redraw`: anew each round, or fixed."""

    chooser: str = "whole"
    redraw: bool = False


class Objective(Table, frozen=True):
    """3. What is trained. `name`: an entry of the device's objectives; `settings`: its numbers; `nested`: train along
    the ladder's smaller rows too. `passes`: forward-backward passes a batch costs, relative to the own size alone."""

    name: str = "cross_entropy"
    nested: bool = False
    settings: dict[str, float] = {}


class Returns(Table, frozen=True):
    """4. What comes back and how it is coded; `up` and `down` are codec chains. `keeps`: shares of an update's entries
    on offer as rows, replacing `{keep}` in `up`; `bits` likewise `{bits}`."""

    payload: str = "update"
    up: str = "raw"
    down: str = "raw"
    keeps: tuple[float, ...] = (1.0,)
    bits: tuple[int, ...] = (32,)


class FoldChoice(Table, frozen=True):
    """5. Fill and average: step = sum p_k delta_k / W^exponent (1: coverage, 0: residual). `weights`: p_k by samples or
    equal. `rows`: leave rows of classes absent on a device out of its coverage."""

    exponent: float = 1.0
    fill: Literal["update", "zero"] = "update"
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
    name: str = ""
    summary: str = ""
    paper: str = ""
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


def names() -> list[str]:
    """The recipes that come with pleat."""
    return sorted(p.name[:-5] for p in resources.files("pleat.recipes").iterdir() if p.name.endswith(".toml"))


def load(name: str, *, model: str = "", overrides: dict[str, Any] | None = None) -> Recipe:
    """The recipe called `name`, or in the file `name`, as it applies to the net `model`, with `overrides` laid on top.

    Raises UseError, naming the file, the key and the nearest valid one.
    """
    raw = _raw(name, seen=())
    raw = _merge(raw, raw.get("models", {}).get(model, {}))
    recipe = _convert(_merge(raw, overrides or {}), name)
    _check(recipe, name)
    return recipe


def _raw(name: str, seen: tuple[str, ...]) -> dict[str, Any]:
    if name in seen:
        raise UseError(f"recipe {name!r} extends itself through {' -> '.join(seen)}; remove one `extends`")
    text, where = _text(name)
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UseError(f"recipe {where}: not valid TOML: {error}") from None
    if raw.get("extends"):
        raw = _merge(_raw(str(raw["extends"]), (*seen, name)), raw)
    return raw


def _text(name: str) -> tuple[str, str]:
    if name.endswith(".toml"):
        path = Path(name)
        if not path.is_file():
            raise UseError(f"no recipe file {name}; recipes by name: {', '.join(names())}")
        return path.read_text(encoding="utf-8"), name
    if name not in names():
        near = difflib.get_close_matches(name, names(), 1)
        hint = f"; did you mean {near[0]!r}?" if near else f"; there are {', '.join(names())}"
        raise UseError(f"unknown recipe {name!r}{hint} (`pleat recipes` lists them)")
    return resources.files("pleat.recipes").joinpath(f"{name}.toml").read_text(encoding="utf-8"), f"{name}.toml"


def _merge(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    out = dict(under)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(out.get(key), dict) and key != "settings"
        out[key] = _merge(out[key], value) if both else value
    return out


def _convert(raw: dict[str, Any], where: str) -> Recipe:
    _known(raw, Recipe, where, "")
    try:
        return msgspec.convert(raw, Recipe)
    except msgspec.ValidationError as error:
        raise UseError(f"recipe {where}: {error}") from None


def _known(raw: dict[str, Any], table: type[Table], where: str, prefix: str) -> None:
    fields = {f.name: f.type for f in msgspec.structs.fields(table)}
    for key, value in raw.items():
        if key not in fields:
            near = difflib.get_close_matches(key, fields, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"valid keys: {', '.join(fields)}"
            raise UseError(f"recipe {where}: unknown key {prefix + key!r}; {hint}")
        kind = fields[key]
        if isinstance(kind, type) and issubclass(kind, Table) and isinstance(value, dict):
            _known(value, kind, where, f"{prefix}{key}.")


def _check(recipe: Recipe, where: str) -> None:
    def need(good: bool, key: str, expected: str, got: object) -> None:
        if not good:
            raise UseError(f"recipe {where}: {key} must be {expected}, got {got!r}")

    widths, t, s = recipe.holds.widths, recipe.training, recipe.server
    falling = bool(widths) and list(widths) == sorted(set(widths), reverse=True)
    need(falling and all(0 < w <= 1 for w in widths), "holds.widths", "rates in (0, 1], falling", widths)
    need(all(0 < k <= 1 for k in recipe.returns.keeps), "returns.keeps", "shares in (0, 1]", recipe.returns.keeps)
    need(0 <= recipe.fold.exponent <= 1, "fold.exponent", "in [0, 1]", recipe.fold.exponent)
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
