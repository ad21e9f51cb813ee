"""Disk work in the background: what must be durable soon, or gone some time, while the round goes on.

Pieces of work are taken up in the order they were begun; an error surfaces at the next `wait`, so nothing fails in
silence.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any


class Background:
    """`threads`: how many pieces of work may be under way at once; the threads are made when first needed."""

    def __init__(self, threads: int = 1) -> None:
        self._threads = threads
        self._pool: ThreadPoolExecutor | None = None
        self._begun: list[Future[Any]] = []

    def start(self, work: Callable[..., object], *arguments: object) -> Future[Any]:
        """Have `work(*arguments)` done; returns what tells when it is."""
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="pleat-background")
        self._begun.append(self._pool.submit(work, *arguments))
        return self._begun[-1]

    def wait(self) -> None:
        """Until nothing is under way. Raises what the first work that failed raised."""
        begun, self._begun = self._begun, []
        for work in begun:
            work.result()
