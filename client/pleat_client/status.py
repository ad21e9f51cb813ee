"""Status: what the daemon last said about itself, in a small file of its state folder; `pleat-client status` reads it.

Written on change only and without fsync: it is for people, may be lost, and SD cards wear.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from typing import Any

import msgspec

from pleat.errors import UseError
from pleat_client import lock
from pleat_client.probe import memory, sensors
from pleat_client.probe.files import ROOT

NAME = "status.json"


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """`state`: starting, idle, training, stopped."""

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
    since: float = 0.0  # Unix time of the last change


def write(folder: Path, status: Status) -> None:
    """Replace the file; a disk that does not take it is no reason to stop working."""
    fresh = folder / f".{NAME}.new"
    try:
        fresh.write_bytes(msgspec.json.encode(status))
        os.replace(fresh, folder / NAME)
    except OSError:
        with contextlib.suppress(OSError):
            fresh.unlink()


def read(folder: Path, root: Path = ROOT) -> dict[str, Any]:
    """The daemon's last words and what can be seen now: is it alive, how much memory does it use, how hot is it?"""
    try:
        said = msgspec.json.decode((folder / NAME).read_bytes(), type=Status)
    except FileNotFoundError:
        raise UseError(
            f"state folder {folder}: no device has run here; start one with: pleat-client run --server HOST:PORT "
            "--data shard.npz, or name its folder with --state DIR"
        ) from None
    except (OSError, msgspec.MsgspecError) as error:
        raise UseError(
            f"state folder {folder}: {NAME} cannot be read: {error}; the next start writes it anew"
        ) from None
    pid = lock.holder(folder)
    now = sensors.heartbeat(said.state if pid is not None else "stopped", root)
    return {
        **msgspec.structs.asdict(said),
        "state": now.state,
        "pid": pid,
        "seconds_ago": round(max(0.0, time.time() - said.since), 1),
        "rss_bytes": memory.tree_rss_bytes(pid, root) if pid is not None else None,
        "free_bytes": now.free_bytes,
        "celsius": now.celsius,
        "throttled": now.throttled,
        "hertz": now.hertz,
        "load": now.load,
        "folder": str(folder),
    }
