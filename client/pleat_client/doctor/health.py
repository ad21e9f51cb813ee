"""Checks of the board's health: heat, voltage, and whether it brakes itself for either."""

from __future__ import annotations

from pleat_client.doctor.case import Case
from pleat_client.doctor.finding import Facts, Finding, Mark
from pleat_client.probe import board, thermal, throttle

BRAKES_AT = 80.0  # where a Pi begins to slow down; boards that name their own trip point are believed
NEAR = 5.0  # degrees
UNDER_VOLTAGE = throttle.BITS[0]
_COOL = "give it a heat sink or a fan; watch it with: watch -n2 cat /sys/class/thermal/thermal_zone0/temp"
_SUPPLY = "use the board's own power supply and a short thick cable; then: sudo reboot"


def temperature(case: Case) -> Finding:
    """Idle, a board should be well below where it brakes: training heats it by 20 degrees and more."""
    zone, fan = thermal.hottest(case.root), board.fan_rpm(case.root)
    if zone is None:
        return Finding("temperature", Mark.UNKNOWN, "the board tells none")
    brakes = zone.brakes_at or BRAKES_AT
    facts: Facts = {"celsius": zone.celsius, "brakes_at": brakes, "fan_rpm": fan}
    says = f"{zone.celsius:.0f} °C ({zone.name}); it slows down from {brakes:.0f} °C"
    if zone.celsius >= brakes + NEAR:
        return Finding("temperature", Mark.FAIL, says, _COOL, facts)
    if zone.celsius >= brakes - NEAR:
        stands = ", and the fan stands still" if fan == 0 else ""
        return Finding("temperature", Mark.WARN, says + stands, _COOL, facts)
    return Finding("temperature", Mark.OK, says, facts=facts)


def throttling(case: Case) -> Finding:
    """Held back by heat, now or since boot."""
    told = throttle.firmware(case.root, case.asks_firmware)
    if told is None:
        braked = throttle.cooled(case.root)
        if braked is None:
            return Finding("throttling", Mark.UNKNOWN, "the board does not tell", _hint(case))
        told = throttle.Throttling((braked,) if braked else ())
    now, before = (tuple(w for w in words if w != UNDER_VOLTAGE) for words in (told.now, told.before))
    facts: Facts = {"now": ", ".join(now), "since_boot": ", ".join(before)}
    if now:
        return Finding("throttling", Mark.WARN, f"now: {', '.join(now)}; rounds take longer", _COOL, facts)
    if before:
        return Finding("throttling", Mark.WARN, f"since boot: {', '.join(before)}", _COOL, facts)
    return Finding("throttling", Mark.OK, "none", facts=facts)


def voltage(case: Case) -> Finding:
    """Under-voltage (Pi) or over-current events (Jetson): both corrupt cards and slow the board down."""
    told = throttle.firmware(case.root, case.asks_firmware)
    if told is not None:
        if UNDER_VOLTAGE in told.now:
            return Finding("power", Mark.FAIL, "under-voltage now", _SUPPLY, {"now": True, "since_boot": True})
        if UNDER_VOLTAGE in told.before:
            return Finding("power", Mark.WARN, "under-voltage since boot", _SUPPLY, {"now": False, "since_boot": True})
        return Finding("power", Mark.OK, "no under-voltage since boot", facts={"now": False, "since_boot": False})
    alarm = throttle.undervolted(case.root)
    if alarm is not None:  # this alarm knows the moment alone
        if alarm:
            return Finding("power", Mark.FAIL, "under-voltage now", _SUPPLY, {"now": True, "since_boot": None})
        return Finding("power", Mark.OK, "no under-voltage now", facts={"now": False, "since_boot": None})
    counted = throttle.over_current(case.root)
    if counted is None:
        return Finding("power", Mark.UNKNOWN, "the board does not tell", _hint(case))
    facts: Facts = {"over_current_events": counted}
    if counted:
        says = f"{counted} over-current event{'s' * (counted != 1)} since boot"
        return Finding("power", Mark.WARN, says, "sudo nvpmodel -q; a stronger supply, or: sudo nvpmodel -m 0", facts)
    return Finding("power", Mark.OK, "no over-current event since boot", facts=facts)


def _hint(case: Case) -> str:
    """Why a Pi may not tell: its firmware is asked through a device of the group `video`."""
    return (
        "sudo usermod -aG video $(id -un); then log in anew: vcgencmd get_throttled" if case.board.kind == "pi" else ""
    )
