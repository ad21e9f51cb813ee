"""Small models by hand, as plain data: two fixed ones, and hypothesis strategies for random ones and their selections.

Random models have coupled groups (one group on axes of several tensors, or twice on one tensor), concatenated segments,
repeats as after a flatten, groups cut in steps as under a group norm, depth units, frozen groups, buffers and scalars.
"""

from __future__ import annotations

import math

import numpy as np
from hypothesis import strategies as st

from pleat.elastic.selection import Selection, held, make, shape_of
from pleat.modelmap import Activation, Axis, Group, ModelMap, Segment, TensorSpec
from pleat.params import Params, Sparse, Update


def fixed(size: int) -> Axis:
    """An axis of fixed length."""
    return (Segment("", size),)


def channels(group: str, repeat: int = 1) -> Axis:
    """An axis made of one group."""
    return (Segment(group, repeat),)


def length(axis: Axis, sizes: dict[str, int]) -> int:
    return sum(s.repeat * sizes.get(s.group, 1) for s in axis)


def model_map(
    groups: list[Group], tensors: list[tuple], units: tuple[str, ...] = (), activations: tuple[Activation, ...] = ()
) -> ModelMap:
    """A ModelMap from (name, axes, positions, unit, role) with shapes worked out; trailing fields may be left out."""
    sizes = {g.name: g.size for g in groups}
    specs = []
    for name, axes, *rest in tensors:
        positions, unit, role = (*rest, *(0, "", "weight")[len(rest) :])
        specs.append(TensorSpec(name, tuple(length(a, sizes) for a in axes), tuple(axes), positions, unit, role))
    return ModelMap(
        tuple(sorted(specs, key=lambda t: t.name)), tuple(sorted(groups, key=lambda g: g.name)), units, activations
    )


def mlp(inputs: int = 6, hidden: tuple[int, ...] = (8, 4), classes: int = 3) -> ModelMap:
    """A plain MLP: no units, every hidden layer a group."""
    names = [f"hidden{i}" for i in range(len(hidden))]
    axes = [fixed(inputs), *(channels(n) for n in names), fixed(classes)]
    tensors: list[tuple] = []
    for i in range(len(hidden) + 1):
        tensors += [(f"{i}.weight", (axes[i + 1], axes[i]), 1), (f"{i}.bias", (axes[i + 1],))]
    stored = tuple(Activation(a, 1) for a in axes[:-1])
    return model_map([Group(n, s) for n, s in zip(names, hidden, strict=True)], tensors, activations=stored)


def six_blocks(classes: int = 28) -> ModelMap:
    """The six-block GroupNorm ResNet 16-16-32-32-64-64 on 1x16x16: whole streams, one inner group and unit a block."""
    streams = {16: "stream16", 32: "stream32", 64: "stream64"}
    groups = [Group(n, c, 4) for c, n in streams.items()]
    tensors: list[tuple] = [("stem.weight", (channels("stream16"), fixed(1), fixed(3), fixed(3)), 256)]
    before, side = 16, 16
    for i, width in enumerate((16, 16, 32, 32, 64, 64), 1):
        side, unit, inner = (side if width == before else side // 2), f"block{i}", f"inner{i}"
        stream_in, stream_out, spot = channels(streams[before]), channels(streams[width]), side * side
        groups.append(Group(inner, width, 4, unit=unit))
        kernel = (fixed(3), fixed(3))
        tensors += [(f"{unit}.n1.{part}", (stream_in,), 0, unit) for part in ("weight", "bias")]
        tensors += [(f"{unit}.c1.weight", (channels(inner), stream_in, *kernel), spot, unit)]
        tensors += [(f"{unit}.n2.{part}", (channels(inner),), 0, unit) for part in ("weight", "bias")]
        tensors += [(f"{unit}.c2.weight", (stream_out, channels(inner), *kernel), spot, unit)]
        if width != before:
            tensors.append((f"{unit}.short.weight", (stream_out, stream_in, fixed(1), fixed(1)), spot))
        before = width
    tensors += [("head.weight", (fixed(classes), channels("stream64")), 1), ("head.bias", (fixed(classes),))]
    return model_map(groups, tensors, tuple(f"block{i}" for i in range(1, 7)))


@st.composite
def models(draw: st.DrawFn) -> ModelMap:
    """A random small model: up to four groups, three units, five tensors of up to four axes."""
    units = tuple(f"u{i}" for i in range(draw(st.integers(0, 2))))
    groups = []
    for i in range(draw(st.integers(1, 4))):
        step = draw(st.sampled_from([1, 1, 2, 3]))
        size = step * draw(st.integers(1, 4))
        frozen = draw(st.integers(0, 5)) == 0
        unit = "" if frozen else draw(st.sampled_from(["", *units]))
        groups.append(Group(f"g{i}", size, step, "frozen" if frozen else "hidden", unit))
    tensors = [draw(_tensors(f"t{i}", groups, units)) for i in range(draw(st.integers(1, 5)))]
    sizes = {g.name: g.size for g in groups}
    stored = tuple(
        Activation(axes[0], draw(st.integers(1, 3)), unit)
        for _, axes, _, unit, _ in tensors
        if axes and length(axes[0], sizes)
    )
    return model_map(groups, tensors, units, stored)


@st.composite
def _tensors(draw: st.DrawFn, name: str, groups: list[Group], units: tuple[str, ...]) -> tuple:
    """A tensor that uses no other unit's groups, as a net's would not."""
    unit = draw(st.sampled_from(["", *units]))
    usable = ["", *(g.name for g in groups if g.unit in ("", unit))]
    segment = st.builds(Segment, st.sampled_from(usable), st.integers(1, 3))
    axis = st.lists(segment, min_size=1, max_size=2).map(tuple)
    axes = draw(st.lists(axis, max_size=3).map(tuple))
    role = draw(st.sampled_from(["weight", "weight", "weight", "buffer"]))
    return name, axes, draw(st.integers(0, 4)), unit, role


@st.composite
def selections(draw: st.DrawFn, model: ModelMap, masked: bool = True, core: bool = False) -> Selection:
    """A random selection of `model`. `core`: the first step of every group is always kept, so that any two compose."""
    dropped = {u for u in model.units if draw(st.integers(0, 3)) == 0}
    kept = {}
    for group in model.groups:
        runs = list(range(group.size // group.step))
        if group.role == "frozen" or draw(st.booleans()):
            continue
        chosen = set(draw(st.lists(st.sampled_from(runs), min_size=1, max_size=len(runs))))
        chosen |= {0} if core else set()
        kept[group.name] = [r * group.step + i for r in sorted(chosen) for i in range(group.step)]
    masks = {}
    for spec in model.tensors:
        if masked and draw(st.integers(0, 3)) == 0:
            seed = draw(st.integers(0, 2**16))
            masks[spec.name] = np.asarray(np.random.default_rng(seed).random(spec.shape) < 0.6)
    return make(model, kept, dropped, masks)


def params_of(model: ModelMap, seed: int) -> Params:
    """Random parameters without zeros, so that a covered entry can be told from an uncovered one."""
    rng = np.random.default_rng(seed)
    return {t.name: _values(rng, t.shape) for t in model.tensors}


def update_of(model: ModelMap, selection: Selection, seed: int, sparse: float = 0.0) -> Update:
    """A random update in the submodel's shapes; each tensor is `Sparse` with probability `sparse`."""
    rng = np.random.default_rng(seed)
    out: dict = {}
    for spec in held(model, selection):
        array = _values(rng, shape_of(model, selection, spec))
        if rng.random() < sparse:
            index = np.flatnonzero(rng.random(array.size) < 0.5)
            out[spec.name] = Sparse(array.shape, index, array.reshape(-1)[index])
        else:
            out[spec.name] = array
    return out


def _values(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    values = rng.uniform(0.5, 2.0, math.prod(shape)) * rng.choice([-1.0, 1.0], math.prod(shape))
    return values.astype(np.float32).reshape(shape)
