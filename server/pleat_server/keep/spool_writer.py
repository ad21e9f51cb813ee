"""SpoolWriter: one report on its way into the spool, chunk by chunk, and under its name once it is whole."""

from __future__ import annotations

import contextlib
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from pleat.disk import Chunk, failure, open_temporary, temporary_beside, write_all
from pleat.errors import LocalError, RemoteError
from pleat.exchange.order import OrderId

if TYPE_CHECKING:
    from pleat_server.keep.spool import Spool


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
            self._descriptor: int | None = open_temporary(self.path, over=spool.spare())
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
            if self.written + data.nbytes == self.size:
                os.ftruncate(descriptor, self.size)  # what it is written over may be longer
        self._crc = zlib.crc32(data, self._crc)
        self.written += data.nbytes
        self._spool.release(data.nbytes)

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
        with self._guarded(), self.path.open("rb") as file:
            return file.read(self.written)

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
        with self._guarded():
            there = self._spool.name(self.order_id, self.path, target)
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
        self._spool.release(self.size - self.written)

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
