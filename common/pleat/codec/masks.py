"""Masks in few bytes: the positions of the entries held, or of those not held where they are fewer.

    u8 0: positions of entries held, 1: of entries not held | frame of one block a segment, without values

A block without positions holds none of its segment. The frame is bound to the number of entries.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from pleat.codec.blocks import read_positions, write_positions
from pleat.codec.frame import LEAST, Block, Values, read, write
from pleat.codec.layout import SEGMENT
from pleat.errors import RemoteError

Mask = NDArray[np.bool_]


def write_mask(mask: Mask) -> bytes:
    """The mask's entries, flat, as bytes; near the entropy of independent entries and never much above a bitmap."""
    flat = mask.reshape(-1)
    inverted = 2 * int(np.count_nonzero(flat)) > flat.size
    marked = ~flat if inverted else flat
    blocks = []
    for start in range(0, flat.size, SEGMENT):
        piece = marked[start : start + SEGMENT]
        positions, fields, sections = write_positions(np.flatnonzero(piece), piece.size)
        blocks.append(Block(Values.NONE, positions, fields, sections))
    return bytes([inverted]) + write(blocks, _bound(flat.size))


def read_mask(data: bytes, size: int) -> Mask:
    """The inverse, for a mask of `size` entries. Raises RemoteError; the caller has capped `size`."""
    if not data or data[0] > 1:
        raise RemoteError(
            f"coded mask of {len(data)} bytes begins with {data[:1].hex() or 'nothing'}, expected 00 or 01"
        )
    segments = -(-size // SEGMENT)
    blocks = read(data[1:], _bound(size), segments, LEAST + size // 2 + 1024 * segments)
    if len(blocks) != segments:
        raise RemoteError(f"coded mask of {size} entries has {len(blocks)} blocks, expected {segments}")
    marked = np.zeros(size, np.bool_)
    for number, block in enumerate(blocks):
        start, length = number * SEGMENT, min(SEGMENT, size - number * SEGMENT)
        if block.values != Values.NONE:
            raise RemoteError(f"coded mask: a block holds {block.values.name} values; a mask has none")
        if block.fields or block.sections:
            index, fields, sections = read_positions(block, length, length)
            if index is None or fields or sections:
                raise RemoteError("coded mask: a block says more than positions")
            marked[start + index] = True
    return ~marked if data[0] else marked


def _bound(size: int) -> bytes:
    return hashlib.sha256(f"pleat mask\0{size}".encode()).digest()[:8]
