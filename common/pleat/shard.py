"""Shard: one device's labelled samples, and the file it comes from.

A shard file is an `.npz` with `x` ([samples, ...] numbers) and `y` ([samples] class numbers from 0). Whatever is wrong
with one is told in a single line that names the file, what was expected and what was found; nothing is guessed but
that 8-bit images are scaled to [0, 1]. No pickled array is ever loaded.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pleat.disk import write_atomic
from pleat.errors import UseError

ZIP, ARRAY = b"PK\x03\x04", b"\x93NUM"  # how an .npz begins, and a single array's file


@dataclass(frozen=True, eq=False)
class Shard:
    """`x`: float32 [samples, ...]; `y`: int64 [samples], classes from 0."""

    x: NDArray[np.float32]
    y: NDArray[np.int64]

    def __len__(self) -> int:
        return int(self.y.size)

    @property
    def input_shape(self) -> tuple[int, ...]:
        return tuple(int(n) for n in self.x.shape[1:])

    @property
    def classes(self) -> int:
        """1 + the largest label; 0 for an empty shard."""
        return int(self.y.max()) + 1 if self.y.size else 0

    @property
    def labels(self) -> tuple[int, ...]:
        """The classes that occur, in order."""
        return tuple(int(c) for c in np.unique(self.y))


def read(path: str | Path) -> Shard:
    """The shard in the file `path`. Raises UseError for a file that is not a usable shard, saying why."""
    path = Path(path)
    if not path.is_file():
        raise UseError(f"no shard file {path}; make one with `pleat shards SOURCE --devices N`")
    try:
        with path.open("rb") as file:
            if not file.read(len(ZIP)).startswith((ZIP, ARRAY)):
                raise UseError(f"shard {path}: no .npz archive; make one with `pleat shards SOURCE --devices N`")
            file.seek(0)
            archive = np.load(file, allow_pickle=False)
            if isinstance(archive, np.ndarray):
                raise UseError(f"shard {path}: a single array; expected an .npz archive with arrays x and y")
            x, y = _arrays(archive, path)
    except UseError:
        raise
    except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile, NotImplementedError) as error:
        why = "holds Python objects" if "pickle" in str(error) or "Object arrays" in str(error) else str(error)
        raise UseError(f"shard {path}: cannot be read as an .npz of numbers: {why}") from None
    return make(x, y, str(path))


def _arrays(archive: Mapping[str, NDArray[Any]], path: Path) -> tuple[NDArray[Any], NDArray[Any]]:
    names = sorted(archive)
    if "x" not in names:
        raise UseError(f"shard {path}: no samples: expected an array x, found {names}")
    if "y" not in names:
        raise UseError(f"shard {path}: no labels: expected an array y beside x, found {names}")
    return archive["x"], archive["y"]


def make(x: NDArray[Any], y: NDArray[Any], where: str = "shard") -> Shard:
    """Check two arrays and make them a shard; `where` begins every complaint. 8-bit images are divided by 255."""
    if not (np.issubdtype(x.dtype, np.floating) or np.issubdtype(x.dtype, np.integer) or x.dtype == np.bool_):
        raise UseError(f"shard {where}: x must hold numbers, got {x.dtype}")
    if x.ndim < 2:
        raise UseError(f"shard {where}: x must have a samples axis and at least one more, got shape {x.shape}")
    if y.ndim != 1 or len(y) != len(x):
        raise UseError(f"shard {where}: y must hold one label for each of the {len(x)} samples, got shape {y.shape}")
    if len(x) < 2:
        raise UseError(f"shard {where}: {len(x)} sample(s); at least 2 are needed to train on")
    if x.size == 0:
        raise UseError(f"shard {where}: samples are empty: x has shape {x.shape}")
    return Shard(_samples(x, where), _labels(y, where))


def _samples(x: NDArray[Any], where: str) -> NDArray[np.float32]:
    if x.dtype == np.uint8:
        return np.ascontiguousarray(x, np.float32) / np.float32(255)
    with np.errstate(over="ignore"):
        out = np.ascontiguousarray(x, np.float32)
    if not np.isfinite(out).all():
        row = int(np.argmin(np.isfinite(out.reshape(len(out), -1)).all(axis=1)))
        raise UseError(f"shard {where}: x has NaN or infinite values, first in sample {row}; clean or drop it")
    return out


def _labels(y: NDArray[Any], where: str) -> NDArray[np.int64]:
    if not (np.issubdtype(y.dtype, np.integer) or np.issubdtype(y.dtype, np.floating)):
        raise UseError(f"shard {where}: y must hold class numbers, got {y.dtype}; map class names to 0, 1, ...")
    if np.issubdtype(y.dtype, np.floating) and not (np.isfinite(y).all() and (y == np.floor(y)).all()):
        raise UseError(f"shard {where}: y must hold whole class numbers, got fractions or NaN")
    if y.min() < 0 or y.max() > 10**6:
        raise UseError(f"shard {where}: labels must count from 0, got {y.min()} to {y.max()}")
    return y.astype(np.int64)


def write(path: str | Path, shard: Shard) -> None:
    """Write `shard` to `path` whole or not at all; `read` gives it back bit for bit."""
    buffer = io.BytesIO()
    np.savez(buffer, x=shard.x, y=shard.y)
    write_atomic(Path(path), buffer.getvalue())


def split_holdout(shard: Shard, share: float, seed: int) -> tuple[Shard, Shard]:
    """(train, holdout): a random `share` of the samples held out, by `seed`; both in the file's order.

    A share above 0 holds out at least one sample, and at least one is always left to train on. Raises UseError for a
    share outside [0, 1).
    """
    if not 0 <= share < 1:
        raise UseError(f"hold-out share must be in [0, 1), got {share}")
    held = min(max(1, round(share * len(shard))), len(shard) - 1) if share > 0 else 0
    order = np.random.Generator(np.random.PCG64(seed)).permutation(len(shard))
    out, rest = np.sort(order[:held]), np.sort(order[held:])
    return Shard(shard.x[rest], shard.y[rest]), Shard(shard.x[out], shard.y[out])


def check_fits(shard: Shard, input_shape: tuple[int, ...], classes: int, where: str | Path = "shard") -> None:
    """Raises UseError unless every sample fits the model's input and every label one of its outputs."""
    if shard.input_shape != tuple(input_shape):
        raise UseError(f"shard {where}: samples have shape {shard.input_shape}, the model takes {tuple(input_shape)}")
    if shard.classes > classes:
        raise UseError(f"shard {where}: labels go up to {shard.classes - 1}, the model has classes 0 to {classes - 1}")
