"""The journal line of a round: what happened, in plain JSON-able facts, the same for journal, live table and plots."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from pleat.exchange.order import Order
from pleat.exchange.report import Outcome, Report
from pleat_server.carrier import Joined, Left, Pulse, Reported
from pleat_server.folding import Folded
from pleat_server.plan.catalogue import Row
from pleat_server.round import Decisions, Setup

Traffics = Mapping[str, tuple[int, int]]  # device -> bytes up, bytes down


def moved(now: Traffics, before: Traffics, earlier: Traffics) -> Traffics:
    """What moved from `before` to `now`, and what an interrupted sitting is known to have moved."""
    none = (0, 0)

    def count(device: str, way: int) -> int:
        return now.get(device, none)[way] - before.get(device, none)[way] + earlier.get(device, none)[way]

    return {device: (count(device, 0), count(device, 1)) for device in {**now, **earlier}}


def seen(event: Joined | Left | Reported | Pulse) -> dict[str, Any]:
    """An event of the carrier as watchers are told of it."""
    match event:
        case Joined():
            return {"event": "joined", "device": event.device, "address": event.address}
        case Left():
            return {"event": "left", "device": event.device, "reason": event.reason}
        case Reported():
            return {"event": "report", "device": event.device, "round": event.order_id.round, "bytes": event.nbytes}
        case Pulse():
            return {"event": "pulse", "device": event.device, "state": event.heartbeat.state}


def journal_line(
    setup: Setup,
    decisions: Decisions,
    folded: Folded,
    scores: Mapping[str, Any],
    bytes_moved: Traffics,
    rejected: list[dict[str, str]],
    silent: list[Order],
) -> dict[str, Any]:
    """One round's record. `bytes_moved`: bytes up and down per device; `silent`: orders without an accepted report."""
    devices = [
        _device(setup.rows[decisions.rows[o.device]], r, bytes_moved.get(o.device, (0, 0)), folded.values.get(o.device))
        for o, r in sorted((*folded.accepted, *folded.empty), key=lambda pair: pair[0].device)
    ]
    turned_away = {r["device"] for r in rejected}
    for order in silent:
        row, outcome = setup.rows[decisions.rows[order.device]], "rejected" if order.device in turned_away else "silent"
        up, down = bytes_moved.get(order.device, (0, 0))
        devices.append({"name": order.device, **_row(row), "up": up, "down": down, "outcome": outcome})
    line: dict[str, Any] = {
        "round": decisions.round,
        **scores,
        "train_loss": _weighted_loss(folded),
        "bytes_up": sum(m[0] for m in bytes_moved.values()),
        "bytes_down": sum(m[1] for m in bytes_moved.values()),
        "devices": devices,
        "idle": dict(decisions.idle),
        "predicted_s": dict(decisions.predicted_s),
        "policy": dict(decisions.diagnostics),
        "rejected": rejected,
    }
    if not folded.accepted:
        line["error"] = f"round {decisions.round}: no report was accepted; the model is unchanged"
    return line


def _row(row: Row) -> dict[str, Any]:
    return {"row": row.index, "size": row.rung.label, "density": row.density, "keep": row.keep, "bits": row.bits}


def _device(row: Row, report: Report, moved: tuple[int, ...], value: float | None) -> dict[str, Any]:
    out: dict[str, Any] = {
        "name": report.device,
        **_row(row),
        "seconds": asdict(report.seconds),
        "peak_bytes": report.peak_bytes,
        "loss": report.metrics.get("loss"),
        "samples": report.samples,
        "up": moved[0],
        "down": moved[1],
        "outcome": report.outcome.value,
        "sensors": dict(report.sensors),
    }
    if value is not None:
        out["value"] = value
    if report.outcome is not Outcome.DONE:
        out["reason"] = report.reason
    return out


def _weighted_loss(folded: Folded) -> float | None:
    losses = [(r.samples, r.metrics["loss"]) for _, r in folded.accepted if "loss" in r.metrics]
    total = sum(n for n, _ in losses)
    return sum(n * loss for n, loss in losses) / total if total else None
