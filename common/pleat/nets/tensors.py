"""Tensors: which tensors of a module are trained or exchanged, and moving them in and out as named float32 arrays."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import nn

from pleat.errors import UseError
from pleat.params import Array, Params


def tensors_of(module: nn.Module) -> dict[str, torch.Tensor]:
    """The tensors that are trained or exchanged, by name: parameters and saved float buffers; integer ones are not."""
    found: dict[str, torch.Tensor] = dict(module.named_parameters())
    for path, part in module.named_modules():
        for name, buffer in part.named_buffers(prefix=path, recurse=False):
            saved = name.rpartition(".")[2] not in part._non_persistent_buffers_set
            if saved and buffer.is_floating_point():
                found.setdefault(name, buffer)
    return found


def load(module: nn.Module, params: Mapping[str, Array]) -> None:
    """Set the module's tensors. Raises UseError, changing nothing, unless names and shapes are exactly the module's."""
    tensors = tensors_of(module)
    if tensors.keys() != params.keys():
        odd = sorted(tensors.keys() ^ params.keys())
        kind = "unknown" if odd[0] in params else "missing"
        raise UseError(f"parameters do not fit the module: {len(odd)} names differ, first {odd[0]!r} ({kind})")
    for name, tensor in tensors.items():
        if tuple(tensor.shape) != params[name].shape:
            raise UseError(f"tensor {name!r}: expected shape {tuple(tensor.shape)}, got {params[name].shape}")
    with torch.no_grad():
        for name, tensor in tensors.items():
            # decoded arrays may be read-only views of what arrived, which torch would warn about
            tensor.copy_(torch.from_numpy(np.require(params[name], np.float32, ("C", "W"))))


def read(module: nn.Module) -> Params:
    """The module's tensors as named float32 arrays of their own memory, sorted by name."""
    return {name: _array(tensor) for name, tensor in sorted(tensors_of(module).items())}


def _array(tensor: torch.Tensor) -> Array:
    found: Array = tensor.detach().to("cpu", torch.float32).numpy()
    return np.array(found, np.float32, order="C")


def bind(module: nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    """Let `module` compute with `tensors` in the place of the parameters of these names, wherever it holds them: two
    layers may share one. Plain tensors, which registration would refuse."""
    places: dict[int, list[tuple[nn.Module, str]]] = {}
    for owner in module.modules():
        for attribute, parameter in owner._parameters.items():
            places.setdefault(id(parameter), []).append((owner, attribute))
    for name, tensor in tensors.items():
        path, _, attribute = name.rpartition(".")
        for owner, own in places[id(module.get_submodule(path)._parameters[attribute])]:
            owner._parameters[own] = tensor  # type: ignore[assignment]


def constants_of(module: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors that are not exchanged: integer buffers, buffers that are not saved, and tensors that are plain
    attributes (those come with the empty name)."""
    exchanged = {id(t) for t in tensors_of(module).values()}
    for part in module.modules():
        for name, buffer in part.named_buffers(recurse=False):
            if id(buffer) not in exchanged:
                yield name, buffer
        yield from (("", value) for value in vars(part).values() if isinstance(value, torch.Tensor))
