"""A method is six choices (elastic.md section 1), and a recipe is a TOML file of them.

The six are the tables `holds`, `rule`, `objective`, `returns`, `fold` and `personal`; `training`, `server` and `plan`
hold what every method needs, `proxy` what some do beforehand. `load.py` reads it, `checks.py` says what may stand in
it. Functions that cut, code, ship, train and fold know no recipe by name.
"""

from __future__ import annotations

import itertools
from typing import Any, Literal

import msgspec

from pleat.elastic.choosers.rung import Rung
from pleat.elastic.importance import Kind
from pleat.elastic.pruning import Across


class Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of all recipe tables: frozen, and closed to unknown keys."""


class Holds(Table, frozen=True):
    """1. What a device holds: the ladder of rows on offer, as rates in (0, 1], largest first: `widths` of the rule's
    chooser, `depths` of its chooser of depth, `densities` of its chooser of masks. Level by level, where one rate alone
    holds for all; `crossed`: each with each. `scaled_start`: scale the first weights so that every size begins with
    activations of the usual strength. `exits`: heads that the net is built with, one a depth class; 0: as it is."""

    widths: tuple[float, ...] = (1.0,)
    depths: tuple[float, ...] = (1.0,)
    densities: tuple[float, ...] = (1.0,)
    crossed: bool = False
    scaled_start: bool = False
    exits: int = 0

    @property
    def rungs(self) -> tuple[Rung, ...]:
        """The sizes on offer; level by level as many as the longest list has."""
        axes = (self.widths, self.depths, self.densities)
        if self.crossed:
            return tuple(Rung(*rates) for rates in itertools.product(*axes))
        levels = max(map(len, axes))
        return tuple(Rung(*rates) for rates in zip(*(a * levels if len(a) == 1 else a for a in axes), strict=True))


class Rule(Table, frozen=True):
    """2. The rule that picks it. `chooser`: an entry of `elastic/choosers`; `depth` and `mask`: entries too, for the
    depths and densities that a recipe offers: what all of them hold is held; `redraw`: anew each round, or fixed.
    `since`: the first round in which it applies, the whole model before; `cubic`: rounds over which the rate falls from
    1 to the row's, fast at first. `adjust`: how the device changes its masks, an entry of its adjusters, with
    `settings`; `own`: each device goes on from the masks it came to, else all from the server's. `reconfigure`: rounds
    after which the server fits its mask to squared gradients, each time, 0 = never; `fit`: to their worth by the
    `seconds` that devices were measured at, or to the same `count` in every tensor; `free`: the share of smallest
    weights that may then go, halved every `half` rounds, by count falling to 0 with a cosine. `score`: what entries or
    channels are ranked by (`elastic/importance.py`); `squares`: rounds after which devices send squared gradients, each
    time, 0 = never; `gradients`: whether the server begins with none or with those of its proxy samples; `until`:
    the last round in which devices send any, 0 = none is the last; `sends`: how they are coded, of entries outside the
    masks alone where the fit is by count. `pool`: choosers among whose masks the devices elect the first one by loss,
    before the first round; empty: the chooser's own."""

    chooser: str = "whole"
    depth: str = "depth"
    mask: str = "magnitude"
    redraw: bool = False
    since: int = 1
    cubic: int = 0
    adjust: str = ""
    own: bool = False
    reconfigure: int = 0
    free: float = 0.3
    half: float = 10000.0
    fit: Literal["seconds", "count"] = "seconds"
    score: Kind = "size"
    squares: int = 0
    gradients: Literal["devices", "proxy"] = "devices"
    until: int = 0
    sends: str = "bf16"
    pool: tuple[str, ...] = ()
    settings: dict[str, float] = {}


class Objective(Table, frozen=True):
    """3. What is trained. `name`: an entry of the device's objectives; `settings`: its numbers; `nested`: train along
    the ladder's smaller rows too. `gate`: how weights enter the net in training, an entry of the device's gates.
    `scaler`: divide what a cut layer puts out by the share of it that is held. `dense`: train what the masks leave out
    too, from 0. `ensemble`: a net with exits answers by the mean of their logits, else by the deepest's.
    `dynamic`: FedDyn's alpha: devices and server keep what they have drifted, by which all come to one optimum;
    `proximal`: FedProx's mu: how hard the loss pulls to what was received. `subspace`: what the training of every
    matrix is confined to, and its update with it, such as "low-rank:0.1" or "random:0.1": a link of the codec that
    begins `returns.up`. `statistics`: rounds after which devices are asked for the running statistics of the model and
    of its sizes, each time; 0 = never, they come with the updates, as devices passed through them."""

    name: str = "cross_entropy"
    nested: bool = False
    gate: str = ""
    scaler: bool = False
    dense: bool = False
    ensemble: bool = False
    dynamic: float = 0.0
    proximal: float = 0.0
    subspace: str = ""
    statistics: int = 0
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
    equal, times (share of the model's entries that the device trains)^`size`. `rows`: leave rows of classes absent on a
    device out of its coverage. `clears`: what is set to 0 before the step is added: nothing, entries that no device was
    sent, or also those that none returned, or that less than the share `votes` of the devices did. `momentum`: of a net
    with exits, the share of a smaller size's step in its own last layer that gives way to the mean step, in the round
    before, of the layers that the next larger size has from there on."""

    exponent: float = 1.0
    fill: Literal["update", "zero"] = "update"
    clears: Literal["nothing", "unsent", "unreturned"] = "nothing"
    votes: float = 0.0
    weights: Literal["samples", "equal"] = "samples"
    size: float = 0.0
    rows: bool = False
    momentum: float = 0.0


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
    """Server optimiser (v = momentum v + step; model += rate v) and the decay of the averaged copy (0 = none).

    A net with running statistics is averaged only where devices are asked for them (`objective.statistics`).
    """

    rate: float = 1.0
    momentum: float = 0.0
    average: float = 0.0
    quorum: float = 1.0  # share of the cohort whose reports close a round before the deadline
    deadline_s: float = 0.0  # 0: from the policy's predicted times
    cohort: float = 1.0  # share of connected devices drawn each round
    least: int = 1  # devices to wait for before a round is planned
    scored: int = 1  # rounds from one score of the model to the next; the last round is always scored


class Proxy(Table, frozen=True):
    """What the server does with data of its own before the first round: where `rule.score` is "imp" it prunes, where
    `rule.gradients` is "proxy" it takes gradients, at the first weights as the net gives them. `share`: of the training
    samples known, at most. `cycles` of iterative magnitude pruning (`elastic/pruning.py`), each of which trains
    `epochs`, and on until it has made `steps` optimiser steps, and prunes the share `prune` of what is left, `across`
    layers or the net; survivors go back to the weights after `rewind` epochs of the first cycle (0: the first weights;
    -1: they go on as they are). `tune`: epochs, again with `steps`, that a row of the lookup table is trained from
    there before it is scored, 0 = as it is."""

    share: float = 0.05
    cycles: int = 8
    prune: float = 0.2
    epochs: int = 10
    steps: int = 200
    rewind: int = 0
    across: Across = "layer"
    tune: int = 10


class Plan(Table, frozen=True):
    """Who trains which row. `policy`: sweep, ducb, lookup or fixed; `settings`: its numbers. `limits`: rows that break
    a device's budgets are not offered to it; without (an upper reference) only the device's own check of memory stands.
    `timed`: newcomers time a few steps of every size before the first round that they are planned in."""

    policy: str = "sweep"
    limits: bool = True
    timed: bool = True
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
    proxy: Proxy = Proxy()
    plan: Plan = Plan()
    models: dict[str, dict[str, Any]] = {}  # per net name: tables laid over this recipe ("tiny nets: joint")
