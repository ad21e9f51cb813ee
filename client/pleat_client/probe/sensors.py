"""All sensors together: one sample, what an interval showed, and the heartbeat. Only what the board tells."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pleat.exchange.report import Heartbeat
from pleat_client.probe import board, frequency, memory, power, thermal, throttle
from pleat_client.probe.files import ROOT

SLOW = 0.9  # a clock below this share of the nominal one while training marks the round as throttled


@dataclass(frozen=True)
class Sample:
    """One look at the board; None = not told."""

    celsius: float | None = None
    throttled: bool | None = None
    events: int | None = None
    hertz: float | None = None
    share: float | None = None
    watts: float | None = None


def sample(root: Path = ROOT, ask: throttle.Run | None = None) -> Sample:
    """`ask`: see `throttle.throttling`; without it no process is started."""
    state, clock = throttle.throttling(root, ask), frequency.clock(root)
    return Sample(
        celsius=thermal.celsius(root),
        throttled=None if state is None else bool(state.now),
        events=throttle.events(root),
        hertz=None if clock is None else clock.hertz,
        share=None if clock is None else clock.share,
        watts=power.watts(root),
    )


def interval(samples: list[Sample]) -> dict[str, float]:
    """What samples at the start, in the middle and at the end of some work say about it, for a report's `sensors`.

    `celsius`: the highest; `hertz`: the lowest; `watts`: the mean; `throttled`: 1 when a flag held, an event was
    counted or the clock was slow in the middle of the work (at its edges a governor idles), else 0 where told.
    """
    found: dict[str, float] = {}
    celsius = [one.celsius for one in samples if one.celsius is not None]
    watts = [one.watts for one in samples if one.watts is not None]
    working = samples[1:-1] or samples
    hertz = [one.hertz for one in working if one.hertz is not None]
    if celsius:
        found["celsius"] = max(celsius)
    if hertz:
        found["hertz"] = min(hertz)
    if watts:
        found["watts"] = sum(watts) / len(watts)
    signs = _signs(samples, working)
    if signs:
        found["throttled"] = float(any(signs))
    return found


def heartbeat(state: str, root: Path = ROOT, ask: throttle.Run | None = None) -> Heartbeat:
    now = sample(root, ask)
    return Heartbeat(
        load=board.load(root),
        free_bytes=memory.free_bytes(root),
        celsius=now.celsius,
        throttled=now.throttled,
        hertz=now.hertz,
        state=state,
    )


def _signs(samples: list[Sample], working: list[Sample]) -> list[bool]:
    signs = [one.throttled for one in samples if one.throttled is not None]
    counts = [one.events for one in samples if one.events is not None]
    if len(counts) > 1:
        signs.append(counts[-1] > counts[0])
    if len(samples) > 2:
        signs += [one.share < SLOW for one in working if one.share is not None]
    return signs
