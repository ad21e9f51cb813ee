"""Keep: where a run is kept, its spool, journal and checkpoints in one folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pleat_server.keep.journal import Journal
from pleat_server.keep.spool import Spool


@dataclass(frozen=True)
class Keep:
    """Where a run is kept."""

    folder: Path
    spool: Spool
    journal: Journal

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoint"
