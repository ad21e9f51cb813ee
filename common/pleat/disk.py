"""Atomic, versioned files: after a crash at any instant a file is the old one or the new one, whole.

A write goes to a temporary file in the same folder, is fsynced, renamed over the target, and the folder is fsynced.
A disk that is full or refuses leaves the target as it was, no temporary file, and a `LocalError` that says what was
being written, where, how much was needed and how much is free.

What is written and dropped round after round may be written `over` a file that nobody needs any more: its blocks and
pages are there, so this takes well under half the time of a fresh file.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import shutil
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from pleat.errors import LocalError

Chunk = bytes | bytearray | memoryview
Content = Chunk | Iterable[Chunk]

MAGIC = b"PLEATFIL"
_HEAD = struct.Struct("<8sIQI")  # magic, version, payload length, CRC-32 of version, length and payload
TEMPORARY = ".tmp"
_TOKEN = os.urandom(4).hex()  # tells this process's temporary files from those of a crashed one of the same pid
_serial = itertools.count()


def chunks_of(content: Content) -> Iterator[memoryview]:
    """The content's pieces as flat byte views."""
    pieces: Iterable[Chunk] = (content,) if isinstance(content, bytes | bytearray | memoryview) else content
    for piece in pieces:
        yield memoryview(piece).cast("B")


def write_all(descriptor: int, data: memoryview) -> None:
    """`os.write` until everything is written."""
    while data.nbytes:
        data = data[os.write(descriptor, data) :]


def sync_folder(folder: Path) -> None:
    """Make renames inside `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0))
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def free_bytes(folder: Path) -> int:
    """Bytes that may still be written under `folder` (or its nearest parent that exists)."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return shutil.disk_usage(folder).free


def failure(error: OSError, what: str, path: Path, needed: int | None = None) -> LocalError:
    """The one line for a disk that failed; `needed`: bytes that were to be written, where known."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        with contextlib.suppress(OSError):
            need = "" if needed is None else f"{needed:,} bytes are needed, "
            free = free_bytes(path.parent)
            return LocalError(
                f"disk full while writing {what} {path}: {need}{free:,} are free; make room and try again"
            )
    return LocalError(f"cannot write {what} {path}: {error.strerror or error}; check the folder's owner and mount")


def make_folder(folder: Path) -> None:
    """Create `folder` and its parents, durably. Raises LocalError."""
    try:
        missing = [p for p in (folder, *folder.parents) if not p.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        for made in reversed(missing):
            sync_folder(made.parent)
    except OSError as error:
        raise failure(error, "folder", folder) from error


def temporary_beside(path: Path) -> Path:
    """A fresh name in the same folder, hidden, and known to `clean`."""
    return path.with_name(f".{path.name}.{next(_serial)}{_own_mark()}")


def _own_mark() -> str:
    return f".{os.getpid()}-{_TOKEN}{TEMPORARY}"


def clean(folder: Path) -> None:
    """Remove temporary files that a crashed process left in `folder`. Call when no other process writes there."""
    for stale in folder.glob(f".*{TEMPORARY}"):
        if not stale.name.endswith(_own_mark()):
            with contextlib.suppress(OSError):
                stale.unlink()


def write_atomic(path: Path, content: Content, *, mode: int = 0o644) -> None:
    """Replace `path` by `content` (bytes, or an iterable of chunks) atomically and durably. Raises LocalError."""
    write_together([(path, content)], mode=mode)


def write_together(
    files: Iterable[tuple[Path, Content]], *, mode: int = 0o644, over: Mapping[Path, Path] | None = None
) -> None:
    """Several files of one folder, all fsynced before the first is renamed; renamed in the order given.

    `over`: target -> a file beside it whose content nobody needs, to be used up for it, if it is there.

    A later file may depend on what was written of an earlier one: contents are consumed in order. Each replacement is
    atomic; a crash between two leaves the earlier new and the later old. Raises LocalError, with nothing replaced.
    """
    staged: list[tuple[Path, Path]] = []
    try:
        for path, content in files:
            temporary = temporary_beside(path)
            staged.append((temporary, path))
            _write_temporary(temporary, path, content, mode, (over or {}).get(path))
        for temporary, path in staged:
            os.replace(temporary, path)
        for folder in {path.parent for _, path in staged}:
            sync_folder(folder)
    except BaseException as error:
        for temporary, _ in staged:
            with contextlib.suppress(OSError):
                temporary.unlink()
        if isinstance(error, OSError):
            raise failure(error, "file", staged[-1][1]) from error
        raise


def _write_temporary(temporary: Path, path: Path, content: Content, mode: int, over: Path | None) -> None:
    size = memoryview(content).nbytes if isinstance(content, bytes | bytearray | memoryview) else None
    try:
        descriptor = open_temporary(temporary, mode, over)
        try:
            for piece in chunks_of(content):
                write_all(descriptor, piece)
            os.ftruncate(descriptor, os.lseek(descriptor, 0, os.SEEK_CUR))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise failure(error, "file", path, size) from error


def open_temporary(temporary: Path, mode: int = 0o644, over: Path | None = None) -> int:
    """A descriptor to write and read `temporary` from its beginning: the file `over`, renamed, or a new one.

    What stood in `over` still stands behind what is written: cut it off before the file counts. Raises OSError.
    """
    if over is not None:
        with contextlib.suppress(FileNotFoundError):
            os.replace(over, temporary)
            return os.open(temporary, os.O_RDWR)
    return os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, mode)


def write_versioned(path: Path, version: int, payload: bytes, *, mode: int = 0o644) -> None:
    """Write `payload` atomically under a header with the format's `version` and a CRC-32. Raises LocalError."""
    write_atomic(path, versioned(version, payload), mode=mode)


def versioned(version: int, payload: bytes) -> tuple[bytes, bytes]:
    """Header and payload of a versioned file, for `write_together`.

    The checksum is against decay, not against forgers: whoever can write here can write anything.
    """
    return _HEAD.pack(MAGIC, version, len(payload), _checksum(version, payload)), payload


def read_versioned(path: Path, newest: int | None = None) -> tuple[int, bytes]:
    """(version, payload) of a file written by `write_versioned`.

    Raises FileNotFoundError if there is none, and LocalError if it is damaged or of a version above `newest`.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise LocalError(f"cannot read {path}: {error.strerror or error}") from error
    if len(data) < _HEAD.size:
        raise LocalError(f"{path} is damaged: {len(data)} bytes, a header alone has {_HEAD.size}")
    magic, version, length, checksum = _HEAD.unpack_from(data)
    if magic != MAGIC:
        raise LocalError(f"{path} is damaged or no file of pleat's: it starts with {magic!r}, not {MAGIC!r}")
    payload = data[_HEAD.size :]
    if len(payload) != length:
        raise LocalError(f"{path} is damaged: {length} bytes of payload announced, {len(payload)} found")
    if _checksum(version, payload) != checksum:
        raise LocalError(f"{path} is damaged: its content does not have the CRC-32 it was written with")
    if newest is not None and version > newest:
        raise LocalError(f"{path} has format {version}, this pleat reads up to {newest}; install a newer pleat")
    return version, payload


def _checksum(version: int, payload: bytes) -> int:
    return zlib.crc32(payload, zlib.crc32(struct.pack("<IQ", version, len(payload))))


def set_aside(path: Path) -> Path:
    """Rename a damaged file to NAME.damaged[-N] in the same folder, where it can be looked at; returns the new path."""
    for number in itertools.count():
        aside = path.with_name(f"{path.name}.damaged{f'-{number}' if number else ''}")
        if not aside.exists():
            try:
                os.replace(path, aside)
                sync_folder(path.parent)
            except OSError as error:
                raise failure(error, "file", aside) from error
            return aside
    raise AssertionError("itertools.count ended")
