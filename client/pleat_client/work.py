"""Work: an order in the daemon's hands, as bytes of which it reads only the id."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass
class Work:
    """An order that has arrived. `down_s`: seconds from its first byte to its last; `at`: when the last came."""

    order: str
    data: bytes
    down_s: float
    at: float
    size: int = 0  # bytes
    dropped: str = ""  # why it need not be done any more

    def taken(self) -> bytes:
        """The order's bytes, which this object no longer holds: they may be as large as the model."""
        data, self.data = self.data, b""
        return data


def report_bytes(report: Path | bytes | None) -> int:
    """Bytes of a report; 0 where there is none (any more)."""
    try:
        return report.stat().st_size if isinstance(report, Path) else len(report or b"")
    except OSError:
        return 0
