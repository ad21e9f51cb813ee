"""Export: a submodel of a run's model as a file of its own, checked before it is there.

The file is written beside its place, loaded again, compared with the submodel on samples, and only then put in place:
whatever goes wrong leaves what was there.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pleat.disk import failure, make_folder, sync_folder, temporary_beside, write_atomic
from pleat.elastic import size as sizes
from pleat.elastic.selection import WHOLE, Selection
from pleat.errors import LocalError, UseError, named
from pleat_server import formats
from pleat_server.exported import Opened, opened
from pleat_server.formats import FORMATS, Outputs
from pleat_server.held_out import scored_on

SAMPLES = 64  # on which a file is compared with its submodel
CLOSE = 1e-3  # of outputs of size one; other kernels add in another order


def export(
    folder: Path,
    size: str,
    depth: Sequence[int],
    name: str,
    out: Path | None,
    data: Path | None,
) -> dict[str, Any]:
    """Write the submodel of the run in `folder` as format `name`; returns what was written, its size and accuracy.

    Raises UseError for a size, depth, format, run or file that cannot be, LocalError where the file does not compute
    what the submodel does or cannot be written; nothing is left then that was not there.
    """
    kind = named("format", name, FORMATS)
    formats.check_installed(name)
    run = opened(folder)
    selection = run.submodel(size, depth)
    blocks = run.kept_blocks(selection)
    path = out or folder / f"submodel-{'-'.join([*size.split(), *map(str, depth)])}{kind.suffix}"
    _check_place(path)
    score, where = run.score(selection, size, data)
    submodel = formats.cut(run.setup.net, run.setup.model, selection, run.params(size))
    x, like = _samples(run, data)
    about = {"recipe": run.setup.recipe.name, "round": str(run.state.round), "size": size}
    written = kind.write(submodel, x, about)
    expected = formats.outputs(submodel.module(), x, written.batch)
    gap, nbytes = _placed(path, written.content, lambda p: formats.outputs(kind.run(p), x, written.batch), expected)
    return {
        "file": str(path),
        "format": name,
        "bytes": nbytes,
        "size": size,
        "depth": blocks,
        **_sizes(run, selection),
        "accuracy": score.accuracy if score else None,
        "loss": score.loss if score else None,
        "samples": score.samples if score else 0,
        "data": where,
        "checked": len(x),
        "checked_on": like,
        "difference": gap,
        "batch": written.batch or "any",
        "untrained": list(run.setup.personal),
        "run": folder.name,
        "round": run.state.round,
    }


def _sizes(run: Opened, selection: Selection) -> dict[str, Any]:
    """`parameters`: those that masks leave out not counted; `macs`: of a forward pass of one sample."""
    model = run.setup.model
    return {
        "parameters": sizes.parameters(model, selection),
        "of_parameters": sizes.parameters(model, WHOLE),
        "macs": sizes.macs(model, selection),
        "of_macs": sizes.macs(model, WHOLE),
        "masked": bool(selection.masks),
    }


def _check_place(path: Path) -> None:
    if path.is_dir():
        raise UseError(f"--out {path} is a folder; name the file to write in it")
    parent = next(p for p in path.absolute().parents if p.exists())
    if not parent.is_dir():
        raise UseError(f"--out {path}: {parent} is a file; name a file in a folder")


def _samples(run: Opened, data: Path | None) -> tuple[NDArray[np.float32], str]:
    """Samples to compare on: of the test data where there are any, else numbers from 0 to 1."""
    shard, _ = scored_on(run.config, data)
    if shard is not None:
        return shard.x[:SAMPLES], "test data"
    shape = (SAMPLES, *run.config.input_shape)
    return np.random.default_rng(0).random(shape, np.float32), "random numbers from 0 to 1"


def _placed(path: Path, content: Any, run: Callable[[Path], Outputs], expected: Outputs) -> tuple[float, int]:
    """Write, load, compare, put in place; the largest difference, and the file's length in bytes."""
    make_folder(path.absolute().parent)
    beside = temporary_beside(path)
    try:
        write_atomic(beside, content)
        nbytes = beside.stat().st_size
        gap = difference(run(beside), expected)
        if not gap <= CLOSE * max(1.0, *(float(np.abs(a).max()) for a in expected)):
            raise LocalError(
                f"{path} was not written: loaded again, its outputs differ from the submodel's by up to {gap:.3g}"
            )
        os.replace(beside, path)
        sync_folder(path.absolute().parent)
    except OSError as error:
        raise failure(error, "file", path) from error
    finally:
        with contextlib.suppress(OSError):
            beside.unlink()
    return gap, nbytes


def difference(found: Outputs, expected: Outputs) -> float:
    """The largest difference of an output; infinite where number or shapes of the outputs differ."""
    if [a.shape for a in found] != [a.shape for a in expected]:
        return float("inf")
    return max(float(np.abs(a - b).max()) for a, b in zip(found, expected, strict=True))
