"""Arguments: what every net's arguments say about its data."""

from __future__ import annotations

import re

from pleat.errors import UseError
from pleat.exchange.order import NetSpec, Scalar


def parse_shape(text: str) -> tuple[int, ...]:
    """(1, 8, 8) from "1x8x8". Raises UseError."""
    if not re.fullmatch(r"[1-9]\d{0,5}(x[1-9]\d{0,5}){0,4}", text):
        raise UseError(f"input shape must be sizes joined by x, such as 1x28x28, got {text!r}")
    return tuple(map(int, text.split("x")))


def positive(**sizes: int) -> None:
    """Raises UseError, naming the argument, unless all are whole numbers from 1 to 65536."""
    for name, size in sizes.items():
        if isinstance(size, bool) or not isinstance(size, int) or not 1 <= size <= 1 << 16:
            raise UseError(f"{name} must be a whole number from 1 to 65536, got {size!r}")


def input_shape_of(net: NetSpec) -> tuple[int, ...]:
    """Shape of one sample. Raises UseError for an order that does not say."""
    return parse_shape(str(_argument(net, "input_shape")))


def classes_of(net: NetSpec) -> int:
    """Number of classes. Raises UseError for an order that does not say."""
    classes = _argument(net, "classes")
    if isinstance(classes, bool) or not isinstance(classes, int) or classes < 1:
        raise UseError(f"net {net.factory}: classes must be a whole number from 1, got {classes!r}")
    return classes


def _argument(net: NetSpec, name: str) -> Scalar:
    if name not in net.arguments:
        raise UseError(f"net {net.factory}: argument {name!r} is missing; it has {sorted(net.arguments)}")
    return net.arguments[name]
