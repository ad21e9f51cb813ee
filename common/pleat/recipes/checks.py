"""Checks: what may stand in a recipe, value by value and one beside the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from pleat.elastic.choosers import CHOOSERS
from pleat.elastic.importance import OF_GRADIENTS
from pleat.errors import UseError, hint
from pleat.exchange import skills
from pleat.recipes.recipe import Proxy, Recipe


def check(recipe: Recipe, where: Callable[[str], str]) -> None:
    """Raises UseError for the first value out of its range, or that takes away another's meaning; `where` tells where a
    key stands."""

    def need(good: bool, key: str, expected: str, got: object) -> None:
        if not good:
            raise UseError(f"recipe {where(key)}: {key} must be {expected}, got {got!r}")

    _names(recipe, where)
    _sizes(recipe, need)
    _method(recipe, need)
    _training(recipe, need)
    _proxy(recipe.proxy, need)
    _consistent(recipe, where)


Need = Callable[[bool, str, str, object], None]


def _names(recipe: Recipe, where: Callable[[str], str]) -> None:
    """Refuse what no chooser and no device knows."""
    rule, objective = recipe.rule, recipe.objective
    for key, name, known in (
        ("rule.chooser", rule.chooser, CHOOSERS),
        ("rule.depth", rule.depth, CHOOSERS),
        ("rule.mask", rule.mask, CHOOSERS),
        ("rule.adjust", rule.adjust, ("", *skills.ADJUSTERS)),
        ("objective.name", objective.name, skills.OBJECTIVES),
        ("objective.gate", objective.gate, ("", *skills.GATES)),
    ):
        if name not in known:
            raise UseError(f"recipe {where(key)}: unknown {key} {name!r}; {hint(name, known)}")


def _sizes(recipe: Recipe, need: Need) -> None:
    holds = recipe.holds
    for key in ("widths", "depths", "densities"):
        rates = getattr(holds, key)
        falling = bool(rates) and list(rates) == sorted(rates, reverse=True)
        need(falling and all(0 < r <= 1 for r in rates), f"holds.{key}", "rates in (0, 1], falling", rates)
        levels = max(len(holds.widths), len(holds.depths), len(holds.densities))
        need(
            holds.crossed or len(rates) in (1, levels),
            f"holds.{key}",
            f"one rate, or {levels}, as many as the other rates; or write crossed = true",
            rates,
        )
    need(len(set(holds.rungs)) == len(holds.rungs), "holds.widths", "such that no two sizes are the same", holds.widths)
    need(0 <= holds.exits <= 64, "holds.exits", "0 (the net as it is) to 64 heads", holds.exits)


def _method(recipe: Recipe, need: Need) -> None:
    o = recipe.objective
    need(o.dynamic >= 0, "objective.dynamic", "0 (off) or more", o.dynamic)
    need(o.proximal >= 0, "objective.proximal", "0 (off) or more", o.proximal)
    need(all(0 < k <= 1 for k in recipe.returns.keeps), "returns.keeps", "shares in (0, 1]", recipe.returns.keeps)
    need(0 <= recipe.fold.exponent <= 1, "fold.exponent", "in [0, 1]", recipe.fold.exponent)
    need(recipe.fold.size >= 0, "fold.size", "0 (off) or more", recipe.fold.size)
    need(0 <= recipe.fold.momentum < 1, "fold.momentum", "in [0, 1)", recipe.fold.momentum)
    need(recipe.rule.since >= 1, "rule.since", "a round from 1", recipe.rule.since)
    need(recipe.rule.squares >= 0, "rule.squares", "0 (never) or a number of rounds", recipe.rule.squares)
    need(recipe.rule.reconfigure >= 0, "rule.reconfigure", "0 (never) or a number of rounds", recipe.rule.reconfigure)
    need(recipe.rule.until >= 0, "rule.until", "0 (no last one) or a round", recipe.rule.until)
    need(recipe.objective.statistics >= 0, "objective.statistics", "0 (never) or rounds", recipe.objective.statistics)
    choosers = all(n in CHOOSERS for n in recipe.rule.pool) and len(recipe.rule.pool) <= 16
    need(choosers, "rule.pool", f"at most 16 choosers of {', '.join(CHOOSERS)}", recipe.rule.pool)
    need(0 <= recipe.fold.votes <= 1, "fold.votes", "in [0, 1]", recipe.fold.votes)
    need(0 <= recipe.rule.free <= 1, "rule.free", "in [0, 1]", recipe.rule.free)
    need(recipe.rule.half > 0, "rule.half", "above 0 rounds", recipe.rule.half)
    need(recipe.rule.cubic >= 0, "rule.cubic", "0 (off) or a number of rounds", recipe.rule.cubic)


def _training(recipe: Recipe, need: Need) -> None:
    t, s = recipe.training, recipe.server
    need(t.epochs >= 1, "training.epochs", "at least 1", t.epochs)
    need(t.batch >= 1, "training.batch", "at least 1", t.batch)
    need(t.rate > 0, "training.rate", "above 0", t.rate)
    need(0 <= t.momentum < 1, "training.momentum", "in [0, 1)", t.momentum)
    need(t.clip >= 0, "training.clip", "0 (off) or more", t.clip)
    need(t.decay >= 0, "training.decay", "0 (off) or more", t.decay)
    need(s.rate > 0, "server.rate", "above 0", s.rate)
    need(s.least >= 0, "server.least", "0 or more devices", s.least)
    need(0 <= s.momentum < 1, "server.momentum", "in [0, 1)", s.momentum)
    need(0 <= s.average < 1, "server.average", "in [0, 1)", s.average)
    need(0 < s.quorum <= 1, "server.quorum", "in (0, 1]", s.quorum)
    need(0 < s.cohort <= 1, "server.cohort", "in (0, 1]", s.cohort)
    need(s.scored >= 1, "server.scored", "a number of rounds from 1", s.scored)
    need(s.deadline_s >= 0, "server.deadline_s", "0 (from the plan) or more seconds", s.deadline_s)


def _proxy(p: Proxy, need: Need) -> None:
    need(0 < p.share <= 1, "proxy.share", "a share in (0, 1]", p.share)
    need(p.cycles >= 1, "proxy.cycles", "at least 1", p.cycles)
    need(0 < p.prune < 1, "proxy.prune", "a share in (0, 1)", p.prune)
    need(p.epochs >= 1, "proxy.epochs", "at least 1", p.epochs)
    need(p.steps >= 0, "proxy.steps", "0 (epochs alone) or a number of steps", p.steps)
    need(-1 <= p.rewind <= p.epochs, "proxy.rewind", f"an epoch up to {p.epochs}, or -1 (go on)", p.rewind)
    need(p.tune >= 0, "proxy.tune", "0 (score rows as they are) or a number of epochs", p.tune)


def _consistent(recipe: Recipe, where: Callable[[str], str]) -> None:
    """Refuse keys of which one takes away the other's meaning."""
    for both, key, why in (*_of_sizes(recipe), *_of_devices(recipe), *_of_masks(recipe)):
        if both:
            raise UseError(f"recipe {where(key)}: {key} contradicts {why}")


Clashes = Iterator[tuple[bool, str, str]]  # whether they clash, the key, what it contradicts


def _of_sizes(recipe: Recipe) -> Clashes:
    """What sizes, subspaces and fills say of each other."""
    rule, fold, holds = recipe.rule, recipe.fold, recipe.holds
    yield (
        fold.fill == "zero" and fold.exponent != 1,
        "fold.exponent",
        f'fold.fill = "zero", which has no exponent; remove it, or write fill = "update" (exponent {fold.exponent:g})',
    )
    yield (
        rule.cubic > 0 and not rule.redraw,
        "rule.cubic",
        "rule.redraw = false, under which no rate changes; write redraw = true, or remove cubic",
    )
    yield (
        rule.chooser == "stored" and len(holds.widths) > 1,
        "holds.widths",
        'rule.chooser = "stored", which is one mask for all; write one width, or another chooser such as "magnitude"',
    )
    yield (
        rule.chooser == "whole" and holds.widths != (1.0,),
        "holds.widths",
        'rule.chooser = "whole", which knows one size; write widths = [1.0], or another chooser such as "prefix"',
    )
    yield (
        bool(recipe.objective.subspace) and recipe.returns.part != "own",
        "objective.subspace",
        f'returns.part = "{recipe.returns.part}": what is confined must be known before training; write part = "own"',
    )


def _of_devices(recipe: Recipe) -> Clashes:
    """What devices keep or choose, and what becomes of it."""
    yield (
        recipe.objective.dynamic > 0 and (recipe.fold.fill != "update" or recipe.fold.exponent != 1),
        "objective.dynamic",
        'fold, which must average the devices\' weights for it; write fill = "update" and exponent = 1.0',
    )
    yield (
        recipe.objective.dynamic > 0 and (recipe.server.momentum > 0 or recipe.server.rate != 1),
        "objective.dynamic",
        "server, which must take the devices' mean for it; write momentum = 0.0 and rate = 1.0",
    )
    yield (
        bool(recipe.rule.adjust) and recipe.returns.part != "chosen",
        "rule.adjust",
        f'returns.part = "{recipe.returns.part}", under which the masks that devices come to are lost; '
        'write part = "chosen"',
    )


def _of_masks(recipe: Recipe) -> Clashes:
    """What masks, and the gradients that make them, say of each other."""
    rule, fold = recipe.rule, recipe.fold
    gradients, choosers = rule.squares > 0 or rule.gradients == "proxy", (rule.chooser, rule.mask, *rule.pool)
    yield (
        rule.reconfigure > 0 and rule.chooser != "stored",
        "rule.reconfigure",
        f'rule.chooser = "{rule.chooser}", which does not hold the mask that it makes; write chooser = "stored"',
    )
    yield (
        rule.score in OF_GRADIENTS and not gradients,
        "rule.score",
        'rule.squares = 0, under which no gradient ever comes; write squares = 1, gradients = "proxy", or a score of '
        "weights alone",
    )
    yield (
        "sensitive" in choosers and not gradients,
        "rule.chooser",
        'rule.squares = 0: "sensitive" shares out by gradients; write squares = 1, gradients = "proxy", or '
        'chooser = "magnitude"',
    )
    yield (
        rule.gradients == "proxy" and not (rule.score in OF_GRADIENTS or "sensitive" in choosers),
        "rule.gradients",
        f'rule.score = "{rule.score}", which asks for none; write score = "taylor", or remove gradients',
    )
    yield (
        fold.votes > 0 and fold.clears != "unreturned",
        "fold.votes",
        f'fold.clears = "{fold.clears}": votes say what counts as returned; write clears = "unreturned"',
    )
    yield (
        rule.own and rule.redraw,
        "rule.own",
        "rule.redraw = true: the masks are either the device's own or drawn anew; remove one of them",
    )
    yield (
        bool(rule.pool) and not (rule.chooser == "stored" and rule.redraw),
        "rule.pool",
        f'rule.chooser = "{rule.chooser}", redraw = {str(rule.redraw).lower()}, which does not hold what is elected; '
        'write chooser = "stored" and redraw = true',
    )
