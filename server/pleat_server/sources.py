"""Where data sets come from: handwritten digits, an `.npz`, a `.json` of texts, a folder of images, or a torchvision
data set by name.

Reads files, and only with `download` the network. Every result is a checked `Shard`; whatever cannot be used is told
in one line that says what to type instead.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pleat.errors import UseError, install, nearest
from pleat.shard import Shard, make, read
from pleat_server.shards import Source
from pleat_server.texts import SUFFIXES, VOCABULARY, WORDS, read_texts

IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".pgm", ".ppm")
CLIENT_ARRAYS = ("client", "clients", "writer", "writers", "user", "users")


def open_source(
    name: str,
    *,
    shape: tuple[int, ...] | None = None,
    size: int = 32,
    root: Path = Path("data"),
    download: bool = False,
    words: int = WORDS,
    vocabulary: int = VOCABULARY,
) -> Source:
    """The data set `name`. `shape` reshapes every sample (1x28x28), `size` is the edge that images are resized to,
    `root` is where torchvision keeps its files; a text has `words` tokens of at most `vocabulary` ids. Raises UseError.
    """
    if name == "digits":
        source = digits()
    elif name.endswith(".npz"):
        source = from_npz(Path(name))
    elif name.endswith(SUFFIXES):
        texts = read_texts(Path(name), words, vocabulary)
        source = Source(texts.shard, texts.clients, texts.words, texts.test)
    elif Path(name).is_dir():
        source = from_images(Path(name), size)
    else:
        source = from_torchvision(name, size, root, download)
    return source if shape is None else _reshaped(source, shape, name)


def digits() -> Source:
    """scikit-learn's 1797 handwritten digits, 1 x 8 x 8, from 0 to 1."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise UseError(f"the digits come with scikit-learn; {install('demo')}") from None
    bunch = load_digits()
    return Source(make((bunch.images[:, None] / 16).astype(np.float32), bunch.target, "digits"))


def from_npz(path: Path) -> Source:
    """Arrays x and y of an `.npz`, and who wrote each sample where an array such as `client` says so."""
    shard = read(path)
    with np.load(path, allow_pickle=False) as archive:
        name = next((n for n in CLIENT_ARRAYS if n in archive.files), None)
        clients = None if name is None else np.asarray(archive[name])
    if clients is None:
        return Source(shard)
    if clients.shape != shard.y.shape:
        raise UseError(
            f"{path}: array {name!r} must name one client for each of {len(shard)} samples, got {clients.shape}"
        )
    return Source(shard, np.unique(clients, return_inverse=True)[1].astype(np.int64))


def from_images(folder: Path, size: int) -> Source:
    """Images in one subfolder a class, classes in the order of the folders' names."""
    image = _pillow()
    classes = sorted(p for p in folder.iterdir() if p.is_dir())
    files = [(f, k) for k, c in enumerate(classes) for f in sorted(c.rglob("*")) if f.suffix.lower() in IMAGES]
    if not files:
        raise UseError(
            f"{folder}: no images; expected one folder a class with {', '.join(IMAGES[:3])} ... files inside"
        )
    pictures = [_opened(image, path) for path, _ in files]
    return Source(make(_stacked(pictures, size), np.array([k for _, k in files]), str(folder)))


def _opened(image: Any, path: Path) -> Any:
    try:
        with image.open(path) as opened:
            return opened.convert("L" if opened.mode in ("1", "L", "I;16") else "RGB")
    except OSError as error:
        raise UseError(f"{path}: not a readable image: {error}") from None


def _pillow() -> Any:
    try:
        from PIL import Image
    except ImportError:
        raise UseError(f"reading images needs Pillow; {install('demo')}") from None
    return Image


def _stacked(pictures: Iterable[Any], size: int) -> NDArray[np.uint8]:
    """Samples x channels x size x size; three channels as soon as one picture has colour."""
    pictures = list(pictures)
    mode = "L" if all(p.mode == "L" for p in pictures) else "RGB"
    arrays = [np.asarray(p.convert(mode).resize((size, size)), np.uint8).reshape(size, size, -1) for p in pictures]
    return np.ascontiguousarray(np.stack(arrays).transpose(0, 3, 1, 2))


def from_torchvision(name: str, size: int, root: Path, download: bool) -> Source:
    """The training part of a torchvision classification data set, such as CIFAR10 or FashionMNIST."""
    datasets = _torchvision(name)
    kinds = [n for n in dir(datasets) if inspect.isclass(getattr(datasets, n)) and n[0].isupper()]
    if name not in kinds:
        near = nearest(name, ["digits", *kinds], 0.5)
        raise UseError(f"no data set {name!r}; " + (f"did you mean {near!r}?" if near else _expected()))
    try:
        dataset = getattr(datasets, name)(**_arguments(getattr(datasets, name), root, download))
        arrays, labels = _arrays(dataset, size), np.array([int(y) for y in _labels(dataset)])
    except (RuntimeError, OSError) as error:
        hint = "" if download else "; add --download to fetch it"
        why = str(error).splitlines()[0].split(". You can")[0]
        raise UseError(f"torchvision {name} in {root}: {why}{hint}") from None
    except (TypeError, ValueError, AttributeError) as error:
        raise UseError(f"torchvision {name} is no plain classification data set: {error}") from None
    return Source(make(arrays, labels, name))


def _expected() -> str:
    return (
        "expected digits, FILE.npz, FILE.json of texts, a folder of images, or a torchvision data set such as CIFAR10"
    )


def _torchvision(name: str) -> Any:
    """torchvision's data sets. Raises UseError where it is not installed."""
    from pleat.nets.vision import with_torchvision

    try:
        return with_torchvision(lambda: importlib.import_module("torchvision.datasets"))
    except ImportError:
        raise UseError(
            f"no data set {name!r}: {_expected()}. torchvision is not installed; "
            "type: pip install -c constraints.txt torchvision (unpinned, it would replace torch)"
        ) from None


def _arguments(kind: Any, root: Path, download: bool) -> dict[str, Any]:
    known = inspect.signature(kind).parameters
    offered: dict[str, Any] = {"root": str(root), "train": True, "split": "train", "download": download}
    return {key: value for key, value in offered.items() if key in known}


def _arrays(dataset: Any, size: int) -> NDArray[Any]:
    data = getattr(dataset, "data", None)
    if data is None:
        return _stacked([picture.convert("RGB") for picture, _ in dataset], size)
    array = np.asarray(data)
    if array.ndim == 3:
        return array[:, None]
    return np.ascontiguousarray(array.transpose(0, 3, 1, 2)) if array.shape[-1] in (1, 3) else array


def _labels(dataset: Any) -> Iterable[Any]:
    for name in ("targets", "labels", "_labels"):
        if hasattr(dataset, name):
            return list(getattr(dataset, name))
    return [label for _, label in dataset]


def _reshaped(source: Source, shape: tuple[int, ...], name: str) -> Source:
    if source.words:
        raise UseError(f"{name}: texts are rows of tokens, they do not reshape; leave --shape out, or set --words")
    x = source.shard.x
    if int(np.prod(shape)) != int(np.prod(x.shape[1:])):
        raise UseError(f"{name}: samples of shape {source.shard.input_shape} do not reshape to {shape}")
    return Source(Shard(x.reshape(len(x), *shape), source.shard.y), source.clients)
