"""Spool: reports on disk before they are acknowledged, folded from there, dropped once a checkpoint contains them.

A report is written under a temporary name as its chunks arrive; `commit` fsyncs it, renames it into place and fsyncs
the folder, after which it survives any crash; those committed at once share the last step. Its size and CRC-32 are part
of its name, so that `read` notices a damaged file. A report that is already there is kept: committing the same order
again stores nothing. `drop` makes a round vanish at once.

    ROOT/RUN/ROUND/RANK.SIZE.CRC.report    and    ROOT/RUN/ROUND/plan
"""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

from pleat.disk import (
    Chunk,
    clean,
    failure,
    free_bytes,
    make_folder,
    read_versioned,
    sync_folder,
    temporary_beside,
    write_all,
    write_versioned,
)
from pleat.errors import LocalError, RemoteError
from pleat.exchange.order import OrderId

RESERVE = 32 << 20  # bytes left free for checkpoint and journal
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
        make_folder(root)
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
            free = free_bytes(self.root)
            needed = size + self._announced + self._reserve
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
            self._release(size)
            raise

    def has(self, order_id: OrderId) -> bool:
        """Whether the report is durable here."""
        return self._find(order_id) is not None

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
        shutil.rmtree(aside, ignore_errors=True)

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

    def _release(self, size: int) -> None:
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


class SpoolWriter:
    """One report on its way to disk: `write` chunks, `close`, look at it, then `commit` or `abort`.

    `commit` in pieces, for whoever has other work meanwhile: `flush`, `place`, and the spool's `sync`.

    One thread at a time. As a context manager it aborts on the way out unless it was committed.
    """

    def __init__(self, spool: Spool, order_id: OrderId, size: int, folder: Path) -> None:
        self.order_id, self.size, self.written = order_id, size, 0
        self._spool, self._folder = spool, folder
        self._crc = 0
        self._flushed = 0
        self._over = False
        self._named = folder / f"{order_id.rank:06d}.report"  # what messages call it
        self.path = temporary_beside(self._named)  # where the bytes are until `commit`
        try:
            self._descriptor: int | None = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
        except OSError as error:
            raise failure(error, "report", self._named, size) from error

    def write(self, chunk: Chunk) -> None:
        """Append a chunk. Raises RemoteError past the announced size; then, as on LocalError, the writer is aborted."""
        data = memoryview(chunk).cast("B")
        if self.written + data.nbytes > self.size:
            self.abort()
            raise RemoteError(f"report of order {self.order_id} is longer than the {self.size:,} bytes it announced")
        with self._guarded() as descriptor:
            write_all(descriptor, data)
        self._crc = zlib.crc32(data, self._crc)
        self.written += data.nbytes
        self._spool._release(data.nbytes)

    def close(self) -> Path:
        """No more chunks: returns the file, readable but not yet durable. Raises RemoteError if it fell short."""
        if self.written != self.size:
            self.abort()
            raise RemoteError(
                f"report of order {self.order_id} ended after {self.written:,} of the {self.size:,} bytes it announced"
            )
        return self.path

    def data(self) -> bytes:
        """Everything written, to be checked before `commit`."""
        with self._guarded():
            return self.path.read_bytes()

    def flush(self) -> None:
        """Have what was written reach the disk. May run in another thread beside `data`, and nothing else."""
        with self._guarded() as descriptor:
            os.fsync(descriptor)
        self._flushed = self.written

    def commit(self) -> Path:
        """Make the report durable under its order id; returns its file. Raises as `close` does."""
        target = self.place()
        self._spool.sync(self.order_id)
        return target

    def place(self) -> Path:
        """Give the report its name, its bytes being durable; the name is once the spool's `sync` returns."""
        self.close()
        target = self._folder / f"{self.order_id.rank:06d}.{self.size}.{self._crc:08x}.report"
        if self._flushed != self.written:
            self.flush()
        with self._spool._lock:  # two streams may bring the same report: the first stays
            there = self._spool._find(self.order_id)
            if there is None:
                with self._guarded():
                    os.replace(self.path, target)
                self._spool._placed[self._folder] = self._spool._placed.get(self._folder, 0) + 1
        (self._end if there is None else self.abort)()
        return there or target

    def abort(self) -> None:
        """Leave nothing behind. Safe to call twice, and after `commit`."""
        if not self._over:
            self._end()
            with contextlib.suppress(OSError):
                self.path.unlink()

    def __enter__(self) -> SpoolWriter:
        return self

    def __exit__(self, *error: object) -> None:
        self.abort()

    def _end(self) -> None:
        self._over = True
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
        self._spool._release(self.size - self.written)

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[int]:
        """The descriptor, with disk failures turned into one line after cleaning up."""
        if self._descriptor is None:
            raise LocalError(f"the spool's writer for order {self.order_id} is closed")
        try:
            yield self._descriptor
        except OSError as error:
            self.abort()
            raise failure(error, "report", self._named, self.size) from error


def _name(run: str) -> str:
    """A run's name as one harmless folder name."""
    name = quote(run, safe="")
    if not name or len(name) > 200:
        raise RemoteError(f"run name {run[:40]!r} is empty or too long for a folder's name")
    return f"%2E{name[1:]}" if name.startswith(".") else name
