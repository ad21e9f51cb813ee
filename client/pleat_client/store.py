"""Store: everything a device keeps on its disk, in one folder, atomic and without torch.

    identity                      32 random bytes made at the first start, readable by the owner alone
    runs/RUN/7-2.acked            the state after round 7's order (rank 2), whose report the server has
    runs/RUN/8-2.staged           a report not yet answered
    runs/RUN/8-2.next             the state that follows it; without its report it counts for nothing
    runs/RUN/6-2.returned         the state of a report that came back; what it sent still has to join the residual
    runs/RUN/.spare.*             a report and a state of no more use, which the next ones are written over

A report is in place, after its state, before anything is sent; so a crash at any moment leaves either the order undone
or a report that will be sent again. An answer renames the state, then removes the report. Damaged files are set aside,
with a line in `notes`, and never used.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote

from pleat.disk import (
    TEMPORARY,
    Content,
    failure,
    make_folder,
    read_versioned,
    set_aside,
    sync_folder,
    versioned,
    write_together,
)
from pleat.errors import LocalError
from pleat.exchange.order import OrderId

VERSION = 1  # of the state files
STALE_S = 60.0  # a temporary file of this age is nobody's
KEPT_S = 14 * 86400.0  # a run unheard of for so long is forgotten
_STAGED, _NEXT, _ACKED, _RETURNED = ".staged", ".next", ".acked", ".returned"


@dataclass(frozen=True)
class Past:
    """One state of a run: the order that it follows, what became of that order's report, and the state's bytes."""

    order_id: OrderId
    fate: str  # "acked", "staged" or "returned"
    state: bytes


class Store:
    """One device's folder. The daemon and its child may both use it; only one of them stages."""

    def __init__(self, root: Path, clock: Callable[[], float] = time.time) -> None:
        self.root, self._clock = Path(root), clock
        self.notes: list[str] = []  # what was set aside or forgotten, for the log

    def identity(self) -> bytes:
        """The device's secret, made at the first call. Raises LocalError where it cannot be kept or is damaged."""
        path = self.root / "identity"
        make_folder(self.root)
        try:
            if not path.exists():
                _create_private(path, secrets.token_bytes(32))
            secret = path.read_bytes()
        except OSError as error:
            raise failure(error, "identity", path) from None
        if len(secret) != 32:
            raise LocalError(f"identity {path}: {len(secret)} bytes, expected 32; remove it to become a new device")
        return secret

    def stage(self, order_id: OrderId, report: bytes, state: bytes | None = None) -> Path:
        """Keep a report and the state that follows it, together or not at all; returns the report's file.

        Without a state (a refusal, for one) the report stands alone. Raises LocalError when the disk will not take it.
        """
        place, state_file = self._place(order_id, _STAGED), self._place(order_id, _NEXT)
        files: list[tuple[Path, Content]] = [(place, report)]
        try:
            make_folder(place.parent)
            if state is None:
                state_file.unlink(missing_ok=True)
            else:
                files.insert(0, (state_file, versioned(VERSION, state)))
            write_together(files, over={path: path.with_name(f".spare{path.suffix}") for path, _ in files})
        except OSError as error:
            raise failure(error, "report", place, len(report) + len(state or b"")) from None
        return place

    def staged(self) -> list[tuple[OrderId, Path]]:
        """(order id, report's file) of every report not yet answered, of all runs, oldest first."""
        return self._all(_STAGED)

    def commit(self, order_id: OrderId) -> None:
        """The report was acknowledged: the state that follows it holds. An unknown order changes nothing."""
        if self._answered(order_id, _ACKED):
            self._keep_newest(order_id.run)

    def give_back(self, order_id: OrderId) -> None:
        """The report came back: what it sent joins the residual of the next order. An unknown order changes nothing."""
        self._answered(order_id, _RETURNED)

    def _answered(self, order_id: OrderId, fate: str) -> bool:
        """The fate of a staged report; whether a state follows from it."""
        place, state = self._place(order_id, _STAGED), self._place(order_id, _NEXT)
        follows = place.exists() and state.exists()
        if follows:
            os.replace(state, self._place(order_id, fate))
        with contextlib.suppress(FileNotFoundError):
            os.replace(place, self._spare(order_id, _STAGED))
        return follows

    def past(self, run: str) -> list[Past]:
        """The states of a run that still matter, oldest first; damaged ones are set aside. See `state.recall`."""
        out = []
        for fate in (_ACKED, _STAGED, _RETURNED):
            for order_id, path in self._all(fate, run):
                data = self._read(path.with_suffix(_NEXT) if fate == _STAGED else path)
                if data is not None:
                    out.append(Past(order_id, fate[1:], data))
        return sorted(out, key=lambda p: p.order_id)

    def forget_returned(self, order_ids: list[OrderId]) -> None:
        """What these reports sent is in the residual of a later staged state; called after that has been staged."""
        for order_id in order_ids:
            self._place(order_id, _RETURNED).unlink(missing_ok=True)

    def tidy(self, run: str) -> None:
        """Forget what a killed process left half-written, and runs other than `run` that were not touched for two
        weeks: cards are small and residuals are not. For the process that stages states."""
        present = self.root / "runs" / quote(run, safe="")
        for stale in present.glob(f"*{_NEXT}"):
            if not stale.with_suffix(_STAGED).exists():
                stale.unlink(missing_ok=True)
        for stale in present.glob(f".*{TEMPORARY}"):
            if self._clock() - stale.stat().st_mtime > STALE_S:  # a younger one may be the daemon's
                stale.unlink(missing_ok=True)
        for folder in sorted((self.root / "runs").glob("*")):
            if folder.name == quote(run, safe="") or not folder.is_dir():
                continue
            touched = max((p.stat().st_mtime for p in (folder, *folder.iterdir())), default=0.0)
            if self._clock() - touched > KEPT_S:
                shutil.rmtree(folder, ignore_errors=True)
                self.notes.append(f"forgot run {unquote(folder.name)}: not heard of for {KEPT_S / 86400:.0f} days")

    def _keep_newest(self, run: str) -> None:
        for order_id, path in self._all(_ACKED, run)[:-1]:
            with contextlib.suppress(FileNotFoundError):
                os.replace(path, self._spare(order_id, _NEXT))

    def _place(self, order_id: OrderId, fate: str) -> Path:
        return self.root / "runs" / quote(order_id.run, safe="") / f"{order_id.round}-{order_id.rank}{fate}"

    def _spare(self, order_id: OrderId, fate: str) -> Path:
        return self._place(order_id, fate).with_name(f".spare{fate}")

    def _all(self, fate: str, run: str | None = None) -> list[tuple[OrderId, Path]]:
        runs = self.root / "runs"
        folders = sorted(runs.glob("*")) if run is None else [runs / quote(run, safe="")]
        found = []
        for folder in folders:
            for path in folder.glob(f"[0-9]*-[0-9]*{fate}"):
                number, rank = path.name.removesuffix(fate).split("-")
                found.append((OrderId(unquote(folder.name), int(number), int(rank)), path))
        return sorted(found)

    def _read(self, path: Path) -> bytes | None:
        try:
            return read_versioned(path, VERSION)[1]
        except FileNotFoundError:  # a refusal has no state; or the other process has just renamed it
            return None
        except LocalError as error:
            self.notes.append(f"set aside {set_aside(path)}: {error}")
            return None


def _create_private(path: Path, data: bytes) -> None:
    """Write a file that only its owner may read, whole or not at all; one that is there already stays."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        os.write(handle, data)
        os.fsync(handle)
    finally:
        os.close(handle)
    try:
        os.link(fresh, path)
    except FileExistsError:
        pass
    finally:
        fresh.unlink(missing_ok=True)
    sync_folder(path.parent)
