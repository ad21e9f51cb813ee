"""Profile and heartbeat, native <-> protobuf. Unknown stays unknown: an absent field is None. Free of numpy."""

from __future__ import annotations

from typing import Any

from pleat.exchange.limits import BYTES, CHANNELS, COUNT, SECONDS, at_most, few, label, number, words
from pleat.exchange.report import Budgets, Heartbeat, Profile

_TEXT = 128
_TEXTS = ("board", "machine", "system", "python", "torch", "accelerator")


def profile_to_wire(profile: Profile, out: Any) -> None:
    """Fill a pb Profile. What is too long to send is cut."""
    out.SetInParent()
    for name in _TEXTS:
        setattr(out, name, words(getattr(profile, name), _TEXT))
    _set(out, "cores", profile.cores)
    _set(out, "memory", profile.memory_bytes)
    out.samples, out.classes, out.holdout = profile.samples, profile.classes, profile.holdout
    out.input_shape.extend(profile.input_shape)
    limit = profile.budgets
    _set(out.budgets, "memory", limit.memory_bytes)
    _set(out.budgets, "seconds", limit.seconds)
    _set(out.budgets, "upload", limit.upload_bytes)
    _set(out.budgets, "download", limit.download_bytes)


def profile_from_wire(wire: Any) -> Profile:
    """Raises RemoteError naming the field that breaks its limit."""
    few(wire.input_shape, 8, "axes in profile.input_shape")
    return Profile(
        **{name: label(getattr(wire, name), _TEXT, f"profile.{name}") for name in _TEXTS},
        cores=_real(wire, "cores", 0.0, 4096.0),
        memory_bytes=_whole(wire, "memory"),
        samples=at_most(wire.samples, COUNT, "profile.samples"),
        input_shape=tuple(at_most(n, CHANNELS, "profile.input_shape") for n in wire.input_shape),
        classes=at_most(wire.classes, CHANNELS, "profile.classes"),
        holdout=at_most(wire.holdout, COUNT, "profile.holdout"),
        budgets=Budgets(
            _whole(wire.budgets, "memory"),
            _real(wire.budgets, "seconds", 0.0, SECONDS),
            _whole(wire.budgets, "upload"),
            _whole(wire.budgets, "download"),
        ),
    )


def beat_to_wire(beat: Heartbeat, out: Any) -> None:
    """Fill a pb Heartbeat."""
    out.SetInParent()
    _set(out, "load", beat.load)
    _set(out, "free", beat.free_bytes)
    _set(out, "celsius", beat.celsius)
    _set(out, "throttled", beat.throttled)
    _set(out, "hertz", beat.hertz)
    out.state = words(beat.state, 32)


def beat_from_wire(wire: Any) -> Heartbeat:
    """Raises RemoteError naming the field that breaks its limit."""
    return Heartbeat(
        load=_real(wire, "load", 0.0, 1e6),
        free_bytes=_whole(wire, "free"),
        celsius=_real(wire, "celsius", -100.0, 1000.0),
        throttled=wire.throttled if wire.HasField("throttled") else None,
        hertz=_real(wire, "hertz", 0.0, 1e12),
        state=label(wire.state, 32, "heartbeat.state"),
    )


def _set(out: Any, name: str, value: float | None) -> None:
    if value is not None:
        setattr(out, name, value)


def _whole(wire: Any, name: str) -> int | None:
    return at_most(getattr(wire, name), BYTES, name) if wire.HasField(name) else None


def _real(wire: Any, name: str, low: float, high: float) -> float | None:
    return number(getattr(wire, name), low, high, name) if wire.HasField(name) else None
