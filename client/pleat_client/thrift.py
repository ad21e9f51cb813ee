"""Thrift: how glibc's allocator gives memory back, for processes that live long and hold much for a short while.

On another libc nothing happens. By itself glibc maps large buffers and unmaps them when freed, but with the first one
that is freed it raises the bound, and keeps buffers of that size in its heap from then on.
"""

from __future__ import annotations

import contextlib
import ctypes

_M_MMAP_THRESHOLD = -3  # malloc.h
LARGE = 128 * 1024


def map_large_buffers() -> None:
    """Keep the bound where it is: every buffer of `LARGE` or more goes back when freed.

    For the daemon. In the trainer it would cost a page fault for every page of every gradient, every step.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, LARGE)


def give_back() -> None:
    """Return what is free in the heap to the system; milliseconds."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
