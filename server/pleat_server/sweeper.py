"""Deleting in the background: what a closed round no longer needs goes while the next one is already under way.

One piece of work at a time; an error in it surfaces at the next `wait`, so nothing fails in silence.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor


class Sweeper:
    """A single background thread that is made when first needed."""

    def __init__(self) -> None:
        self._pool: ThreadPoolExecutor | None = None
        self._last: Future[None] | None = None

    def start(self, work: Callable[..., None], *arguments: object) -> None:
        """Begin `work(*arguments)`, after what was begun before. Raises whatever that raised."""
        self.wait()
        if self._pool is None:
            self._pool = ThreadPoolExecutor(1, thread_name_prefix="pleat-sweep")
        self._last = self._pool.submit(work, *arguments)

    def wait(self) -> None:
        """Until nothing is under way. Raises whatever the last work raised."""
        last, self._last = self._last, None
        if last is not None:
            last.result()
