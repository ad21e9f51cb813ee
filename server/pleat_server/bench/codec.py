"""Codec: bits a parameter and speed of top 10 % + 4 bits, on a million Gaussians and on a whole real update.

Speeds are megabytes of dense float32 a second of the thread's own CPU time, medians of `n` passes. What else one might
do is measured beside ours, pass by pass: a full partition instead of the sampled threshold, zstd on plain float32.
The real update: the Caldas CNN, 1.7 M parameters, trained on handwritten digits, then some local steps on five classes.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
import torch
import zstandard
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from pleat.codec.coding import build
from pleat.codec.select import kept, largest
from pleat.codec.transform import Context
from pleat.elastic.selection import WHOLE
from pleat.modelmap import Group, ModelMap, Segment, TensorSpec
from pleat.nets.build import build as build_net
from pleat.nets.build import spec
from pleat.nets.tensors import read
from pleat.nets.trace import model_map
from pleat.params import Array, Params, count, dense, subtract

CODING = "topk:0.1/lloyd:4"
PASSES = 31
SIDE = 1024  # of the Gaussian matrix: 2^20 entries
STEPS, LOCAL = 60, 40  # optimiser steps of the model, and of the update on top


def run() -> dict[str, Any]:
    """The figures of codec.json."""
    gauss = {"w": np.random.default_rng(0).standard_normal((SIDE, SIDE)).astype(np.float32)}
    ours = _measure(_square(), gauss)
    model, update = real_update()
    real = _measure(model, update)
    line = gauss["w"].reshape(-1)
    full, sampled = _cpu_seconds(lambda: _full_partition(line), lambda: largest([line], kept(0.1, line.size)))
    coding, ctx = build(CODING), Context(_square(), WHOLE)
    plain, whole = _cpu_seconds(lambda: _zstd(line), lambda: coding.encode(gauss, coding.init(ctx), ctx))
    plain_bits = 8 * len(_zstd(line)) / line.size
    return {
        "gauss_bits_per_param": ours["bits"],
        "real_bits_per_param": real["bits"],
        "encode_mb_per_s": ours["encode"],
        "decode_mb_per_s": ours["decode"],
        "real_encode_mb_per_s": real["encode"],
        "real_decode_mb_per_s": real["decode"],
        "real_params": count(update),
        "real_error": real["error"],
        "gauss_error": ours["error"],
        "select_speedup_over_full_partition": full / sampled,
        "float32_zstd_bits_per_param": plain_bits,
        "fewer_bits_than_float32_zstd": plain_bits / ours["bits"],
        "encode_speed_over_float32_zstd": plain / whole,
        "n": PASSES,
    }


def _measure(model: ModelMap, update: Params) -> dict[str, float]:
    """Bits a parameter, share of the update's energy lost, and speeds of the coding."""
    ctx, coding, size = Context(model, WHOLE), build(CODING), count(update)
    state = coding.init(ctx)
    data, _ = coding.encode(update, state, ctx)
    out = dense(coding.decode(data, ctx))
    lost = sum(float(np.square(out[n] - a).sum(dtype=np.float64)) for n, a in update.items())
    encode, decode = _cpu_seconds(lambda: coding.encode(update, state, ctx), lambda: coding.decode(data, ctx))
    return {
        "bits": 8 * len(data) / size,
        "error": lost / sum(float(np.square(a).sum(dtype=np.float64)) for a in update.values()),
        "encode": 4 * size / 1e6 / encode,
        "decode": 4 * size / 1e6 / decode,
    }


def _cpu_seconds(*works: Callable[[], object]) -> list[float]:
    """Median CPU time of this thread for each of `works`, taken in turns, after a turn that warms up."""
    times: list[list[float]] = [[] for _ in works]
    for _ in range(1 + PASSES):
        for work, own in zip(works, times, strict=True):
            start = time.thread_time()
            work()
            own.append(time.thread_time() - start)
    return [median(own[1:]) for own in times]


def _full_partition(line: Array) -> NDArray[np.int64]:
    """Top-k as it is usually written."""
    keep = kept(0.1, line.size)
    return np.sort(np.argpartition(np.abs(line), line.size - keep)[line.size - keep :])


def _zstd(line: Array) -> bytes:
    """Float32 as it stands through zstd, level 1."""
    return zstandard.ZstdCompressor(level=1).compress(line.tobytes())


def _square() -> ModelMap:
    axes = ((Segment("out"),), (Segment("in"),))
    return ModelMap((TensorSpec("w", (SIDE, SIDE), axes, 1),), (Group("in", SIDE), Group("out", SIDE)))


def real_update() -> tuple[ModelMap, Params]:
    """The net's map, and what local training on the digits 0-4 changed in a model trained on all."""
    digits = load_digits()
    rows = np.arange(28) * 8 // 28
    images = (digits.images / 16).astype(np.float32)[:, rows][:, :, rows]
    x, y = torch.from_numpy(images)[:, None], torch.from_numpy(digits.target.astype(np.int64))
    net = spec("caldas", (1, 28, 28), 10)
    rng = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = build_net(net.factory, net.arguments)
    _train(module, x, y, STEPS, rng)
    before = {name: a.copy() for name, a in read(module).items()}
    few = y < 5
    _train(module, x[few], y[few], LOCAL, rng)
    return model_map(net), subtract(read(module), before)


def _train(module: torch.nn.Module, x: torch.Tensor, y: torch.Tensor, steps: int, rng: torch.Generator) -> None:
    """SGD with momentum .9, rate .05, batches of 32."""
    weights = list(module.parameters())
    speed = [torch.zeros_like(w) for w in weights]
    for _ in range(steps):
        batch = torch.randint(len(y), (32,), generator=rng)
        loss = torch.nn.functional.cross_entropy(module(x[batch]), y[batch])
        gradients = torch.autograd.grad(loss, weights)
        with torch.no_grad():
            for w, v, g in zip(weights, speed, gradients, strict=True):
                v.mul_(0.9).add_(g)
                w.sub_(v, alpha=0.05)
