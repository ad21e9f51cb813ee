"""Bytes that take less room: sections by near-Huffman zstd, positions by split gaps, words by byte planes.

zstd is set so that it hardly looks for matches, which leaves its fast Huffman coder; frames are without magic number
and checksum, as the coded frame has both. Reading trusts nothing: a section's raw length is known before it is opened,
zstd's own header must say the same (the library's limit on output is ignored where the header declares a size), and
nothing may follow. What positions cost: codec.md section 2; within 2 % of the entropy of independent positions.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log2

import numpy as np
import zstandard
from numpy.typing import NDArray

from pleat.errors import RemoteError

Index = NDArray[np.int64]
Bytes = NDArray[np.uint8]

RAW, ZSTD = 0, 1
ESCAPE = 255
MAGIC = zstandard.FRAME_HEADER  # left out of sections: four bytes that say nothing


@dataclass(frozen=True)
class Section:
    """Coded bytes. `coder`: RAW or ZSTD; ZSTD only where it is shorter."""

    coder: int
    data: bytes | memoryview


def squeeze(raw: bytes | Bytes, matches: bool = False) -> Section:
    """The shorter of `raw` and its zstd form; `matches` also looks for repeated strings (runs of zeros, say)."""
    data = raw.tobytes() if isinstance(raw, np.ndarray) else raw
    if len(data) < 16:
        return Section(RAW, data)
    coded = zstandard.ZstdCompressor(compression_params=_parameters(matches)).compress(data)[len(MAGIC) :]
    return Section(ZSTD, coded) if len(coded) < len(data) else Section(RAW, data)


def _parameters(matches: bool) -> zstandard.ZstdCompressionParameters:
    wide = {"strategy": zstandard.STRATEGY_FAST, "min_match": 7, "hash_log": 6, "chain_log": 6}
    if matches:
        wide = {"strategy": zstandard.STRATEGY_FAST, "min_match": 7, "hash_log": 13, "chain_log": 13}
    return zstandard.ZstdCompressionParameters(
        window_log=20, write_content_size=1, write_checksum=0, write_dict_id=0, **wide
    )


def open_section(section: Section, size: int, what: str) -> Bytes:
    """Exactly `size` raw bytes of `section`. Raises RemoteError, before memory is taken wherever it can tell."""
    data = section.data
    if section.coder == RAW:
        if len(data) != size:
            raise RemoteError(f"{what}: expected {size} raw bytes, got {len(data)}")
        return np.frombuffer(data, np.uint8)
    if len(data) >= size:
        raise RemoteError(f"{what}: {len(data)} compressed bytes stand for {size}; they must be fewer")
    _check_header(data, size, what)
    try:
        raw = zstandard.ZstdDecompressor().decompress(b"".join((MAGIC, data)), size, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise RemoteError(f"{what}: corrupt compressed bytes ({error})") from None
    return np.frombuffer(raw, np.uint8)


def _check_header(data: bytes | memoryview, size: int, what: str) -> None:
    """zstd's frame header (RFC 8878, 3.1.1.1) as our writer makes it: one segment, so the window is the content."""
    if not len(data):
        raise RemoteError(f"{what}: no zstd header")
    descriptor = data[0]
    if descriptor & 0b0000_0111:
        raise RemoteError(f"{what}: zstd header asks for a dictionary or a checksum; neither is used")
    if not descriptor & 0b0010_0000 or descriptor & 0b0000_1000:
        raise RemoteError(f"{what}: zstd header has a window of its own or reserved bits; one segment is expected")
    width = 1 << (descriptor >> 6)
    said = int.from_bytes(data[1 : 1 + width], "little") + (256 if width == 2 else 0)
    if said != size:
        raise RemoteError(f"{what}: zstd header declares {said} bytes, expected {size}")


def planes(words: NDArray[np.uint16]) -> tuple[Bytes, Bytes]:
    """High bytes and low bytes of 16-bit words, apart, so that each is alike."""
    return (words >> 8).astype(np.uint8), words.astype(np.uint8)


def from_planes(high: Bytes, low: Bytes) -> NDArray[np.uint16]:
    words = high.astype(np.uint16)
    words <<= 8
    words |= low
    return words


def zigzag(difference: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """0, -1, 1, -2, 2 ... (mod 2^16) -> 0, 1, 2, 3, 4 ...: small differences of either sign become small numbers."""
    signed = difference.view(np.int16)
    return ((signed << 1) ^ (signed >> 15)).view(np.uint16)


def unzigzag(words: NDArray[np.uint16]) -> NDArray[np.uint16]:
    signs: NDArray[np.uint16] = np.negative(words & np.uint16(1))
    signs ^= words >> 1
    return signs


def bits_of(flags: NDArray[np.bool_]) -> bytes:
    """Flags as bits, the first in the lowest bit; the last byte is filled with zeros."""
    return np.packbits(flags, bitorder="little").tobytes()


def open_bits(raw: Bytes, size: int, what: str) -> NDArray[np.bool_]:
    """`size` flags from bytes of that very length. Raises RemoteError if a filling bit is set."""
    if size % 8 and int(raw[-1]) >> (size % 8):
        raise RemoteError(f"{what}: bits beyond the {size}-th are set")
    return np.unpackbits(raw, count=size, bitorder="little").view(np.bool_)


def low_bits(k: int, size: int) -> int:
    """How many low bits of each gap are sent as they are: they are as good as random when k of `size` are kept."""
    return max(0, int(log2(size / k)) - 4)


def split_gaps(index: Index, low: int) -> tuple[Bytes, bytes]:
    """Gaps between positions, less their `low` low bits, as bytes (255: 255 more to come), and those bits as planes."""
    gaps = np.diff(index, prepend=-1)
    gaps -= 1
    lows = b"".join(bits_of((gaps >> bit & 1).astype(np.bool_)) for bit in range(low))
    if low:
        gaps >>= low
    wide = np.flatnonzero(gaps >= ESCAPE)  # few, so only these are divided
    escapes, rest = np.divmod(gaps[wide], ESCAPE)
    out = gaps.astype(np.uint8)
    if wide.size:
        out[wide] = rest
        out = np.insert(out, np.repeat(wide, escapes), ESCAPE)
    return out, lows


def join_gaps(gaps: Bytes, lows: Bytes, k: int, low: int, size: int, what: str) -> Index:
    """Positions from `split_gaps`; k >= 1 of them, below `size`. Raises RemoteError."""
    steps = _unescape(gaps, k, what)
    plane = (k + 7) // 8
    if low:
        steps <<= low
        for bit in range(low):
            steps |= open_bits(lows[bit * plane : (bit + 1) * plane], k, what).astype(np.int64) << bit
    steps += 1
    index = np.cumsum(steps, out=steps)
    index -= 1
    if index[-1] >= size:
        raise RemoteError(f"{what}: last position {index[-1]} lies outside the {size} entries")
    return index


def _unescape(gaps: Bytes, k: int, what: str) -> Index:
    if gaps.size == k:
        if gaps.max() == ESCAPE:
            raise RemoteError(f"{what}: an escape without its rest leaves fewer than {k} positions")
        return gaps.astype(np.int64)
    ends = np.flatnonzero(gaps != ESCAPE)
    if ends.size != k:
        raise RemoteError(f"{what}: {ends.size} positions, expected {k}")
    if ends[-1] != gaps.size - 1:
        raise RemoteError(f"{what}: the last escape has no rest")
    steps: Index = np.diff(ends, prepend=-1)
    steps -= 1
    steps *= ESCAPE
    steps += gaps[ends]
    return steps
