"""The frame: coded blocks between a short header and a checksum. Normative text: proto/FRAME.md.

    "PLT" | u8 version | 8 bytes binding | blocks | u32 CRC-32 of all before

The *binding* is a digest over everything both ends know already and so never send: model, selection, coding, round,
seed, version and base. A frame that answers another order, or is coded against another base, is refused by it.
A block is `u8 values | u8 positions | varint fields | sections`, a section `varint 2 x length + coder | bytes`.
Reading raises one `RemoteError` per violation and takes no memory beyond the frame's own length.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

from pleat.codec.entropy import Section
from pleat.codec.layout import Layout, join_base, layout
from pleat.codec.transform import Context, Transform, stateless
from pleat.errors import RemoteError

MAGIC = b"PLT"
VERSION = 2
HEAD = len(MAGIC) + 1 + 8
LEAST = HEAD + 4
VARINT_BYTES = 5  # enough for 2^35 - 1
PEEK_BLOCKS = 1 << 14  # without a context the blocks of 16 G entries must do


class Values(IntEnum):
    """How the values of a block are coded."""

    NONE = 0  # nothing in it: every entry is 0
    F32 = 1
    BF16 = 2
    LEVELS = 3
    DELTA = 4


class Positions(IntEnum):
    """Which entries of its segment a block holds."""

    ALL = 0
    GAPS = 1
    BITMAP = 2


# How many fields and sections each kind brings, in the order positions, values.
FIELDS = {Positions.ALL: 0, Positions.GAPS: 3, Positions.BITMAP: 1}
SECTIONS = {Positions.ALL: 0, Positions.GAPS: 2, Positions.BITMAP: 1}
VALUE_FIELDS = {Values.NONE: 0, Values.F32: 0, Values.BF16: 0, Values.LEVELS: 2, Values.DELTA: 0}
VALUE_SECTIONS = {Values.NONE: 0, Values.F32: 1, Values.BF16: 2, Values.LEVELS: 2, Values.DELTA: 2}


@dataclass(frozen=True)
class Block:
    """One coded segment: fields and sections of its positions, then of its values."""

    values: Values
    positions: Positions = Positions.ALL
    fields: tuple[int, ...] = ()
    sections: tuple[Section, ...] = ()


@dataclass(frozen=True)
class FrameInfo:
    """What a frame tells without its context. `kept`: entries coded, per block, None where a block holds all."""

    version: int
    binding: bytes
    length: int
    blocks: tuple[tuple[str, str, int | None, int], ...]  # values, positions, kept, coded bytes


def frame(coding: str, based: bool = False) -> Transform:
    """Blocks to one string of bytes, bound to the context, the coding's text and, where it is `based`, the base."""

    def encode(blocks: Sequence[Block], ctx: Context) -> bytes:
        return write(blocks, binding(coding, ctx, based))

    def decode(data: bytes, ctx: Context) -> list[Block]:
        at = layout(ctx)
        return read(data, binding(coding, ctx, based), most_blocks(at), largest(at), ctx.checked)

    return stateless(encode, decode)


def binding(coding: str, ctx: Context, based: bool = False) -> bytes:
    """First 8 bytes of SHA-256 over what both ends know; a base, as large as the model, by its patterns' CRC-32."""
    h = hashlib.sha256(f"pleat frame {VERSION}\0{coding}\0{ctx.round}\0{ctx.seed}\0{ctx.version}\0".encode())
    h.update(ctx.model.digest + ctx.selection.digest)
    if based and ctx.base is not None:
        crc = 0
        for run in layout(ctx).runs:
            crc = zlib.crc32(join_base(run, ctx).astype("<u2", copy=False).data, crc)
        h.update(struct.pack("<I", crc))
    return h.digest()[:8]


def most_blocks(at: Layout) -> int:
    return sum(len(run.segments()) for run in at.runs)


def largest(at: Layout) -> int:
    """A length no honest frame of this submodel exceeds: every entry as float32, and room for headers and codebooks."""
    return LEAST + 4 * sum(run.size for run in at.runs) + 1024 * most_blocks(at)


def write(blocks: Sequence[Block], bound: bytes) -> bytes:
    parts: list[bytes | memoryview] = [MAGIC, bytes([VERSION]), bound]
    for block in blocks:
        parts.append(bytes([block.values, block.positions]) + b"".join(_varint(f) for f in block.fields))
        for section in block.sections:
            parts += (_varint(2 * len(section.data) + section.coder), section.data)
    crc = 0
    for part in parts:
        crc = zlib.crc32(part, crc)
    parts.append(crc.to_bytes(4, "little"))
    return b"".join(parts)


def _varint(value: int) -> bytes:
    """Seven bits a byte, the lowest first; the top bit says that more follow."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def read(data: bytes, bound: bytes, blocks: int, limit: int, checked: bool = False) -> list[Block]:
    """At most `blocks` blocks from a frame of at most `limit` bytes that is bound to `bound`. Raises RemoteError."""
    if len(data) > limit:
        raise RemoteError(f"frame of {len(data)} bytes; this submodel needs at most {limit}")
    found = check_head(data, checked)
    if found != bound:
        raise RemoteError(
            f"frame is bound to {found.hex()}, expected {bound.hex()}: it was coded for another model, selection, "
            "coding, round, seed, version or base"
        )
    return read_blocks(data, blocks)


def check_head(data: bytes, checked: bool = False) -> bytes:
    """The binding of a frame whose magic, version and checksum are right; the checksum only if not `checked` before."""
    if len(data) < LEAST:
        raise RemoteError(f"frame of {len(data)} bytes is cut short; the least is {LEAST}")
    if data[: len(MAGIC)] != MAGIC:
        raise RemoteError(f"frame starts with {bytes(data[: len(MAGIC)])!r}, expected {MAGIC!r}")
    if data[len(MAGIC)] != VERSION:
        age = "older" if data[len(MAGIC)] < VERSION else "newer"
        raise RemoteError(f"frame version {data[len(MAGIC)]} is {age} than ours, {VERSION}; update the {age} side")
    view = memoryview(data)
    said = int.from_bytes(view[-4:], "little")
    crc = said if checked else zlib.crc32(view[:-4])
    if crc != said:
        raise RemoteError(f"frame checksum is {crc:08x}, it says {said:08x}: bytes were damaged or cut on the way")
    return bytes(view[len(MAGIC) + 1 : HEAD])


def read_blocks(data: bytes, limit: int) -> list[Block]:
    """The blocks between header and checksum, sections still coded, as views of `data`."""
    view, at = memoryview(data)[:-4], HEAD
    out: list[Block] = []
    while at < len(view):
        if len(out) == limit:
            raise RemoteError(f"frame holds more than the {limit} blocks of this submodel")
        block, at = _block(view, at)
        out.append(block)
    return out


def _block(view: memoryview, at: int) -> tuple[Block, int]:
    if len(view) - at < 2:
        raise RemoteError(f"block at byte {at} is cut short")
    try:
        values, positions = Values(view[at]), Positions(view[at + 1])
    except ValueError:
        raise RemoteError(f"block at byte {at} has unknown tags {view[at]}, {view[at + 1]}") from None
    at += 2
    fields, sections = [], []
    for _ in range(FIELDS[positions] + VALUE_FIELDS[values]):
        field, at = _read_varint(view, at)
        fields.append(field)
    for _ in range(SECTIONS[positions] + VALUE_SECTIONS[values]):
        head, at = _read_varint(view, at)
        length, coder = divmod(head, 2)
        if length > len(view) - at:
            raise RemoteError(f"section at byte {at} says {length} bytes, {len(view) - at} are left")
        sections.append(Section(coder, view[at : at + length]))
        at += length
    return Block(values, positions, tuple(fields), tuple(sections)), at


def _read_varint(view: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for i in range(VARINT_BYTES):
        if at + i >= len(view):
            raise RemoteError(f"number at byte {at} is cut short")
        byte = view[at + i]
        value |= (byte & 0x7F) << (7 * i)
        if byte < 0x80:
            if byte == 0 and i:
                raise RemoteError(f"number at byte {at} is longer than it needs to be")
            return value, at + i + 1
    raise RemoteError(f"number at byte {at} is longer than {VARINT_BYTES} bytes")


def peek(data: bytes) -> FrameInfo:
    """What a frame holds, without decoding it or knowing its context. Raises RemoteError if it is malformed."""
    bound = check_head(data)
    blocks = read_blocks(data, PEEK_BLOCKS)
    rows = []
    for b in blocks:
        kept = b.fields[0] if FIELDS[b.positions] else None
        rows.append((b.values.name, b.positions.name, kept, sum(len(s.data) for s in b.sections)))
    return FrameInfo(data[len(MAGIC)], bound, len(data), tuple(rows))
