"""Disks that misbehave: full ones, real and pretended, and processes that die at a chosen disk operation."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

OPERATIONS = ("write", "fsync", "replace", "ftruncate")

_DIE = """
import os, sys
left = int(sys.argv[1])
def dying(real):
    def operation(*arguments, **named):
        global left
        left -= 1
        if left < 0:
            os._exit(77)
        return real(*arguments, **named)
    return operation
for name in {operations}:
    setattr(os, name, dying(getattr(os, name)))
"""


def full_after(monkeypatch: pytest.MonkeyPatch, room: int) -> None:
    """From now on files take `room` more bytes in all, then the disk is full; as a real one, it takes what fits."""
    real, left = os.write, [room]

    def write(descriptor: int, data: memoryview) -> int:
        if left[0] <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = real(descriptor, memoryview(data)[: left[0]])
        left[0] -= written
        return written

    monkeypatch.setattr(os, "write", write)


def crashes(script: str, *arguments: str) -> Iterator[int]:
    """Run `script` again and again, killed before its first, second ... disk operation, until one run completes.

    Yields the number of operations that were done, after each run, the complete one last.
    """
    code = _DIE.format(operations=OPERATIONS) + script
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    for done in range(100):
        words = [sys.executable, "-c", code, str(done), *arguments]
        ended = subprocess.run(words, capture_output=True, text=True, env=environment)
        if ended.returncode not in (0, 77):
            raise AssertionError(ended.stderr)
        yield done
        if ended.returncode == 0:
            return
    raise AssertionError("the script never completes")


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 128 KiB; skipped where one cannot be mounted."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting a tmpfs needs root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
