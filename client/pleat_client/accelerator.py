"""Accelerator: where a training's tensors live, how much of that memory they take, and when there was too little.

A Jetson's GPU shares the board's memory: what it takes counts with the process, and what is free is the kernel's word
(`torch.cuda.mem_get_info` leaves the page cache out). A card of its own has its own count. Bytes, or None where the
accelerator is the processor itself.
"""

from __future__ import annotations

import torch

from pleat.errors import UseError

CPU, CUDA = "cpu", "cuda"
# A failed allocation on a Jetson may end in an assertion about NVML instead of an OutOfMemoryError (pytorch#185240).
_SIGNS = ("out of memory", "can't allocate memory", "nvml")


def pick(asked: str) -> str:
    """The torch device for `asked`, one of `config.ACCELERATORS`. Raises UseError where a GPU is asked for and none can
    be used."""
    if asked == CPU:
        return CPU
    if torch.cuda.is_available():
        return CUDA
    if asked == CUDA:
        built = torch.version.cuda
        why = f"built for CUDA {built}, but no GPU answers" if built else "built without CUDA"
        raise UseError(
            f"accelerator: torch {torch.__version__} is {why}; say --accelerator auto, or install NVIDIA's torch"
        )
    return CPU


def shared(device: str) -> bool:
    """Whether the accelerator's memory is the machine's own."""
    return device == CPU or bool(torch.cuda.get_device_properties(device).is_integrated)


def reserved_bytes(device: str) -> int:
    """What this process holds of the accelerator's memory now, beside its resident size."""
    return 0 if device == CPU else int(torch.cuda.memory_reserved(device))


def watch_peak(device: str) -> None:
    """Begin an interval for `peak_bytes`."""
    if device != CPU:
        torch.cuda.reset_peak_memory_stats(device)


def peak_bytes(device: str) -> int:
    """The most that was held of the accelerator's memory since `watch_peak`."""
    return 0 if device == CPU else int(torch.cuda.max_memory_reserved(device))


def free_bytes(device: str, machine: int | None) -> int | None:
    """What a training can still get; `machine`: what the machine has free."""
    if shared(device):
        return machine
    free, _ = torch.cuda.mem_get_info(device)
    return int(free) + reserved_bytes(device)


def give_back(device: str) -> None:
    """Return what is held but unused."""
    if device != CPU:
        torch.cuda.empty_cache()


def ran_out(error: BaseException) -> bool:
    """Whether an error means that there was not enough memory, on a GPU or on the processor."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error).lower() for sign in _SIGNS)
