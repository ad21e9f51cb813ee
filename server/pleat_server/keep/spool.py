"""Spool: reports on disk before they are acknowledged, folded from there, dropped once a checkpoint contains them.

A report is written under a temporary name as its chunks arrive; `commit` fsyncs it, renames it into place and fsyncs
the folder, after which it survives any crash; those committed at once share the last step. Its size and CRC-32 are part
of its name, so that `read` notices a damaged file. A report that is already there is kept: committing the same order
again stores nothing. `drop` makes a round vanish at once; some of its files are written over by the next (`.spare`).

    ROOT/RUN/ROUND/RANK.SIZE.CRC.report    and    ROOT/RUN/ROUND/plan
"""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
import zlib
from pathlib import Path
from urllib.parse import quote

from pleat.disk import (
    clean,
    failure,
    free_bytes,
    make_folder,
    read_versioned,
    sync_folder,
    write_versioned,
)
from pleat.errors import LocalError, RemoteError
from pleat.exchange.order import OrderId
from pleat_server.keep.spool_writer import SpoolWriter

RESERVE = 32 << 20  # bytes left free for checkpoint and journal
SPARES = 8  # files kept to be overwritten
_PLAN_VERSION, _DROPPED = 1, ".dropped"


class Spool:
    """Thread-safe; one process at a time. Raises LocalError where the disk fails, with nothing half-written."""

    def __init__(self, root: Path, reserve: int = RESERVE) -> None:
        self.root = root
        self._reserve = reserve
        self._announced = 0  # bytes that open writers may still write
        self._lock = threading.Lock()
        self._placed: dict[Path, int] = {}  # folder -> renames into it
        self._synced: dict[Path, int] = {}  # how many of them are durable
        self._syncing = threading.Lock()
        self._spares = root / ".spare"
        make_folder(self._spares)
        for run in (p for p in root.iterdir() if p.is_dir()):
            for folder in (p for p in run.iterdir() if p.is_dir()):
                if folder.name.startswith(_DROPPED):
                    shutil.rmtree(folder, ignore_errors=True)
                else:
                    clean(folder)
                    sync_folder(folder)  # what is in place counts as durable from now on

    def writer(self, order_id: OrderId, size: int) -> SpoolWriter:
        """Begin a report of exactly `size` bytes. Raises LocalError if it would not fit on the disk."""
        if size <= 0:
            raise RemoteError(f"report of order {order_id} announces {size} bytes; a report has at least one")
        folder = self._folder(order_id.run, order_id.round)
        with self._lock:
            needed = size + self._announced + self._reserve
            if needed > free_bytes(self.root):
                shutil.rmtree(self._spares, ignore_errors=True)
            free = free_bytes(self.root)
            if needed > free:
                raise LocalError(
                    f"disk full: no room for the report of order {order_id} in {self.root}: {needed:,} bytes are "
                    f"needed ({self._reserve:,} of them in reserve), {free:,} are free; make room, and the device "
                    "sends it again"
                )
            self._announced += size
        try:
            make_folder(folder)
            return SpoolWriter(self, order_id, size, folder)
        except BaseException:
            self.release(size)
            raise

    def has(self, order_id: OrderId) -> bool:
        """Whether the report is durable here."""
        return self._find(order_id) is not None

    def name(self, order_id: OrderId, temporary: Path, target: Path) -> Path | None:
        """Rename a finished file, unless the report is there: two streams may bring it, and the first stays. Returns
        what was there. Raises OSError."""
        with self._lock:
            there = self._find(order_id)
            if there is None:
                os.replace(temporary, target)
                self._placed[target.parent] = self._placed.get(target.parent, 0) + 1
            return there

    def sync(self, order_id: OrderId) -> None:
        """Until every report of its round that is in place by now is durable. Raises LocalError."""
        folder = self._folder(order_id.run, order_id.round)
        wanted = self._placed.get(folder, 0)
        with self._syncing:
            if self._synced.get(folder, 0) >= wanted:
                return
            placed = self._placed.get(folder, 0)
            try:
                sync_folder(folder)
            except FileNotFoundError:
                return  # dropped: a checkpoint contains the round
            except OSError as error:
                raise failure(error, "folder", folder) from error
            self._synced[folder] = placed

    def size(self, order_id: OrderId) -> int:
        """Bytes of a report. Raises LocalError if there is none."""
        return int(self.path(order_id).name.split(".")[1])

    def path(self, order_id: OrderId) -> Path:
        """The file with the report's bytes. Raises LocalError if there is none."""
        if found := self._find(order_id):
            return found
        raise LocalError(f"no report of order {order_id} in {self.root}")

    def read(self, order_id: OrderId, check: bool = True) -> bytes:
        """The report's bytes. Raises LocalError if there is none, or if they are not those that were committed.

        `check=False` compares only the length: for a second reading right after the first.
        """
        path = self.path(order_id)
        try:
            data = path.read_bytes()
        except OSError as error:
            raise LocalError(f"cannot read {path}: {error.strerror or error}") from error
        _, size, crc, _ = path.name.split(".")
        if len(data) != int(size) or (check and zlib.crc32(data) != int(crc, 16)):
            raise LocalError(f"report of order {order_id} is damaged: {path} is not what was written; check the disk")
        return data

    def rounds(self, run: str) -> list[int]:
        """Rounds of which anything is kept, in order."""
        folder = self.root / _name(run)
        return sorted(int(p.name) for p in folder.iterdir() if p.name.isdigit()) if folder.is_dir() else []

    def ids(self, run: str, round: int) -> list[OrderId]:
        """The durable reports of one round, in order."""
        return sorted(OrderId(run, round, int(name.split(".")[0])) for name in self._names(run, round))

    def discard(self, order_id: OrderId) -> None:
        """Forget one report; nothing happens if there is none."""
        if found := self._find(order_id):
            found.unlink(missing_ok=True)

    def drop(self, run: str, round: int) -> None:
        """Forget a round: its reports and its plan, all at once."""
        folder = self._folder(run, round)
        self._placed.pop(folder, None)
        self._synced.pop(folder, None)
        aside = folder.with_name(f"{_DROPPED}-{folder.name}")
        shutil.rmtree(aside, ignore_errors=True)
        try:
            os.replace(folder, aside)
        except FileNotFoundError:
            return
        except OSError as error:
            raise failure(error, "folder", folder) from error
        with contextlib.suppress(OSError):
            for number, path in zip(range(SPARES), sorted(aside.glob("[0-9]*.report")), strict=False):
                os.replace(path, self._spares / f"{number}")
        shutil.rmtree(aside, ignore_errors=True)

    def spare(self) -> Path | None:
        """A file that may be overwritten, if there is one."""
        with contextlib.suppress(OSError):
            return self._spares / min(os.listdir(self._spares), default="none")
        return None

    def write_plan(self, run: str, round: int, plan: bytes) -> None:
        """Keep what was decided for a round, durably, before the first order goes out."""
        folder = self._folder(run, round)
        make_folder(folder)
        write_versioned(folder / "plan", _PLAN_VERSION, plan)

    def read_plan(self, run: str, round: int) -> bytes | None:
        """What was decided for a round, or None. Raises LocalError if the file is damaged."""
        try:
            return read_versioned(self._folder(run, round) / "plan", _PLAN_VERSION)[1]
        except FileNotFoundError:
            return None

    def release(self, size: int) -> None:
        """So many announced bytes are written, or will not come."""
        with self._lock:
            self._announced -= size

    def _folder(self, run: str, round: int) -> Path:
        return self.root / _name(run) / f"{round:06d}"

    def _names(self, run: str, round: int) -> list[str]:
        try:
            return [n for n in os.listdir(self._folder(run, round)) if n.endswith(".report") and not n.startswith(".")]
        except FileNotFoundError:
            return []

    def _find(self, order_id: OrderId) -> Path | None:
        start = f"{order_id.rank:06d}."
        names = [n for n in self._names(order_id.run, order_id.round) if n.startswith(start)]
        return self._folder(order_id.run, order_id.round) / min(names) if names else None


def _name(run: str) -> str:
    """A run's name as one harmless folder name."""
    name = quote(run, safe="")
    if not name or len(name) > 200:
        raise RemoteError(f"run name {run[:40]!r} is empty or too long for a folder's name")
    return f"%2E{name[1:]}" if name.startswith(".") else name
