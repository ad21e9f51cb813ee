"""Handler: what the link tells whoever uses it; the daemon is one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class Handler(Protocol):
    """Who is told. Called from the link's event loop; must not block."""

    def held(self) -> Sequence[str]:
        """Orders ("run/round/rank") that are being done or waiting, and need not be sent again."""

    def on_joined(self, run: str) -> None: ...

    def on_lost(self, reason: str) -> None:
        """The connection is gone, or could not be made; the link tries again by itself."""

    def on_order(self, data: bytes, down_s: float) -> None:
        """An order has arrived whole, `down_s` seconds after its first byte. A `Link.report` answers it."""

    def on_cancel(self, order: str) -> None: ...

    def on_ack(self, order: str) -> None:
        """The report is durable on the server."""

    def on_returned(self, order: str, reason: str) -> None:
        """The report is not used."""

    def on_notify(self, text: str) -> None: ...
