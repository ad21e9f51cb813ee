"""Exported: a submodel as a file of its own, and the module that the file makes, without memory for the whole net.

    net = load_exported("submodel.safetensors")    # a torch.nn.Module in eval mode

The file holds the tensors as they were cut and, as text, what builds the net around them: its factory and arguments,
the digest of its map, the selection, and the digest of the tensors. A run's `model.safetensors` is one of these too.
Code does not travel: the factory must be importable where the file is read. torch-export files need none of this.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from torch import nn

from pleat import tensorfile
from pleat.elastic.selection import Selection, make
from pleat.errors import LocalError, UseError
from pleat.exchange.order import NetSpec, Scalar
from pleat.modelmap import ModelMap
from pleat.nets.factory import skeleton
from pleat.nets.shrink import shrink
from pleat.nets.tensors import load
from pleat.nets.trace import model_map
from pleat.params import Params, digest


@dataclass(frozen=True)
class Exported:
    """What a file says of itself. `masks`: digest of the element masks, "" without; what they left out is 0 here."""

    net: NetSpec
    selection: Selection
    masks: str
    params: Params
    about: Mapping[str, str]


def pieces(net: NetSpec, selection: Selection, params: Params, about: Mapping[str, str]) -> Iterator[memoryview]:
    """The file of a submodel's own tensors; `about`: more to say of it. The same submodel gives the same bytes."""
    told = {
        **about,
        "factory": net.factory,
        "arguments": _text(dict(net.arguments)),
        "map": net.digest.hex(),
        "selection": _text({
            "kept": {name: index.tolist() for name, index in selection.kept.items()},
            "dropped": sorted(selection.dropped),
            "masks": selection.masks_digest.hex() if selection.masks else "",
        }),
        "digest": digest(params).hex(),
    }  # fmt: skip
    return tensorfile.pieces(params, told)


def read_exported(path: str | Path) -> Exported:
    """The content of a file. Raises UseError for one that is not there or says nothing of a net, LocalError where its
    tensors are not those that were written."""
    path = Path(path)
    params, about = tensorfile.load(path)
    try:
        arguments = msgspec.json.decode(about["arguments"], type=dict[str, Scalar])
        said = msgspec.json.decode(about["selection"], type=_Said)
        net = NetSpec(about["factory"], arguments, bytes.fromhex(about["map"]))
        expected = about["digest"]
    except (KeyError, ValueError, msgspec.MsgspecError) as error:
        raise UseError(f"{path} does not say of what net it is ({error}); write it with `pleat export`") from None
    if digest(params).hex() != expected:
        raise LocalError(f"{path} is damaged: its tensors do not have the digest they were written with; export again")
    model = _known(net, path)
    return Exported(net, make(model, said.kept, said.dropped), said.masks, params, about)


def load_exported(path: str | Path) -> nn.Module:
    """The submodel in the file `path` as a module in eval mode. Raises UseError and LocalError as `read_exported`, and
    UseError where the net cannot be built here or is another version of it."""
    found = read_exported(path)
    net = shrink(skeleton(found.net.factory, found.net.arguments), model_map(found.net), found.selection)
    load(net, found.params)
    return net.eval()


class _Said(msgspec.Struct):
    kept: dict[str, list[int]] = {}
    dropped: list[str] = []
    masks: str = ""


def _known(net: NetSpec, path: Path) -> ModelMap:
    model = model_map(net)
    if model.digest != net.digest:
        raise UseError(
            f"{path}: net {net.factory} is not the version here that it was exported from: its map has digest "
            f"{model.digest.hex()[:12]}, expected {net.digest.hex()[:12]}; install the same version, or export again"
        )
    return model


def _text(value: Any) -> str:
    return msgspec.json.encode(value, order="sorted").decode()
