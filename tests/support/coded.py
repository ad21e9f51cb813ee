"""Small models, selections and updates for tests of the codec."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np

from pleat.codec.coding import build
from pleat.codec.transform import Context
from pleat.elastic.selection import WHOLE, Selection, cut_array, cuts, make, shapes
from pleat.modelmap import Group, ModelMap, Segment, TensorSpec
from pleat.params import Params, Sparse, Update


def axis(group: str, repeat: int = 1) -> tuple[Segment, ...]:
    return (Segment(group, repeat),)


def model(hidden: int = 12, wide: int = 9, inputs: int = 7, classes: int = 5) -> ModelMap:
    """Two hidden layers, a bypassable unit and biases."""
    tensors = (
        TensorSpec("a.bias", (hidden,), (axis("a"),)),
        TensorSpec("a.weight", (hidden, inputs), (axis("a"), axis("in")), 1),
        TensorSpec("b.bias", (wide,), (axis("b"),), unit="block"),
        TensorSpec("b.weight", (wide, hidden), (axis("b"), axis("a")), 1, unit="block"),
        TensorSpec("c.bias", (classes,), (axis("out"),)),
        TensorSpec("c.weight", (classes, hidden), (axis("out"), axis("a")), 1),
    )
    groups = (
        Group("a", hidden),
        Group("b", wide, unit="block"),
        Group("in", inputs, role="frozen"),
        Group("out", classes, role="frozen"),
    )
    return ModelMap(tensors, groups, ("block",))


def one_matrix(rows: int, columns: int) -> ModelMap:
    """A single matrix, nothing else."""
    spec = TensorSpec("w", (rows, columns), (axis("out"), axis("in")), 1)
    return ModelMap((spec,), (Group("in", columns, role="frozen"), Group("out", rows, role="frozen")))


def selections(of: ModelMap, seed: int) -> Selection:
    """A random selection: some channels, perhaps without the unit, perhaps masked."""
    rng = np.random.default_rng(seed)
    kept = {}
    for group in of.groups:
        if group.role == "hidden" and rng.random() < 0.7:
            kept[group.name] = np.sort(rng.permutation(group.size)[: rng.integers(1, group.size + 1)])
    dropped = [u for u in of.units if rng.random() < 0.3]
    masks = {}
    for spec in of.tensors:
        if len(spec.shape) == 2 and spec.unit not in dropped and rng.random() < 0.3:
            masks[spec.name] = rng.random(spec.shape) < 0.6
    return make(of, kept, dropped, masks)


def random_params(of: ModelMap, selection: Selection = WHOLE, seed: int = 0, scale: float = 1.0) -> Params:
    """Gaussian arrays of the submodel's shapes, 0 outside masks."""
    rng = np.random.default_rng(seed)
    out: Params = {}
    for name, shape in sorted(shapes(of, selection).items()):
        out[name] = (scale * rng.standard_normal(shape)).astype(np.float32)
    for name, inside in masks_of(of, selection).items():
        out[name] = np.where(inside, out[name], np.float32(0))
    return out


def masks_of(of: ModelMap, selection: Selection) -> dict[str, Any]:
    return {n: cut_array(m, cuts(of, selection, of.tensor[n])) for n, m in selection.masks.items()}


def encode(text: str, value: Params, ctx: Context) -> bytes:
    transform = build(text)
    data, _ = transform.encode(value, transform.init(ctx), ctx)
    assert isinstance(data, bytes)
    return data


def decode(text: str, data: bytes, ctx: Context) -> Update:
    out: Update = build(text).decode(data, ctx)
    return out


def plain(update: Update) -> Params:
    return {n: t.dense() if isinstance(t, Sparse) else t for n, t in update.items()}


def sealed(body: bytes) -> bytes:
    """`body` with the checksum it needs: a forger's frame, not an accident."""
    return body + zlib.crc32(body).to_bytes(4, "little")
