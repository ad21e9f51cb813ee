"""`pleat-client status`: what the device on this machine is doing."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from pleat_client import config
from pleat_client import status as kept


def status(
    name: Annotated[str | None, typer.Option(help="The device's label. Default: the host's name.")] = None,
    state: Annotated[
        Path | None, typer.Option(help="Its state folder. Default: ~/.local/state/pleat/NAME, else /var/lib/pleat.")
    ] = None,
    file: Annotated[
        Path | None, typer.Option("--config", help="Settings in TOML. Default: /etc/pleat/client.toml.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> int:
    """Tell what the device on this machine is doing, its last rounds, budgets, residual, unsent reports, memory, heat.

    Bytes, seconds, hertz and degrees Celsius in --json.
    """
    folder = Path(str(config.told({"name": name, "state": state}, file, service=config.SERVICE_STATE)["state"]))
    found = kept.read(folder)
    typer.echo(json.dumps(found) if as_json else "\n".join(lines(found)))
    return 0


def lines(found: dict[str, Any]) -> list[str]:
    """What is known, one fact a line, and a table of the last rounds; what the board does not tell is left out."""
    shown = {
        "device": f"{found['name']}, {_doing(found)}",
        "server": f"{found['server']}, {_joined(found)}",
        "notice": found["notice"],
        "budgets": _budgets(found["budgets"]),
        "residual": _residual(found["residual"]),
        "unsent": f"{found['unsent']} report{'s' * (found['unsent'] != 1)}, {_bytes(found['unsent_bytes'])}",
        "memory": _joint(_known("daemon and trainer {}", found["rss_bytes"]), _known("{} free", found["free_bytes"])),
        "board": _board(found),
        "folder": f"{found['folder']}, {_bytes(found['kept_bytes'])}",
    }
    told = [f"{key:<9} {value}" for key, value in shown.items() if value]
    return [*told, *_rounds(found["rounds"])]


def _doing(found: dict[str, Any]) -> str:
    words = [found["state"]]
    if found["state"] == "training":
        words.append(found["order"])
        if found["progress"] is not None:
            words.append(f"{found['progress']:.0%} done")
        if found["loss"] is not None:
            words.append(f"loss {found['loss']:.3f}")
    orders = f"{found['orders']} order{'s' * (found['orders'] != 1)} since it began"
    process = f"process {found['pid']}" if found["pid"] is not None else "no process"
    return f"{' '.join(words)} ({process}, {orders}, changed {found['seconds_ago']:.0f} s ago)"


def _joined(found: dict[str, Any]) -> str:
    return f"joined run {found['run']}" if found["joined"] and found["pid"] is not None else "not joined"


def _budgets(budgets: dict[str, Any]) -> str:
    limits = _joint(
        _known("memory {}", budgets["memory_bytes"]),
        f"{budgets['seconds']:g} s a round" if budgets["seconds"] is not None else "",
        _known("{} up", budgets["upload_bytes"]),
        _known("{} down", budgets["download_bytes"]),
    )
    return limits or "none"


def _residual(residual: dict[str, Any] | None) -> str:
    if residual is None:
        return ""
    return f"{residual['entries']:,} entries, norm {residual['norm']:.3g}, state of {_bytes(residual['state_bytes'])}"


def _board(found: dict[str, Any]) -> str:
    return _joint(
        f"{found['celsius']:.0f} °C" if found["celsius"] is not None else "",
        {True: "throttled", False: "not throttled", None: ""}[found["throttled"]],
        f"{found['hertz'] / 1e6:.0f} MHz" if found["hertz"] is not None else "",
        f"load {found['load']:.2f}" if found["load"] is not None else "",
    )


def _rounds(rounds: list[dict[str, Any]]) -> list[str]:
    if not rounds:
        return []
    head = f"{'order':<20} {'outcome':<8} {'width':>6} {'seconds':>8} {'down':>10} {'up':>10}  {'answer':<9} at"
    rows = [
        f"{one['order']:<20} {one['outcome']:<8} {'' if one['width'] is None else format(one['width'], '.3g'):>6} "
        f"{one['seconds']:>8.1f} {_bytes(one['bytes_down']):>10} {_bytes(one['bytes_up']):>10}  {one['answer']:<9} "
        f"{time.strftime('%H:%M:%S', time.localtime(one['at']))} {one['reason']}".rstrip()
        for one in rounds
    ]
    return ["", head, *rows]


def _joint(*parts: str) -> str:
    return ", ".join(part for part in parts if part)


def _known(text: str, count: int | None) -> str:
    return "" if count is None else text.format(_bytes(count))


def _bytes(count: int) -> str:
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= size:
            return f"{count / size:.4g} {unit}"
    return f"{count} B"
