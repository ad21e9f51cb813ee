"""State: everything a run has learnt, as one frozen value. Saving it is a checkpoint, loading it is resuming.

Nothing that decides the next round lives anywhere else: the model, the server optimiser, the averaged copy, what the
policy and the cost fits learnt, and which published version each device holds. Order ids of rounds up to `round` are
done; a report for one of them is acknowledged as already here or returned, never folded again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pleat.codec.bf16 import from_bf16, to_bf16
from pleat.elastic.choosers.rung import Rung
from pleat.elastic.selection import Selection
from pleat.exchange.order import STATISTICS
from pleat.modelmap import ModelMap
from pleat.params import Params
from pleat_server.plan.devices import Table

Patterns = dict[str, NDArray[np.uint16]]  # bf16 bit patterns of a published version, in global shapes

KEPT_VERSIONS = 8  # published versions kept for devices that still hold them; an older base gets the full submodel


@dataclass(frozen=True)
class Holding:
    """What a device acknowledged: the published version, cut by the selection it came under; digests of the masks it
    knows; and the submodel that its report was on, with the masks that it chose."""

    version: int
    selection: Selection
    known: frozenset[bytes] = frozenset()
    own: Selection | None = None


@dataclass(frozen=True)
class State:
    run: str
    seed: int
    params: Params
    round: int = 0  # rounds closed
    velocity: Params | None = None
    average: Params | None = None
    published: Mapping[int, Patterns] = field(default_factory=dict)
    holdings: Mapping[str, Holding] = field(default_factory=dict)
    table: Table = field(default_factory=Table)
    policy: Any = None
    failed_rounds: int = 0  # in a row, up to now
    done: Mapping[int, tuple[int, ...]] = field(default_factory=dict)  # closed round -> ranks whose reports it contains
    loss: float | None = None  # of the model after the last closed round, on whatever data there is
    extras: Mapping[str, Params] = field(default_factory=dict)  # named tensors of methods

    @property
    def evaluated(self) -> Params:
        """The model that is evaluated and exported: the averaged copy where the recipe keeps one."""
        return self.params if self.average is None else self.average


def name_of(rung: Rung) -> str:
    """Under what name a run keeps the statistics of a size."""
    return f"{STATISTICS} {rung.label}"


def seen_at(params: Params, extras: Mapping[str, Params], rung: Rung) -> Params:
    """The model as it is scored at a size: with that size's own statistics, where they are known."""
    return {**params, **extras.get(name_of(rung), {})}


def publish(state: State) -> State:
    """Publish the current model as version `state.round` and forget versions that no device holds."""
    needed = {h.version for h in state.holdings.values()}
    kept = sorted(v for v in state.published if v in needed)[-(KEPT_VERSIONS - 1) :]
    published = {v: state.published[v] for v in kept}
    published[state.round] = {name: to_bf16(a) for name, a in state.params.items()}
    return replace(state, published=published)


def version(state: State, number: int) -> Params:
    """The parameters of a published version, float32 in global shapes."""
    return {name: from_bf16(a) for name, a in state.published[number].items()}


def to_checkpoint(state: State, model: ModelMap) -> tuple[dict[str, dict[str, NDArray[Any]]], dict[str, Any]]:
    """Arrays and JSON-able facts for `keep.checkpoint.save`."""
    arrays: dict[str, dict[str, NDArray[Any]]] = {"params": dict(state.params)}
    if state.velocity is not None:
        arrays["velocity"] = dict(state.velocity)
    if state.average is not None:
        arrays["average"] = dict(state.average)
    for number, patterns in state.published.items():
        arrays[f"published.{number}"] = dict(patterns)
    for name, tensors in state.extras.items():
        arrays[f"extra.{name}"] = dict(tensors)
    masks: dict[str, NDArray[Any]] = {}
    holdings = {}
    for device, holding in sorted(state.holdings.items()):
        known = sorted(d.hex() for d in holding.known)
        holdings[device] = {"version": holding.version, "known": known, **_selection_facts(holding.selection)}
        _pack(masks, device, holding.selection)
        if holding.own is not None and holding.own != holding.selection:
            holdings[device]["own"] = _selection_facts(holding.own)
            _pack(masks, f"{device}\nown", holding.own)
    if masks:
        arrays["masks"] = masks
    facts = {
        "run": state.run,
        "seed": state.seed,
        "round": state.round,
        "model": model.digest.hex(),
        "holdings": holdings,
        "table": state.table.to_plain(),
        "policy": state.policy,
        "failed_rounds": state.failed_rounds,
        "done": [[number, list(ranks)] for number, ranks in sorted(state.done.items())],
        "loss": state.loss,
    }
    return arrays, facts


def from_checkpoint(
    arrays: Mapping[str, Mapping[str, NDArray[Any]]], facts: Mapping[str, Any], model: ModelMap
) -> State:
    """The inverse of `to_checkpoint`."""
    masks = arrays.get("masks", {})
    holdings = {}
    for device, plain in facts["holdings"].items():
        selection = _unpack(masks, device, plain, model)
        own = _unpack(masks, f"{device}\nown", plain["own"], model) if "own" in plain else selection
        known = frozenset(bytes.fromhex(d) for d in plain.get("known", ()))
        holdings[device] = Holding(plain["version"], selection, known, own)
    published = {int(k.split(".", 1)[1]): dict(v) for k, v in arrays.items() if k.startswith("published.")}
    extras = {k.split(".", 1)[1]: dict(v) for k, v in arrays.items() if k.startswith("extra.")}
    return State(
        run=facts["run"],
        seed=facts["seed"],
        params=dict(arrays["params"]),
        round=facts["round"],
        velocity=dict(arrays["velocity"]) if "velocity" in arrays else None,
        average=dict(arrays["average"]) if "average" in arrays else None,
        published=published,
        holdings=holdings,
        table=Table.from_plain(facts["table"]),
        policy=facts["policy"],
        failed_rounds=facts["failed_rounds"],
        done={number: tuple(ranks) for number, ranks in facts["done"]},
        loss=facts["loss"],
        extras=extras,
    )


def _selection_facts(selection: Selection) -> dict[str, Any]:
    return {
        "kept": {n: i.tolist() for n, i in selection.kept.items()},
        "dropped": sorted(selection.dropped),
        "masks": sorted(selection.masks),
    }


def _pack(masks: dict[str, NDArray[Any]], name: str, selection: Selection) -> None:
    for tensor, mask in selection.masks.items():
        masks[f"{name}\n{tensor}"] = np.packbits(mask)


def _unpack(masks: Mapping[str, NDArray[Any]], name: str, plain: Mapping[str, Any], model: ModelMap) -> Selection:
    kept = {n: np.asarray(i, np.int64) for n, i in plain["kept"].items()}
    own = {}
    for tensor in plain["masks"]:
        shape = model.tensor[tensor].shape
        bits = np.unpackbits(masks[f"{name}\n{tensor}"], count=int(np.prod(shape)))
        own[tensor] = bits.astype(np.bool_).reshape(shape)
    return Selection(kept, frozenset(plain["dropped"]), own)
