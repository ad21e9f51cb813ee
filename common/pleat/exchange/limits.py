"""Limits of protocol version 1, and the checks of what a peer sent. Free of numpy: the idle daemon imports it.

Every check raises RemoteError naming the field, the limit and what came. The numbers are those of proto/pleat/v1.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping

from pleat.errors import RemoteError, UseError

PROTOCOL = 1
METHOD = "/pleat.v1.Fleet/Session"

CHUNK = 1 << 20  # bytes of a body in one message
INLINE = 8 << 10  # a body up to this size travels inside its Begin; the time a larger one takes can be measured
MESSAGE = CHUNK + (64 << 10)  # bytes of one serialised message
HEAD = 16 << 20  # bytes of a body's head
BODY = 1 << 30  # bytes of a body, unless a receiver is set otherwise

NAME = 64
RUN = 128
LABEL = 256  # a coding, factory, tensor or group name
REASON = 1024
ENTRIES = 64  # payloads, settings, metrics, nested selections ...
PLACES = 65536  # names, cuts, masks, labels
CHANNELS = 1 << 20
MASK_BITS = 1 << 26  # entries of all coded masks of a body, a byte each once opened: few bytes can stand for many
COUNT = 1 << 40  # samples
BYTES = 1 << 50
SECONDS = 1e7

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def check_name(name: str) -> str:
    """`name`, if it may be a device's. Raises UseError saying what a name is made of."""
    if len(name) > NAME or not _NAME.fullmatch(name):
        raise UseError(
            f"device name {name[:80]!r} is not valid: 1 to {NAME} letters, digits, '.', '_', '-', "
            "the first a letter or digit; choose one with --name"
        )
    return name


def check_run(run: str) -> str:
    """`run`, if it may be a run's name. Raises UseError."""
    if len(run) > RUN or not _NAME.fullmatch(run):
        raise UseError(
            f"run name {run[:140]!r} is not valid: 1 to {RUN} letters, digits, '.', '_', '-', "
            "the first a letter or digit"
        )
    return run


def order_text(run: str, round: int, rank: int) -> str:
    """An order id as the daemon keeps it: "run/round/rank", the same as `str(OrderId)`."""
    return f"{run}/{round}/{rank}"


def order_parts(text: str) -> tuple[str, int, int]:
    """The inverse of `order_text`. Raises RemoteError unless the three parts are valid."""
    run, _, rest = text.partition("/")
    round_text, _, rank_text = rest.partition("/")
    if not (round_text.isascii() and round_text.isdigit() and rank_text.isascii() and rank_text.isdigit()):
        raise RemoteError(f"order id {text[:200]!r} is not run/round/rank")
    return checked_run(run), int(round_text), at_most(int(rank_text), CHANNELS, "order rank")


def checked_name(name: str) -> str:
    try:
        return check_name(name)
    except UseError as error:
        raise RemoteError(str(error)) from None


def checked_run(run: str) -> str:
    try:
        return check_run(run)
    except UseError as error:
        raise RemoteError(str(error)) from None


def at_most(value: int, limit: int, what: str) -> int:
    if not 0 <= value <= limit:
        raise RemoteError(f"{what} is {value}, the limit is {limit}")
    return value


def few(items: Iterable[object], limit: int, what: str) -> None:
    """Raises RemoteError if a sized collection holds more than `limit`."""
    found = len(items)  # type: ignore[arg-type]
    if found > limit:
        raise RemoteError(f"{found} {what}, the limit is {limit}")


def label(text: str, limit: int, what: str) -> str:
    """`text`, if it is short and printable: names, codings, versions."""
    if len(text) > limit:
        raise RemoteError(f"{what} has {len(text)} characters, the limit is {limit}")
    if not text.isprintable():
        raise RemoteError(f"{what} {text!r} has characters that cannot be printed")
    return text


def words(text: str, limit: int = REASON) -> str:
    """`text` made safe to show: cut to `limit`, whatever cannot be printed replaced by a space."""
    return "".join(c if c.isprintable() else " " for c in text[:limit])


def number(value: float, low: float, high: float, what: str) -> float:
    """`value`, if it is finite and within [low, high]."""
    if not math.isfinite(value) or not low <= value <= high:
        raise RemoteError(f"{what} is {value:g}, expected {low:g} to {high:g}")
    return value


def numbers(values: Mapping[str, float], what: str) -> dict[str, float]:
    """A small table of finite numbers, sorted by name."""
    few(values, ENTRIES, what)
    out = {}
    for name in sorted(values):
        value = values[name]
        if not math.isfinite(value):
            raise RemoteError(f"{what}: {label(name, NAME, what)!r} is {value}")
        out[label(name, NAME, what)] = value
    return out
