"""Journal: what a run did, one JSON object a line, appended and fsynced; for people, plots and summaries.

Nothing is decided from it. A crash may tear the last line: reading passes over it, appending cuts it off first.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pleat.disk import failure, make_folder, set_aside, write_all, write_atomic
from pleat.errors import LocalError


class Journal:
    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, record: Mapping[str, Any]) -> None:
        """Add one line, durably. Raises LocalError with the journal as it was."""
        line = json.dumps(plain(record), separators=(",", ":"), allow_nan=False).encode() + b"\n"
        make_folder(self.path.parent)
        try:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                end = _whole_length(descriptor)
                os.ftruncate(descriptor, end)
                os.lseek(descriptor, end, os.SEEK_SET)
                try:
                    write_all(descriptor, memoryview(line))
                    os.fsync(descriptor)
                except OSError:
                    os.ftruncate(descriptor, end)
                    raise
            finally:
                os.close(descriptor)
        except OSError as error:
            raise failure(error, "journal", self.path, len(line)) from error

    def rewind(self, round: int) -> list[str]:
        """Forget records of rounds after `round`; damaged lines go too, and are told of. Returns what to tell."""
        good, damaged = _parse(self.path)
        notes = []
        if damaged:
            aside = set_aside(self.path)
            notes.append(f"journal: {len(damaged)} damaged lines, first {damaged[0]}; they are kept in {aside}")
        kept = [r for r in good if not _after(r, round)]
        if damaged or len(kept) != len(good):
            lines = [json.dumps(r, separators=(",", ":")) + "\n" for r in kept]
            write_atomic(self.path, "".join(lines).encode())
        return notes

    @staticmethod
    def read(path: Path) -> list[dict[str, Any]]:
        """All records; none if there is no file. A torn last line is passed over.

        Raises LocalError, naming the line, if one before it is damaged.
        """
        good, damaged = _parse(path)
        if damaged:
            raise LocalError(f"journal {path}: line {damaged[0]} is damaged; `pleat resume` sets the file aside")
        return good


def plain(value: Any) -> Any:
    """JSON's own types: numbers that JSON lacks (NaN, infinities) become null, numpy's arrays and scalars plain."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(v) for v in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    return value


def _after(record: Mapping[str, Any], round: int) -> bool:
    number = record.get("round")
    return isinstance(number, int) and number > round


def _whole_length(descriptor: int) -> int:
    """Length up to and with the last line end: what follows is torn."""
    end = os.fstat(descriptor).st_size
    while end > 0:
        start = max(0, end - 65536)
        found = os.pread(descriptor, end - start, start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0


def _parse(path: Path) -> tuple[list[dict[str, Any]], list[int]]:
    """(records, numbers of damaged lines); what follows the last line end is torn and neither."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return [], []
    except OSError as error:
        raise LocalError(f"cannot read {path}: {error.strerror or error}") from error
    good, damaged = [], []
    for number, line in enumerate(data.split(b"\n")[:-1], 1):
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        if isinstance(record, dict):
            good.append(record)
        else:
            damaged.append(number)
    return good, damaged
