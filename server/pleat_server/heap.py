"""The C heap of a server that runs for weeks: threads share what they free.

glibc gives each thread an arena of its own and keeps freed blocks there, so reports that pass through several threads
leave a model's size behind in each. With few arenas a freed block serves whoever asks next. (Mapping each large block
afresh would free as much, but page faults made a round twice as slow.) Elsewhere than on glibc: no effect.
"""

from __future__ import annotations

import ctypes

_M_ARENA_MAX = -8  # mallopt(3)


def share_arenas(count: int = 1) -> bool:
    """Let all threads made from now on use `count` arenas; tells whether the C library took it."""
    try:
        return bool(ctypes.CDLL(None).mallopt(_M_ARENA_MAX, count))
    except (AttributeError, OSError):  # not glibc
        return False
