"""Depth: residual blocks are left out, the last of each stage first; width stays.

A stage is a run of blocks on one residual stream. A block that joins two streams (it widens or down-samples) is the
first of the second one's stage and is kept, as the first of every stage is. A net without such blocks loses width by
prefix instead.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from pleat.elastic.choosers.draw import Draw
from pleat.elastic.choosers.width import prefix
from pleat.elastic.selection import Selection, make
from pleat.errors import UseError
from pleat.modelmap import ModelMap, TensorSpec


def depth(model: ModelMap, rate: float, draw: Draw) -> Selection:
    """With at most the share `rate` of the blocks that can be spared; one order for all rates, so that they nest."""
    spare = droppable(model)
    if not spare:
        return prefix(model, rate, draw)
    return make(model, dropped=spare[: len(spare) - math.floor(round(rate * len(spare), 9))])


def droppable(model: ModelMap) -> list[str]:
    """The units that may be left out, in the order in which they go: from the end of each stage, stages in turn from
    the last."""
    turns = []
    for place, blocks in enumerate(stages(model)):
        spare = [b for b in blocks[1:] if b in model.spare and len(_streams(model, b)) < 2]
        turns += [(turn, -place, unit) for turn, unit in enumerate(reversed(spare))]
    return [unit for _, _, unit in sorted(turns)]


def stages(model: ModelMap) -> list[list[str]]:
    """The blocks of every stage, in the order in which they run; those that nothing may leave out included."""
    streams = {block: _streams(model, block) for block in _blocks(model)}
    last = {stream: place for place, touched in enumerate(streams.values()) for stream in touched}
    out: dict[str, list[str]] = {}
    for block, touched in streams.items():  # of two streams, the one that goes on longer, or else begins here
        home = max(touched, key=lambda s: (last[s], s not in out, s), default="")
        out.setdefault(home, []).append(block)
    return list(out.values())


def by_stage(model: ModelMap, kept: Sequence[int]) -> Selection:
    """The selection that keeps the first `kept` blocks of every stage.

    Raises UseError, telling what the stages hold, where it is not one number a stage, from 1 to the stage's blocks.
    """
    found = stages(model)
    sizes = ",".join(str(len(blocks)) for blocks in found)
    said = ",".join(map(str, kept))
    if not found:
        raise UseError(f"depth {said}: this net has no residual blocks to leave out; its size is its width alone")
    if len(kept) != len(found) or any(not 1 <= n <= len(b) for n, b in zip(kept, found, strict=False)):
        raise UseError(
            f"depth {said}: expected blocks to keep in each of {len(found)} stages, from 1 to {sizes}; such as {sizes}"
        )
    gone = [block for n, blocks in zip(kept, found, strict=True) for block in blocks[n:]]
    fixed = [block for block in gone if block not in model.spare]
    if fixed:
        raise UseError(f"depth {said}: block {fixed[0]} cannot be left out, its input is no part of its sum")
    return make(model, dropped=gone)


def _blocks(model: ModelMap) -> list[str]:
    """Units, and the blocks with channels of their own that are none (they widen in a way that cannot be passed by), in
    the order in which they run: that of their numbers, where units agree with it."""
    every = ({g.unit for g in model.groups if g.unit} | model.spare).difference(model.exits)
    ordered, own = sorted(every, key=_numbered), [unit for unit in model.units if unit in every]
    return ordered if [b for b in ordered if b in own] == own else own


def _numbered(path: str) -> list[tuple[int, str]]:
    """A key that puts "blocks.10" behind "blocks.9"."""
    return [(int(word), "") if word.isdigit() else (-1, word) for word in re.findall(r"\d+|\D+", path)]


def _streams(model: ModelMap, block: str) -> list[str]:
    """The groups that tensors inside a block share with tensors outside of it."""
    inside, outside = set[str](), set[str]()
    for tensor in model.tensors:
        names = {s.group for axis in tensor.axes for s in axis} - {""}
        (inside if _within(tensor, block) else outside).update(names)
    return sorted(inside & outside)


def _within(tensor: TensorSpec, block: str) -> bool:
    return tensor.unit == block or tensor.name.startswith(block + ".")
