"""Blocks: one segment's kept positions and coded values, made and opened with every check that hostile bytes call for.

A block holds all entries of its segment, or some at positions sent as split gaps or, where more than a quarter is
kept, as a bitmap. Values are float32, bf16, levels with signs (Lloyd-Max), or differences of bf16 patterns.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pleat.codec import entropy, quantise
from pleat.codec.bf16 import from_bf16, is_finite, to_bf16
from pleat.codec.entropy import RAW, Index, Section, open_section, squeeze
from pleat.codec.frame import FIELDS, SECTIONS, Block, Positions, Values
from pleat.errors import LocalError, RemoteError
from pleat.params import Array

TRY_BOTH = 1 << 15  # below this many values both packings of codes are tried: a Huffman table is then dear

Fields = tuple[int, ...]
Sections = tuple[Section, ...]
Words = NDArray[np.uint16]


@dataclass(frozen=True)
class ValueCoder:
    """`encode(values) -> (fields, sections)`; `decode(fields, sections, count) -> values`, raising RemoteError."""

    tag: Values
    encode: Callable[[Array], tuple[Fields, Sections]]
    decode: Callable[[Fields, Sections, int], Array]


def f32() -> ValueCoder:
    """Values as they are."""

    def encode(values: Array) -> tuple[Fields, Sections]:
        return (), (Section(RAW, np.ascontiguousarray(values, "<f4").tobytes()),)

    def decode(fields: Fields, sections: Sections, count: int) -> Array:
        if sections[0].coder != RAW:
            raise RemoteError("float32 values are compressed; they travel as they are")
        values = open_section(sections[0], 4 * count, "float32 values").view("<f4").astype(np.float32, copy=False)
        if count and not (np.isfinite(values.min()) and np.isfinite(values.max())):
            raise RemoteError("float32 values hold NaN or infinity")
        return values

    return ValueCoder(Values.F32, encode, decode)


def bf16() -> ValueCoder:
    """Values rounded to bf16."""

    def encode(values: Array) -> tuple[Fields, Sections]:
        words = to_bf16(values)
        if not is_finite(words):
            raise LocalError("values beyond 3.39e38 have no bf16 and were not coded; lower the learning rate or clip")
        return (), words_sections(words)

    def decode(fields: Fields, sections: Sections, count: int) -> Array:
        words = open_words(sections, count)
        if not is_finite(words):
            raise RemoteError("bf16 values hold NaN or infinity")
        return from_bf16(words)

    return ValueCoder(Values.BF16, encode, decode)


def levels(bits: int) -> ValueCoder:
    """Sign and one of 2^(bits-1) magnitudes, fitted to each block."""

    def encode(values: Array) -> tuple[Fields, Sections]:
        done = quantise.quantise(values, bits)
        most = quantise.per_byte(bits)
        each, coded = most, squeeze(quantise.pack(done.codes, bits, most))
        if most > 1 and values.size < TRY_BOTH:
            single = squeeze(done.codes)
            if len(single.data) < len(coded.data):
                each, coded = 1, single
        return (done.levels.size, each), (Section(RAW, done.levels.astype("<u2").tobytes()), coded)

    def decode(fields: Fields, sections: Sections, count: int) -> Array:
        number, each = fields
        if not 1 <= number <= 1 << (bits - 1):
            raise RemoteError(f"codebook of {number} levels; {bits} bits allow 1 to {1 << (bits - 1)}")
        if each not in (1, quantise.per_byte(bits)):
            raise RemoteError(f"{each} codes a byte; {bits} bits allow 1 or {quantise.per_byte(bits)}")
        book = open_codebook(sections[0], number)
        packed = open_section(sections[1], -(-count // each), "codes")
        filled = count % each
        if filled and int(packed[-1]) >> (filled * bits):
            raise RemoteError(f"bits beyond the {count}-th code are set")
        lookup = quantise.table(book, bits, each)
        unused: NDArray[np.bool_] = np.isnan(lookup).max(axis=1)
        if unused.any() and unused[packed].any():
            raise RemoteError(f"a code has no level; the codebook has {number}")
        return quantise.unpack(packed, lookup, count)

    return ValueCoder(Values.LEVELS, encode, decode)


def open_codebook(section: Section, number: int) -> Words:
    """Strictly increasing, finite, not negative. Raises RemoteError."""
    if section.coder != RAW:
        raise RemoteError("codebook is compressed; it travels as it is")
    book = open_section(section, 2 * number, "codebook").view("<u2").astype(np.uint16)
    if not is_finite(book) or (book >> 15).any():
        raise RemoteError("codebook holds a negative, infinite or NaN level")
    if (book[1:] <= book[:-1]).any():
        raise RemoteError("levels of the codebook do not increase strictly")
    return book


def words_sections(words: Words, matches: bool = False) -> Sections:
    high, low = entropy.planes(words)
    return squeeze(high, matches), squeeze(low, matches)


def open_words(sections: Sections, count: int) -> Words:
    high = open_section(sections[0], count, "high bytes")
    return entropy.from_planes(high, open_section(sections[1], count, "low bytes"))


def write_block(coder: ValueCoder, index: Index | None, values: Array, size: int) -> Block:
    """One block of a segment of `size` entries; `index` None: it holds them all."""
    positions, fields, sections = write_positions(index, size)
    if index is not None and index.size == 0:
        return Block(Values.NONE)
    value_fields, value_sections = coder.encode(values)
    return Block(coder.tag, positions, fields + value_fields, sections + value_sections)


def read_block(coder: ValueCoder, block: Block, size: int, most: int) -> tuple[Index | None, Array]:
    """Positions (None: all) and values of a block of a segment of `size` entries, at most `most` kept."""
    if block.values == Values.NONE:
        return read_none(block)
    if block.values != coder.tag:
        raise RemoteError(f"block holds {block.values.name} values, this coding has {coder.tag.name}")
    index, fields, sections = read_positions(block, size, most)
    return index, coder.decode(fields, sections, size if index is None else index.size)


def read_none(block: Block) -> tuple[Index, Array]:
    if block.positions != Positions.ALL:
        raise RemoteError("an empty block has positions")
    return np.zeros(0, np.int64), np.zeros(0, np.float32)


def write_positions(index: Index | None, size: int) -> tuple[Positions, Fields, Sections]:
    if index is None or index.size == 0:
        return Positions.ALL, (), ()
    if index.size > size // 4:
        flags = np.zeros(size, np.bool_)
        flags[index] = True
        return Positions.BITMAP, (index.size,), (squeeze(entropy.bits_of(flags)),)
    low = entropy.low_bits(index.size, size)
    gaps, lows = entropy.split_gaps(index, low)
    return Positions.GAPS, (index.size, low, gaps.size - index.size), (squeeze(gaps), Section(RAW, lows))


def read_positions(block: Block, size: int, most: int) -> tuple[Index | None, Fields, Sections]:
    """Positions of a block, and the fields and sections left for its values. Raises RemoteError."""
    fields, sections = block.fields[FIELDS[block.positions] :], block.sections[SECTIONS[block.positions] :]
    if block.positions == Positions.ALL:
        if size > most:
            raise RemoteError(f"block holds all {size} entries; this coding keeps at most {most}")
        return None, fields, sections
    k = block.fields[0]
    if not 1 <= k <= min(most, size):
        raise RemoteError(f"block keeps {k} of {size} entries; this coding keeps 1 to {min(most, size)}")
    reader = _read_bitmap if block.positions == Positions.BITMAP else _read_gaps
    return reader(block, k, size), fields, sections


def _read_bitmap(block: Block, k: int, size: int) -> Index:
    raw = open_section(block.sections[0], (size + 7) // 8, "bitmap")
    index = np.flatnonzero(entropy.open_bits(raw, size, "bitmap"))
    if index.size != k:
        raise RemoteError(f"bitmap: {index.size} positions, expected {k}")
    return index


def _read_gaps(block: Block, k: int, size: int) -> Index:
    _, low, escapes = block.fields[:3]
    if low != entropy.low_bits(k, size):
        raise RemoteError(f"gaps split at bit {low}, expected {entropy.low_bits(k, size)} for {k} of {size}")
    if escapes > (size >> low) // entropy.ESCAPE:
        raise RemoteError(
            f"{escapes} escapes in the gaps of {size} entries; at most {(size >> low) // entropy.ESCAPE} fit"
        )
    if block.sections[1].coder != RAW:
        raise RemoteError("low bits of gaps are compressed; they travel as they are")
    gaps = open_section(block.sections[0], k + escapes, "gaps")
    lows = open_section(block.sections[1], low * ((k + 7) // 8), "low bits of gaps")
    return entropy.join_gaps(gaps, lows, k, low, size, "gaps")
