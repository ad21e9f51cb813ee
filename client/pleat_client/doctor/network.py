"""Checks of the way to the servers: name, port, certificate, version, speed."""

from __future__ import annotations

from pleat.errors import PleatError
from pleat.exchange import limits
from pleat_client.doctor.case import Case
from pleat_client.doctor.finding import Facts, Finding, Mark
from pleat_client.link_ask import Reached

SLOW_BYTES = 1e6 / 8  # a second: below this the link is what a round waits for
FAR_S = 0.5


def servers(case: Case) -> list[Finding]:
    """One finding for every server asked."""
    if not case.servers:
        return [Finding("server", Mark.UNKNOWN, "none given", "pleat-client doctor --server HOST:PORT")]
    return [_server(address, found) for address, found in case.answers.items()]


def _server(address: str, found: Reached | PleatError) -> Finding:
    if isinstance(found, PleatError):
        says, _, remedy = str(found).partition("; ")
        return Finding("server", Mark.FAIL, says, remedy, {"server": address})
    answer = found.answer
    facts: Facts = {
        "server": address,
        "run": answer.run,
        "software": answer.software,
        "rtt_s": found.rtt_s,
        "up_bytes_s": found.up,
        "down_bytes_s": found.down,
        "smallest_bytes": answer.smallest,
    }
    if answer.protocol != limits.PROTOCOL:
        says = f"{address} runs pleat {answer.software}, which speaks protocol {answer.protocol}, not {limits.PROTOCOL}"
        older = "this device" if answer.protocol > limits.PROTOCOL else "the server"
        return Finding("server", Mark.FAIL, says, f"upgrade pleat on {older}", facts)
    says = f"{address}, run {answer.run}: {found.rtt_s * 1e3:.1f} ms there and back, {_speed(found.up)} up, "
    says += f"{_speed(found.down)} down"
    slow = any(rate is not None and rate < SLOW_BYTES for rate in (found.up, found.down))
    if slow or found.rtt_s > FAR_S:
        return Finding("server", Mark.WARN, f"{says}: a slow link", f"ping -c 5 {address.rpartition(':')[0]}", facts)
    return Finding("server", Mark.OK, says, facts=facts)


def _speed(rate: float | None) -> str:
    if rate is None:
        return "unknown"
    megabits = rate * 8 / 1e6
    return f"{megabits:.0f} Mbit/s" if megabits >= 100 else f"{megabits:.2g} Mbit/s"
