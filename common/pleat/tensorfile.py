"""Tensorfile: named arrays as a safetensors file, the same bytes for the same arrays and facts. No torch.

safetensors' own writer puts what is said about a file in any order; here names are sorted, facts included. Any
safetensors reader opens it.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pleat.errors import LocalError, UseError

_TYPES = {
    "float64": "F64", "float32": "F32", "float16": "F16", "int64": "I64", "int32": "I32", "int16": "I16", "int8": "I8",
    "uint64": "U64", "uint32": "U32", "uint16": "U16", "uint8": "U8", "bool": "BOOL",
}  # fmt: skip


def pieces(arrays: Mapping[str, NDArray[Any]], about: Mapping[str, str] | None = None) -> Iterator[memoryview]:
    """The file's pieces: header length, JSON header, then every array's own memory, in the order of their names.

    `about`: facts that the header carries, as text. Raises UseError for a type of number that the format lacks.
    """
    flat = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    header: dict[str, Any] = {"__metadata__": dict(sorted(about.items()))} if about else {}
    offset = 0
    for name in sorted(flat):
        array = flat[name]
        if array.dtype.name not in _TYPES or array.dtype.newbyteorder("<") != array.dtype:
            raise UseError(f"array {name!r} of type {array.dtype} cannot be kept in a safetensors file")
        end = offset + array.nbytes
        header[name] = {"dtype": _TYPES[array.dtype.name], "shape": list(array.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the data start at a multiple of 8
    yield memoryview(struct.pack("<Q", len(text)) + text)
    for name in sorted(flat):
        if flat[name].size:
            yield memoryview(flat[name].reshape(-1).view(np.uint8).data)


def load(path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """The arrays of a file and the facts it carries. Raises UseError for one that is not there or where safetensors is
    not installed, LocalError for one that is damaged."""
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError:
        raise UseError(f"reading {path} needs safetensors; type: pip install safetensors") from None
    if not path.is_file():
        raise UseError(f"no file {path}; name one that `pleat export` wrote, or a run's model.safetensors")
    try:
        with safe_open(str(path), "numpy") as file:
            return {name: file.get_tensor(name) for name in sorted(file.keys())}, dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise LocalError(f"{path} is damaged or no safetensors file: {error}") from None
