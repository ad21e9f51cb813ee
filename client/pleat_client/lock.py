"""One daemon a state folder: a lock that the kernel drops when its holder dies, however it dies."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from pleat.errors import LocalError, UseError

NAME = "lock"
QUEUE = "queue"


@contextlib.contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Hold the folder while the context lasts. Raises UseError, naming the holder, where another process does."""
    handle = _opened(folder, NAME)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UseError(
                f"state folder {folder}: in use by another pleat-client (process {_written(handle) or 'unknown'}); "
                "stop it, or give this one its own folder with --state DIR"
            ) from None
        os.ftruncate(handle, 0)
        os.write(handle, str(os.getpid()).encode())
        yield
    finally:
        os.close(handle)


@contextlib.contextmanager
def turn(folder: Path) -> Iterator[None]:
    """Wait for the folder, and hold it while the context lasts: for processes that come one after another.

    Raises UseError where a daemon, which never ends, holds it.
    """
    handle = _opened(folder, QUEUE)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        with hold(folder):
            yield
    finally:
        os.close(handle)


def _opened(folder: Path, name: str) -> int:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return os.open(folder / name, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise LocalError(f"state folder {folder}: cannot be used: {error}; give another one with --state DIR") from None


def holder(folder: Path) -> int | None:
    """Process id of the daemon that holds the folder now; None where none does."""
    try:
        handle = os.open(folder / NAME, os.O_RDWR)
    except OSError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return _written(handle)
    finally:
        os.close(handle)
    return None


def _written(handle: int) -> int | None:
    word = os.pread(handle, 20, 0)
    return int(word) if word.isdigit() else None
