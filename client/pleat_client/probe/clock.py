"""The clock: does the kernel take it for synchronised? A Pi has no battery for it and wakes up in the past."""

from __future__ import annotations

import ctypes

_STRUCT_TIMEX = 1024  # bytes; the largest one there is has 208
_TIME_ERROR = 5  # adjtimex(2): not synchronised
_STATES = range(_TIME_ERROR + 1)


def synchronised() -> bool | None:
    """What adjtimex(2) says, whichever program disciplines the clock; None where it cannot be asked."""
    try:
        state = ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(_STRUCT_TIMEX))  # modes = 0: only ask
    except (OSError, AttributeError):
        return None
    return state != _TIME_ERROR if state in _STATES else None
