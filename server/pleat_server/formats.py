"""Formats: a submodel as a file that stands alone, and what such a file computes once it is loaded again.

    safetensors     the tensors as they were cut; `pleat.nets.exported.load_exported` makes a module of them
    torch-export    a graph for `torch.export.load`, which runs without pleat
    onnx            a graph for ONNX runtimes; needs the extra `export`

Graphs take any number of samples at once where the net allows that, else one.
"""

from __future__ import annotations

import importlib
import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from pleat.disk import Content
from pleat.elastic.selection import Selection, extract
from pleat.errors import UseError, install
from pleat.exchange.order import NetSpec
from pleat.modelmap import ModelMap
from pleat.nets import exported
from pleat.nets.factory import build
from pleat.nets.shrink import load, shrink
from pleat.params import Params

Samples = NDArray[np.float32]
Outputs = list[NDArray[Any]]


@dataclass(frozen=True)
class Cut:
    """A submodel: of what net it was cut, and its own tensors."""

    net: NetSpec
    model: ModelMap
    selection: Selection
    params: Params

    def module(self) -> nn.Module:
        """The submodel as a module, in eval mode."""
        small = shrink(build(self.net.factory, self.net.arguments), self.model, self.selection)
        load(small, self.params)
        return small.eval()


@dataclass(frozen=True)
class Written:
    """A file's content. `batch`: samples that a call takes, 0 = any number."""

    content: Content
    batch: int = 0


@dataclass(frozen=True)
class Format:
    """`write`: the submodel on samples of its shape, with facts to go into the file; `run`: a file's outputs."""

    suffix: str
    write: Callable[[Cut, Samples, dict[str, str]], Written]
    run: Callable[[Path], Callable[[torch.Tensor], Any]]
    needs: tuple[str, ...] = ()


def cut(net: NetSpec, model: ModelMap, selection: Selection, params: Params) -> Cut:
    """`selection` of the global `params`."""
    return Cut(net, model, selection, extract(model, selection, params))


def outputs(call: Callable[[torch.Tensor], Any], x: Samples, batch: int = 0) -> Outputs:
    """What `call` gives for samples, `batch` at a time (0: all at once); one array a result."""
    step = batch or len(x)
    parts = (torch.from_numpy(x[start : start + step]) for start in range(0, len(x), step))
    with torch.inference_mode():
        found = [[np.asarray(out) for out in _results(call(part))] for part in parts]
    return [np.concatenate(column) for column in zip(*found, strict=True)]


def _results(value: Any) -> Iterator[Any]:
    """One result, or those of a net with several heads."""
    if isinstance(value, tuple | list):
        for part in value:
            yield from _results(part)
    elif value is not None:  # an exit that is not there
        yield value


def check_installed(name: str) -> None:
    """Raises UseError, saying what to type, where a format needs packages that are not here."""
    missing = [package for package in FORMATS[name].needs if importlib.util.find_spec(package) is None]
    if missing:
        raise UseError(f"--format {name} needs {', '.join(missing)}; {install('export')}")


def _write_safetensors(part: Cut, x: Samples, about: dict[str, str]) -> Written:
    return Written(list(exported.pieces(part.net, part.selection, part.params, about)))


def _run_safetensors(path: Path) -> Callable[[torch.Tensor], Any]:
    return exported.load_exported(path)


def _write_torch(part: Cut, x: Samples, about: dict[str, str]) -> Written:
    graph, batch = _graph(part, x)
    buffer = io.BytesIO()
    with _quiet():
        torch.export.save(graph, buffer, extra_files={"pleat.json": json.dumps(about, sort_keys=True)})
    return Written(buffer.getvalue(), batch)


def _run_torch(path: Path) -> Callable[[torch.Tensor], Any]:
    with path.open("rb") as file, _quiet():
        return torch.export.load(file).module()


def _write_onnx(part: Cut, x: Samples, about: dict[str, str]) -> Written:
    graph, batch = _graph(part, x)
    with _quiet():
        try:
            program = torch.onnx.export(graph, dynamo=True, verbose=False, input_names=["x"])
        except Exception as error:
            raise _unfit(part, "onnx", error) from error
    proto = program.model_proto  # type: ignore[union-attr]
    for key, value in sorted(about.items()):
        entry = proto.metadata_props.add()
        entry.key, entry.value = key, value
    return Written(proto.SerializeToString(deterministic=True), batch)


def _run_onnx(path: Path) -> Callable[[torch.Tensor], Any]:
    runtime = importlib.import_module("onnxruntime")
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (entry,) = session.get_inputs()
    return lambda x: session.run(None, {entry.name: x.numpy()})


def _graph(part: Cut, x: Samples) -> tuple[torch.export.ExportedProgram, int]:
    """The net's graph for any number of samples, else for one; and that number, 0 = any."""
    net, some = part.module(), torch.from_numpy(x[:2])
    with _quiet():
        try:
            return torch.export.export(net, (some,), dynamic_shapes=({0: torch.export.Dim("batch")},)), 0
        except Exception:
            try:
                return torch.export.export(net, (some[:1],)), 1
            except Exception as error:
                raise _unfit(part, "torch-export", error) from error


def _unfit(part: Cut, name: str, error: Exception) -> UseError:
    line = next((words for words in str(error).splitlines() if words.strip()), type(error).__name__)
    return UseError(f"net {part.net.factory} has no graph for --format {name}: {line}; write --format safetensors")


@contextmanager
def _quiet() -> Iterator[None]:
    """torch tells of its own progress and deprecations."""
    level = logging.root.manager.disable
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        logging.disable(logging.CRITICAL)
        try:
            yield
        finally:
            logging.disable(level)


FORMATS: dict[str, Format] = {
    "safetensors": Format(".safetensors", _write_safetensors, _run_safetensors),
    "torch-export": Format(".pt2", _write_torch, _run_torch),
    "onnx": Format(".onnx", _write_onnx, _run_onnx, ("onnx", "onnxscript", "onnxruntime")),
}
