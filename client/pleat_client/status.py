"""Status: what the daemon last said about itself, in a small file of its state folder; `pleat-client status` reads it.

Written on change only and without fsync: it is for people, may be lost, and SD cards wear.
"""

from __future__ import annotations

import contextlib
import os
import stat
import time
from pathlib import Path
from typing import Any

import msgspec

from pleat.errors import UseError
from pleat.exchange.report import Budgets
from pleat_client import lock
from pleat_client.pipe import Residual
from pleat_client.probe import memory, sensors
from pleat_client.probe.files import ROOT
from pleat_client.store import Store

NAME = "status.json"
KEPT = 8  # orders that are remembered


class Done(msgspec.Struct, frozen=True, kw_only=True):
    """One order that ended. `width`: share of its channels that the submodel kept, None where nothing was trained;
    `seconds`: from its last byte to the report; `bytes_down`, `bytes_up`: of order and report; `answer`: the server's,
    "acked" or "returned", "" = none yet."""

    order: str
    outcome: str
    reason: str = ""
    width: float | None = None
    seconds: float = 0.0
    bytes_down: int = 0
    bytes_up: int = 0
    answer: str = ""
    at: float = 0.0  # Unix time


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """`state`: starting, idle, training, stopped. `progress`: share of the current order's steps that are done."""

    name: str
    server: str
    state: str = "starting"
    joined: bool = False
    run: str = ""
    notice: str = ""  # the server's last word, such as "idle: nothing fits ..."
    order: str = ""
    outcome: str = ""  # of the last order
    reason: str = ""
    orders: int = 0  # done since the daemon began
    unsent: int = 0
    progress: float | None = None
    loss: float | None = None
    budgets: Budgets = Budgets()
    rounds: tuple[Done, ...] = ()  # the last `KEPT` orders, oldest first
    residual: Residual | None = None  # after the last order that was trained
    since: float = 0.0  # Unix time of the last change


def begun(folder: Path, status: Status) -> Status:
    """`status` with what the folder's last daemon knew of rounds and residual: they outlive a restart."""
    try:
        last = msgspec.json.decode((folder / NAME).read_bytes(), type=Status)
    except (OSError, msgspec.MsgspecError):
        return status
    return msgspec.structs.replace(status, rounds=last.rounds, residual=last.residual)


def ended(status: Status, done: Done) -> tuple[Done, ...]:
    """The rounds with one more."""
    return (*status.rounds, done)[-KEPT:]


def answered(status: Status, order: str, answer: str) -> tuple[Done, ...]:
    """The rounds after the server's answer to the report on `order`."""
    return tuple(msgspec.structs.replace(r, answer=answer) if r.order == order else r for r in status.rounds)


def write(folder: Path, status: Status) -> None:
    """Replace the file; a disk that does not take it is no reason to stop working."""
    fresh = folder / f".{NAME}.new"
    try:
        fresh.write_bytes(msgspec.json.encode(status))
        os.replace(fresh, folder / NAME)
    except OSError:
        with contextlib.suppress(OSError):
            fresh.unlink()


def words(said: Status) -> str:
    """One line on what the daemon does, for whoever has no room for more."""
    where = f"joined {said.run}" if said.joined else "stopped" if said.state == "stopped" else "away"
    doing = f"training {said.order}" if said.state == "training" else said.notice or said.state
    unsent = f", {said.unsent} unsent" if said.unsent else ""
    return f"{where}: {doing} ({said.orders} orders done{unsent})"


def read(folder: Path, root: Path = ROOT) -> dict[str, Any]:
    """The daemon's last words and what can be seen now: is it alive, how much memory does it use, how hot is it?

    Raises UseError where no daemon has run, or its words cannot be read.
    """
    try:
        said = msgspec.json.decode((folder / NAME).read_bytes(), type=Status)
    except FileNotFoundError:
        raise UseError(
            f"state folder {folder}: no device has run here; start one with: pleat-client run --server HOST:PORT "
            "--data shard.npz, or name its folder with --state DIR"
        ) from None
    except PermissionError:
        raise UseError(
            f"state folder {folder}: belongs to another user; look as root: sudo pleat-client status --state {folder}"
        ) from None
    except (OSError, msgspec.MsgspecError) as error:
        raise UseError(
            f"state folder {folder}: {NAME} cannot be read: {error}; the next start writes it anew"
        ) from None
    pid = lock.holder(folder)
    now = sensors.heartbeat(said.state if pid is not None else "stopped", root)
    waiting = [path for _, path in Store(folder).staged()]
    return {
        **msgspec.to_builtins(said),
        "state": now.state,
        "progress": said.progress if now.state == "training" else None,
        "loss": said.loss if now.state == "training" else None,
        "pid": pid,
        "seconds_ago": round(max(0.0, time.time() - said.since), 1),
        "unsent": len(waiting),
        "unsent_bytes": sum(_bytes(path) for path in waiting),
        "kept_bytes": sum(_bytes(path) for path in folder.rglob("*")),
        "rss_bytes": memory.tree_rss_bytes(pid, root) if pid is not None else None,
        "free_bytes": now.free_bytes,
        "celsius": now.celsius,
        "throttled": now.throttled,
        "hertz": now.hertz,
        "load": now.load,
        "folder": str(folder),
    }


def _bytes(path: Path) -> int:
    """Bytes of a file; 0 for what is none, or is gone by now."""
    try:
        found = path.lstat()
    except OSError:
        return 0
    return found.st_size if stat.S_ISREG(found.st_mode) else 0
