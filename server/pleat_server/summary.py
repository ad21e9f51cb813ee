"""Summary: what came of a run, from its state and its journal; what summary.json holds."""

from __future__ import annotations

from typing import Any

from pleat.params import count
from pleat_server.config import RunConfig
from pleat_server.state import State


def summarise(config: RunConfig, policy: str, state: State, lines: list[dict[str, Any]]) -> dict[str, Any]:
    """What came of a run. `dense_bytes_*`: what float32 FedAvg of the same rounds and participants moves at least;
    `wall_s`: seconds of all its rounds, over all sittings."""
    last = lines[-1] if lines else {}
    reports = sum(1 for line in lines for d in line["devices"] if d["outcome"] == "done")
    orders = sum(len(line["devices"]) for line in lines)
    dense = 4 * count(state.params)
    names = sorted({d["name"] for line in lines for d in line["devices"]})
    return {
        "run": state.run,
        "folder": str(config.folder),
        "recipe": config.recipe,
        "model": config.model,
        "seed": config.seed,
        "policy": policy,
        "rounds": state.round,
        "accuracy": last.get("accuracy"),
        "accuracy_by_size": last.get("accuracy_by_size", {}),
        "loss": last.get("loss"),
        "wall_s": sum(line["seconds"] for line in lines),
        "bytes_up": sum(line["bytes_up"] for line in lines),
        "bytes_down": sum(line["bytes_down"] for line in lines),
        "dense_bytes_up": dense * reports,
        "dense_bytes_down": dense * orders,
        "parameters": count(state.params),
        "devices": [_of_device(name, lines) for name in names],
    }


def _of_device(name: str, lines: list[dict[str, Any]]) -> dict[str, Any]:
    own = [d for line in lines for d in line["devices"] if d["name"] == name]
    peaks = [d["peak_bytes"] for d in own if d.get("peak_bytes")]
    return {
        "name": name,
        "peak_bytes": max(peaks, default=None),
        "train_s": sum(d["seconds"]["train"] for d in own if "seconds" in d),
        "submodel": own[-1]["size"],
        "rounds": sum(1 for d in own if d["outcome"] == "done"),
    }
