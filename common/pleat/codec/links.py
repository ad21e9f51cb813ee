"""Value links: from an update, dense or sparse, to the blocks of a frame, and back.

Vectors come first, then matrices, one block a segment of the layout; so the number, order and size of blocks follow
from the submodel, and a frame cannot repeat, miss or reorder tensors.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from pleat.codec import entropy
from pleat.codec.bf16 import from_bf16, is_finite
from pleat.codec.blocks import (
    ValueCoder,
    open_words,
    read_block,
    read_none,
    read_positions,
    words_sections,
    write_block,
    write_positions,
)
from pleat.codec.frame import Block, Values
from pleat.codec.layout import Run, check_names, join, join_base, join_bf16, join_sparse, layout, split, split_sparse
from pleat.codec.select import kept
from pleat.codec.transform import Context, Transform, stateless
from pleat.errors import LocalError, RemoteError
from pleat.params import Array, Params, Sparse, Update

Number = TypeVar("Number", np.float32, np.int64)

# Share of changed entries below which a difference names their positions: Huffman would spend a bit on every 0.
SPARSE_BELOW = 0.45


def coded_values(matrices: ValueCoder, vectors: ValueCoder, share: float | None = None) -> Transform:
    """Update to blocks. `share`: at most this share of the matrices' entries is kept (what a top-k link left over);
    None: matrices are dense."""

    def encode(value: Update, ctx: Context) -> list[Block]:
        at = layout(ctx)
        check_names(at, value)
        blocks = list(_dense_blocks(vectors, at.vectors, value))
        sparse = any(isinstance(value[p.name], Sparse) for p in at.matrices.places)
        return blocks + list((_sparse_blocks if sparse else _dense_blocks)(matrices, at.matrices, value))

    def decode(blocks: Sequence[Block], ctx: Context) -> Update:
        at = layout(ctx)
        check_count(blocks, [*at.vectors.segments(), *at.matrices.segments()])
        first = len(at.vectors.segments())
        out: dict[str, Array | Sparse] = {**_read_dense(vectors, at.vectors, blocks[:first])}
        if share is None:
            out.update(_read_dense(matrices, at.matrices, blocks[first:]))
        else:
            out.update(_read_sparse(matrices, at.matrices, blocks[first:], kept(share, at.matrices.size)))
        return {name: out[name] for name in sorted(out)}

    return stateless(encode, decode)


def check_count(blocks: Sequence[Block], segments: Sequence[tuple[int, int]]) -> None:
    if len(blocks) != len(segments):
        raise RemoteError(f"frame holds {len(blocks)} blocks, this submodel has {len(segments)}")


def _dense_blocks(coder: ValueCoder, run: Run, value: Update) -> Iterator[Block]:
    line = join(run, value)  # type: ignore[arg-type]  # dense by the caller's check
    if line.size and not (np.isfinite(line.min()) and np.isfinite(line.max())):
        raise LocalError("the tensors hold NaN or infinite entries and were not coded; lower the learning rate or clip")
    for start, end in run.segments():
        yield write_block(coder, None, line[start:end], end - start)


def _sparse_blocks(coder: ValueCoder, run: Run, value: Update) -> Iterator[Block]:
    index, values = join_sparse(run, value)
    edges = np.searchsorted(index, run.bounds)
    for (start, end), first, last in zip(run.segments(), edges[:-1], edges[1:], strict=True):
        own = index[first:last] - start if start else index[first:last]
        yield write_block(coder, own, values[first:last], end - start)


def _read_dense(coder: ValueCoder, run: Run, blocks: Sequence[Block]) -> Params:
    parts = [np.zeros(0, np.float32)] if not blocks else []
    for (start, end), block in zip(run.segments(), blocks, strict=True):
        index, values = read_block(coder, block, end - start, end - start)
        if index is not None:
            raise RemoteError("block leaves entries out; this coding sends all of these")
        parts.append(values)
    return split(run, _joined(parts))


def _read_sparse(coder: ValueCoder, run: Run, blocks: Sequence[Block], most: int) -> dict[str, Sparse]:
    if not blocks:
        return split_sparse(run, np.zeros(0, np.int64), np.zeros(0, np.float32))
    indices, parts = [], []
    for (start, end), block in zip(run.segments(), blocks, strict=True):
        index, values = read_block(coder, block, end - start, most)
        most -= values.size
        whole = np.arange(end - start, dtype=np.int64) if index is None else index
        indices.append(whole + start if start else whole)
        parts.append(values)
    return split_sparse(run, _joined(indices), _joined(parts))


def _joined(parts: list[NDArray[Number]]) -> NDArray[Number]:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def bf16_delta() -> Transform:
    """Params to the difference of their bf16 patterns to the base's: exact in bf16, integers only, so that both ends
    hold the same bits afterwards whatever their processors."""

    def encode(value: Params, ctx: Context) -> list[Block]:
        at = layout(ctx)
        check_names(at, value)
        blocks = []
        for run in at.runs:
            words = join_bf16(run, value)
            if not is_finite(words):
                raise LocalError("the model holds NaN or infinite entries and was not coded")
            change = entropy.zigzag(words - join_base(run, ctx))
            blocks += [_change_block(change[start:end]) for start, end in run.segments()]
        return blocks

    def decode(blocks: Sequence[Block], ctx: Context) -> Params:
        at = layout(ctx)
        check_count(blocks, [*at.vectors.segments(), *at.matrices.segments()])
        out: Params = {}
        for run in at.runs:
            own, blocks = blocks[: len(run.segments())], blocks[len(run.segments()) :]
            words = join_base(run, ctx)
            for (start, end), block in zip(run.segments(), own, strict=True):
                _apply(words[start:end], block)
            if not is_finite(words):
                raise RemoteError("bf16 differences lead to NaN or infinity")
            out.update(split(run, from_bf16(words)))
        return {name: out[name] for name in sorted(out)}

    return stateless(encode, decode)


def _change_block(change: NDArray[np.uint16]) -> Block:
    changed = int(np.count_nonzero(change))
    if not changed:
        return Block(Values.NONE)
    index, size = None, change.size
    if changed < SPARSE_BELOW * size:
        index = np.flatnonzero(change != 0)
        change = change[index] - np.uint16(1)
    positions, fields, sections = write_positions(index, size)
    return Block(Values.DELTA, positions, fields, sections + words_sections(change, matches=index is None))


def _apply(words: NDArray[np.uint16], block: Block) -> None:
    """Add a block's differences to `words` in place, modulo 2^16."""
    if block.values == Values.NONE:
        read_none(block)
        return
    if block.values != Values.DELTA:
        raise RemoteError(f"block holds {block.values.name} values, this coding has DELTA")
    index, _, sections = read_positions(block, words.size, words.size)
    change = open_words(sections, words.size if index is None else index.size)
    if index is None:
        words += entropy.unzigzag(change)
        return
    change += np.uint16(1)
    words[index] += entropy.unzigzag(change)
