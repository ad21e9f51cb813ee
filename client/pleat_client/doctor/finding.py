"""Finding: what one check found out, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

Facts = dict[str, "float | int | str | bool | None"]


class Mark(str, Enum):
    """UNKNOWN: the board does not tell. It is no fault, and never counts as OK."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Finding:
    """`says`: one line; `remedy`: the command to type, or what to do by hand; `facts`: the numbers behind it, in bytes,
    seconds and degrees Celsius."""

    check: str
    mark: Mark
    says: str
    remedy: str = ""
    facts: Facts = field(default_factory=dict)


def mib(count: float) -> str:
    return f"{count / 2**20:.0f} MiB"
