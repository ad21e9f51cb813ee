"""Checkpoints: a run's whole state at the end of a round, atomic, verified by CRC-32, the last three kept.

    round-000012.safetensors    all arrays, named GROUP/TENSOR (any safetensors reader opens it)
    round-000012.json           format, round, facts, and the CRC-32 of the arrays' file and of itself

The JSON file is renamed into place last: a checkpoint exists exactly when it does. The arrays of one that is no longer
kept are overwritten by the next (`.spare`). One whose bytes do not match is
passed over in favour of the one before, with a note; it is left where it is.
"""

from __future__ import annotations

import contextlib
import json
import os
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as parse_arrays

from pleat.disk import clean, make_folder, write_together
from pleat.errors import LocalError, UseError
from pleat.tensorfile import pieces

FORMAT = 1
KEPT = 3
_SPARE = ".spare"

Arrays = Mapping[str, Mapping[str, NDArray[Any]]]


def save(folder: Path, round: int, arrays: Arrays, meta: Mapping[str, Any], sweep: bool = True) -> Path:
    """Write the checkpoint of `round`: groups of named arrays and JSON-able facts. Returns the JSON file.

    Nothing is copied on the way to disk. Raises LocalError, with the checkpoints as they were. `sweep=False` leaves
    old checkpoints to a later call of `forget`.
    """
    make_folder(folder)
    stem = f"round-{round:06d}"
    tensors, facts = folder / f"{stem}.safetensors", folder / f"{stem}.json"
    crc, written = 0, 0

    def counted() -> Iterator[memoryview]:
        nonlocal crc, written
        for piece in _safetensors(arrays):
            crc = zlib.crc32(piece, crc)
            written += piece.nbytes
            yield piece

    def described() -> Iterator[bytes]:  # consumed after the arrays: their checksum is known by then
        body = {
            "format": FORMAT,
            "round": round,
            "tensors": {"file": tensors.name, "bytes": written, "crc32": f"{crc:08x}"},
            "meta": json.loads(json.dumps(meta)),  # keys become strings now, not after the checksum
        }
        yield json.dumps({**body, "crc32": _of(body)}, indent=1).encode()

    write_together([(tensors, counted()), (facts, described())], over={tensors: folder / _SPARE})
    if sweep:
        forget(folder)
    return facts


def present(folder: Path) -> bool:
    """Whether any checkpoint was ever completed in `folder`."""
    return folder.is_dir() and bool(_rounds(folder))


def load(folder: Path) -> tuple[int, dict[str, dict[str, NDArray[Any]]], dict[str, Any], list[str]]:
    """(round, arrays, facts, notes) of the newest checkpoint that is whole; a note for each damaged one passed over.

    Raises UseError if there is none at all, LocalError if none is whole.
    """
    rounds = _rounds(folder) if folder.is_dir() else []
    if not rounds:
        raise UseError(f"no checkpoint in {folder}; give the folder of a run that has closed a round")
    notes: list[str] = []
    for number in reversed(rounds):
        try:
            arrays, meta = _read(folder / f"round-{number:06d}.json", number)
        except LocalError as error:
            notes.append(f"checkpoint of round {number} passed over: {error}")
            continue
        if notes:
            notes.append(f"resuming from the checkpoint of round {number}, the newest that is whole")
        return number, arrays, meta, notes
    raise LocalError(f"no checkpoint in {folder} is whole: " + "; ".join(notes))


def _rounds(folder: Path) -> list[int]:
    names = (p.stem.removeprefix("round-") for p in folder.glob("round-*.json"))
    return sorted(int(n) for n in names if n.isdigit())


def _read(path: Path, number: int) -> tuple[dict[str, dict[str, NDArray[Any]]], dict[str, Any]]:
    try:
        body = json.loads(path.read_bytes())
        if not isinstance(body, dict) or body.pop("crc32", None) != _of(body):
            raise LocalError(f"{path} does not have the CRC-32 it was written with")
    except (OSError, ValueError) as error:
        raise LocalError(f"{path} cannot be read: {error}") from error
    if body["format"] > FORMAT:
        raise LocalError(f"{path} has format {body['format']}, this pleat reads up to {FORMAT}; install a newer pleat")
    if body["round"] != number:
        raise LocalError(f"{path} holds round {body['round']}")
    tensors = path.with_suffix(".safetensors")
    try:
        data = tensors.read_bytes()
    except OSError as error:
        raise LocalError(f"{tensors} cannot be read: {error.strerror or error}") from error
    expected = body["tensors"]
    if len(data) != expected["bytes"]:
        raise LocalError(f"{tensors} has {len(data):,} bytes, {expected['bytes']:,} were written")
    if f"{zlib.crc32(data):08x}" != expected["crc32"]:
        raise LocalError(f"{tensors} does not have the CRC-32 it was written with")
    return _grouped(data, tensors), body["meta"]


def _grouped(data: bytes, path: Path) -> dict[str, dict[str, NDArray[Any]]]:
    try:
        flat = parse_arrays(data)
    except SafetensorError as error:
        raise LocalError(f"{path} is no safetensors file: {error}") from error
    out: dict[str, dict[str, NDArray[Any]]] = {}
    for key in sorted(flat):
        group, _, name = key.partition("/")
        out.setdefault(unquote(group), {})[name] = flat[key]
    return out


def _safetensors(arrays: Arrays) -> Iterator[memoryview]:
    """The file's pieces, every array under GROUP/TENSOR."""
    return pieces({f"{quote(g, safe='')}/{n}": a for g, group in arrays.items() for n, a in group.items()})


def _of(body: Mapping[str, Any]) -> str:
    """CRC-32 of the canonical JSON form."""
    return f"{zlib.crc32(json.dumps(body, sort_keys=True, separators=(',', ':')).encode()):08x}"


def forget(folder: Path) -> None:
    """Keep the newest checkpoints; a crash in here leaves at worst an arrays' file that the next call removes."""
    clean(folder)
    kept = {f"round-{n:06d}" for n in _rounds(folder)[-KEPT:]}
    with contextlib.suppress(OSError):
        for path in (p for p in sorted(folder.glob("round-*.json")) if p.stem not in kept):
            path.unlink()
        for path in (p for p in sorted(folder.glob("round-*.safetensors")) if p.stem not in kept):
            os.replace(path, folder / _SPARE)
