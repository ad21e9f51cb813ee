"""Short runs of recipes on a few digits devices: what a method's tests compare."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from pleat.exchange.report import Budgets
from pleat.params import Params
from pleat_server import app
from pleat_server.config import RunConfig
from pleat_server.keep.journal import Journal
from pleat_server.simulate.grid import VirtualDevice
from support.digits import digit_shards

FAST: dict[str, Any] = {"training": {"epochs": 1, "momentum": 0.0}}


class Ran:
    """A finished run: its summary, exported model, journal and devices."""

    def __init__(self, folder: Path, summary: dict[str, Any], devices: Sequence[VirtualDevice]) -> None:
        self.summary, self.devices = summary, devices
        self.params: Params = load_file(folder / "model.safetensors")
        self.lines = Journal.read(folder / "journal.jsonl")


def simulate(
    folder: Path,
    recipe: str,
    rounds: int = 2,
    *,
    budgets: Sequence[Budgets] = (),
    holdout: float = 0.0,
    model: str = "mlp",
    broken: tuple[str, int] | None = None,
    **overrides: Any,
) -> Ran:
    """`recipe` on three digits devices, for one plain epoch a round, with `overrides` laid on top.

    `broken` (step, n): broken off when it comes to that step for the n-th time, and then gone on with.
    """
    parts, test = digit_shards(3)
    laid = {**FAST, **overrides, "training": {**FAST["training"], **overrides.get("training", {})}}
    config = RunConfig(recipe, model, folder, rounds=rounds, input_shape=(1, 8, 8), classes=10, overrides=laid)
    devices = app.virtual_devices(parts, list(budgets), holdout)
    if broken is not None:
        with pytest.raises(KeyboardInterrupt):
            app.simulate(config, devices, test, step=_breaking(*broken))
    return Ran(folder, app.simulate(config, devices, test), devices)


def _breaking(step: str, times: int) -> Callable[[str], None]:
    left = [times]

    def stop(at: str) -> None:
        left[0] -= at == step
        if at == step and left[0] == 0:
            raise KeyboardInterrupt

    return stop


def away(one: Params, other: Params) -> float:
    """The largest difference of an entry."""
    return max(float(abs(one[n] - other[n]).max()) for n in one)
