"""The C heap of a server that runs for weeks: large arrays go back to the system when they are freed.

glibc raises the size from which it maps memory afresh each time a mapped block is freed, up to 32 MiB; from then on a
model's arrays come from per-thread arenas that keep them. A fixed threshold switches that off. Elsewhere: no effect.
"""

from __future__ import annotations

import ctypes

_M_MMAP_THRESHOLD = -3  # mallopt(3)


def map_large_blocks(from_bytes: int = 256 << 10) -> bool:
    """Let every block of at least `from_bytes` be a mapping of its own; tells whether the C library took it."""
    try:
        return bool(ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, from_bytes))
    except (AttributeError, OSError):  # not glibc
        return False
