"""The accelerator on a machine without a GPU: what is picked, what is refused, what counts as too little memory."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from pleat.elastic.choosers import Draw, choose
from pleat.elastic.selection import WHOLE
from pleat.errors import UseError
from pleat.exchange.order import Work
from pleat.nets.build import initial, spec
from pleat.nets.trace import model_map
from pleat.shard import Shard
from pleat_client import accelerator
from pleat_client.trainer import train

no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")


@no_gpu
@pytest.mark.parametrize("asked", ["auto", "cpu"])
def test_without_a_gpu_the_processor_trains(asked: str) -> None:
    assert accelerator.pick(asked) == "cpu"


@no_gpu
def test_a_gpu_that_is_not_there_is_refused_in_one_line_with_what_to_say_instead() -> None:
    with pytest.raises(
        UseError, match=r"accelerator: torch .* is built .*; say --accelerator auto, or install"
    ) as told:
        accelerator.pick("cuda")
    assert "\n" not in str(told.value)


def test_the_processor_has_no_memory_beside_the_machines() -> None:
    assert accelerator.shared("cpu")
    assert accelerator.free_bytes("cpu", 5) == 5
    assert accelerator.free_bytes("cpu", None) is None
    assert (accelerator.reserved_bytes("cpu"), accelerator.peak_bytes("cpu")) == (0, 0)


def test_an_allocation_that_cannot_be_had_counts_as_too_little_memory() -> None:
    with pytest.raises(RuntimeError) as torchs:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert accelerator.ran_out(torchs.value)
    assert accelerator.ran_out(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"))
    assert accelerator.ran_out(RuntimeError("NVML_SUCCESS == r INTERNAL ASSERT FAILED"))
    assert accelerator.ran_out(MemoryError())


def test_other_failures_do_not() -> None:
    with pytest.raises(RuntimeError) as shapes:
        torch.zeros(2, 3) @ torch.zeros(2, 3)
    assert not accelerator.ran_out(shapes.value)
    assert not accelerator.ran_out(ValueError("out of memory"))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_trains_what_the_processor_trains() -> None:
    net = spec("cnn", (1, 8, 8), 10)
    rng = np.random.default_rng(0)
    shard = Shard(rng.normal(size=(64, 1, 8, 8)).astype(np.float32), rng.integers(0, 10, 64))
    model, work = model_map(net), Work(epochs=1, batch=16, rate=0.05, momentum=0.9, clip=5.0)
    half = choose("prefix", model, 0.5, Draw(0, 1, "d", initial(net, 0)))
    accelerator.watch_peak("cuda")
    here, there = (
        train(net, model, WHOLE, initial(net, 0), (half,), replace(work, objective="joint"), shard, device=device)[0]
        for device in ("cpu", "cuda")
    )
    for name, values in here.items():
        np.testing.assert_allclose(there[name], values, atol=1e-3)
    assert accelerator.peak_bytes("cuda") > 0
    assert (accelerator.free_bytes("cuda", 1 << 40) or 0) > 0
