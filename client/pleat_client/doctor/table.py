"""The table of checks, in the order in which they are shown, and the walk through it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from pleat_client.doctor import health, network, resources, software
from pleat_client.doctor.case import Case
from pleat_client.doctor.finding import Finding, Mark

Check = Callable[[Case], "Finding | list[Finding]"]

CHECKS: tuple[Check, ...] = (
    software.python,
    software.architecture,
    software.torch,
    resources.groups,
    resources.memory,
    resources.disk,
    resources.clock,
    health.temperature,
    health.throttling,
    health.voltage,
    network.servers,
)


def examine(case: Case, checks: Sequence[Check] = CHECKS) -> Iterator[Finding]:
    """Every finding as it is made; some take seconds."""
    for check in checks:
        found = check(case)
        yield from found if isinstance(found, list) else [found]


def exit_code(findings: Sequence[Finding]) -> int:
    """1 where anything fails, else 0: a warning is for people."""
    return int(any(one.mark is Mark.FAIL for one in findings))
