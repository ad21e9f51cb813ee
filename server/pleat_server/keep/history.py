"""History: the device-budget table for people (`pleat devices`), in SQLite. Nothing is decided from it.

It can be rebuilt by running on, so it is not fsynced, and a file that SQLite refuses is set aside and made anew.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pleat.disk import make_folder, set_aside
from pleat.errors import LocalError, UseError
from pleat_server.keep.journal import plain

SCHEMA = 1
_CREATE = "CREATE TABLE IF NOT EXISTS device (name TEXT PRIMARY KEY, facts TEXT NOT NULL, seen REAL)"
_GET = "SELECT facts, seen FROM device WHERE name = ?"
_PUT = "INSERT OR REPLACE INTO device (name, facts, seen) VALUES (?, ?, ?)"


class History:
    """Thread-safe. `notes` says what happened on opening, for the log."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.notes: list[str] = []
        self._lock = threading.Lock()
        make_folder(path.parent)
        try:
            self._database = _open(path)
        except sqlite3.DatabaseError as error:
            self.notes.append(f"history {path}: {error}; kept as {_retire(path).name}, a new one is begun")
            self._database = _open(path)

    def upsert(self, row: Mapping[str, Any]) -> None:
        """Add a device, or replace those facts of it that `row` names; `name` is the key, `seen` a Unix time."""
        self.upsert_all([row])

    def upsert_all(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """`upsert` for many rows in one transaction."""
        given = [dict(row) for row in rows]
        for row in given:
            if not isinstance(row.get("name"), str) or not row["name"]:
                raise UseError(f"a row of the history needs the device's name, got {row.get('name')!r}")

        def put(database: sqlite3.Connection) -> None:
            for row in given:
                name = row["name"]
                facts, seen = database.execute(_GET, (name,)).fetchone() or ("{}", None)
                new = {k: plain(v) for k, v in row.items() if k not in ("name", "seen")}
                database.execute(_PUT, (name, json.dumps({**json.loads(facts), **new}), row.get("seen", seen)))

        self._run(put)

    def rows(self) -> list[dict[str, Any]]:
        """One dict per device, by name: `name`, its facts, and `seen` where it is known."""
        found = self._run(lambda db: db.execute("SELECT name, facts, seen FROM device ORDER BY name").fetchall())
        return [{"name": n, **json.loads(f), **({} if s is None else {"seen": s})} for n, f, s in found]

    def close(self) -> None:
        with self._lock:
            self._database.close()

    def _run(self, work: Any) -> Any:
        try:
            with self._lock, self._database as database:
                return work(database)
        except sqlite3.Error as error:
            raise LocalError(f"history {self.path}: {error}; it can be deleted, running on rebuilds it") from error


def _open(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(path, check_same_thread=False)
    try:
        database.execute("PRAGMA synchronous = OFF")  # rebuildable: a round need not wait for it
        if database.execute("PRAGMA quick_check").fetchone() != ("ok",):
            raise sqlite3.DatabaseError("its pages are damaged")
        found = int(database.execute("PRAGMA user_version").fetchone()[0])
        if found not in (0, SCHEMA):
            raise sqlite3.DatabaseError(f"it has schema {found}, this pleat writes {SCHEMA}")
        with database:
            database.execute(_CREATE)
            database.execute(f"PRAGMA user_version = {SCHEMA}")
        database.execute("SELECT name, facts, seen FROM device LIMIT 1")
    except BaseException:
        database.close()
        raise
    return database


def _retire(path: Path) -> Path:
    for suffix in ("-journal", "-wal", "-shm"):
        with contextlib.suppress(OSError):
            path.with_name(path.name + suffix).unlink()
    return set_aside(path)
