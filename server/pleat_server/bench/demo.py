"""The demo over seeds 0 to 4 and both nets, FedAvg beside each: accuracy at every size, bytes and seconds."""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path
from typing import Any

from pleat_server import demo

SEEDS = (0, 1, 2, 3, 4)
MODELS = ("mlp", "cnn")
ROUNDS = 30


def run() -> dict[str, Any]:
    """{"runs": the demo's summaries, each with model and seed}, and means per model, flat."""
    runs = []
    with tempfile.TemporaryDirectory() as folder:
        for model in MODELS:
            for seed in SEEDS:
                settings = demo.Demo(seed, model, ROUNDS, "elastic", "", True, Path(folder) / f"{model}-{seed}")
                runs.append({**demo.run(settings, lambda event: None), "model": model, "seed": seed})
    figures: dict[str, Any] = {"runs": runs, "n": len(SEEDS)}
    for model in MODELS:
        figures |= {f"{model}_{key}": value for key, value in means([r for r in runs if r["model"] == model]).items()}
    return figures


def means(runs: list[dict[str, Any]]) -> dict[str, float]:
    """Mean and worst accuracies, FedAvg's, at every size; times fewer bytes than dense FedAvg; seconds."""
    out = {
        "accuracy": statistics.mean(r["accuracy"] for r in runs),
        "accuracy_worst_seed": min(r["accuracy"] for r in runs),
        "fedavg_accuracy": statistics.mean(r["fedavg_accuracy"] for r in runs),
        "fewer_bytes": statistics.mean(
            (r["dense_bytes_up"] + r["dense_bytes_down"]) / (r["bytes_up"] + r["bytes_down"]) for r in runs
        ),
        "wall_s": statistics.median(r["wall_s"] for r in runs),
    }
    for width in runs[0]["accuracy_by_size"]:
        out[f"accuracy_at_{width}"] = statistics.mean(r["accuracy_by_size"][width] for r in runs)
    return out
