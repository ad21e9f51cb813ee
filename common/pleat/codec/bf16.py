"""bfloat16 by integers: the upper half of a float32, rounded to nearest, ties to even.

Chosen over float16, whose subnormals (below 6e-5, usual in updates) are slow and coarse. `from_bf16` is exact, and
`to_bf16(from_bf16(p)) == p` for every pattern that is not a NaN.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pleat.params import Array

Words = NDArray[np.uint16]

CHUNK = 1 << 15  # entries rounded at once: the scratch stays in the cache
EXPONENT = 0x7F80  # all ones: infinite or NaN
LARGEST = 0x7F7F  # 3.39e38


def to_bf16(array: Array) -> Words:
    """Patterns of `array`, which must not hold NaN; a magnitude above 3.39e38 rounds to infinity."""
    bits = np.ascontiguousarray(array).view(np.uint32)
    out = np.empty(bits.shape, np.uint16)
    line, words = bits.reshape(-1), out.reshape(-1)
    for start in range(0, line.size, CHUNK):
        part = line[start : start + CHUNK]
        rounded = part >> 16
        rounded &= 1
        rounded += 0x7FFF
        rounded += part
        rounded >>= 16
        words[start : start + CHUNK] = rounded
    return out


def upper(array: Array) -> Words:
    """Patterns of `array` cut off rather than rounded: the same for values that are bf16 numbers, and three times as
    fast."""
    return (np.ascontiguousarray(array).view(np.uint32) >> 16).astype(np.uint16)


def from_bf16(words: Words) -> Array:
    """The float32 values of `words`."""
    bits = words.astype(np.uint32)
    bits <<= 16
    return bits.view(np.float32)


def is_finite(words: Words) -> bool:
    """Whether no pattern is infinite or NaN."""
    return words.size == 0 or int((words & EXPONENT).max()) < EXPONENT
