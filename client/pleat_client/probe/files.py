"""Reading the small files of /proc and /sys under a movable root; whatever cannot be read is None.

Sensors come and go (a hot-plugged board, a container's mask, EAGAIN from a driver), so an unreadable file is no error.
"""

from __future__ import annotations

from pathlib import Path

ROOT = Path("/")
_LIMIT = 1 << 20  # no sensor file is longer; /proc/meminfo is 1.5 KB


def text(path: Path) -> str | None:
    """The file's text, stripped (device-tree strings end with a NUL)."""
    try:
        with path.open("rb") as stream:
            return stream.read(_LIMIT).decode("utf-8", "replace").strip("\0 \t\r\n")
    except OSError:
        return None


def number(path: Path) -> int | None:
    """The file's text as a whole number."""
    found = text(path)
    try:
        return int(found) if found else None
    except ValueError:
        return None


def table(path: Path, separator: str | None = None) -> dict[str, str]:
    """Lines of `key separator value` as a dictionary; empty when there is no such file."""
    pairs = (line.split(separator, 1) for line in (text(path) or "").splitlines())
    return {pair[0].strip(): pair[1].strip() for pair in pairs if len(pair) == 2}


def matching(folder: Path, pattern: str) -> list[Path]:
    """Paths under `folder` that match, sorted; none when the folder cannot be listed."""
    try:
        return sorted(folder.glob(pattern))
    except OSError:
        return []
