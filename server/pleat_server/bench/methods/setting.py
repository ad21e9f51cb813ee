"""Settings: data, net, fleet and budgets that methods are compared on, as plain data; and the shards that follow.

`s`: 100 devices of five equal classes, which afford 1, 1/2, 1/4, 1/8 and 1/16 of the model's parameters; 10 devices a
round, 100 rounds, two local epochs of plain SGD; a residual net with group norm. `s-macs`: the same with classes cut by
multiply-adds, at what depth can come down to; `s-iid`: the same with every device's data alike.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from pleat.errors import UseError
from pleat.shard import Shard, make
from pleat_server.shards import Source, deal
from pleat_server.sources import digits

ARRAYS = ("x_train", "y_train", "x_test", "y_test")
EDGE = 16  # images are pooled to this edge
VALIDATION = 0.2  # of the training samples, where numbers are chosen


@dataclass(frozen=True)
class Setting:
    """`budgets`: what each class affords, as shares of the whole model's `measure`. `part`: what is scored."""

    name: str
    split: str = "dirichlet:0.5"
    budgets: tuple[float, ...] = (1.0, 0.5, 0.25, 0.125, 0.0625)
    measure: Literal["parameters", "macs"] = "parameters"
    model: str = "resnet6"
    devices: int = 100
    cohort: float = 0.1
    rounds: int = 100
    epochs: int = 2
    batch: int = 20
    rate: float = 0.1
    clip: float = 5.0
    data: str = ""
    part: Literal["test", "validation"] = "test"
    every: int = 5  # rounds between scores
    last: int = 5  # scores that are averaged

    @property
    def training(self) -> dict[str, Any]:
        """What every contender trains with."""
        return {"epochs": self.epochs, "batch": self.batch, "rate": self.rate, "momentum": 0.0, "clip": self.clip}

    def class_of(self, device: int) -> int:
        """Devices take turns, so that classes are equal in number and alike in their data."""
        return device % len(self.budgets)

    def shards(self, seed: int) -> tuple[tuple[Shard, ...], Shard]:
        """One shard a device, and what the model is scored on; functions of the setting and the seed."""
        return shards(self, seed)

    @property
    def common(self) -> int:
        """Of those samples as many as a model that stays on its device is scored on; 0: on a share of the device's."""
        return 0


SETTINGS: dict[str, Setting] = {
    "s": Setting("s"),
    "s-macs": Setting("s-macs", measure="macs", budgets=(1.0, 0.7, 0.52, 0.4, 0.38)),
    "s-iid": Setting("s-iid", split="iid"),
}


def named(options: Mapping[str, str]) -> Setting:
    """The setting that the options name. Raises UseError with what there is."""
    known = {"setting", "data", "only", "seeds", "rounds", "jobs", "part"}
    odd = sorted(options.keys() - known)
    if odd:
        raise UseError(f"bench methods: unknown option {odd[0]!r}; there are {', '.join(sorted(known))}")
    name = options.get("setting", "s")
    if name not in SETTINGS:
        raise UseError(f"bench methods: unknown setting {name!r}; there are {', '.join(SETTINGS)}")
    part = options.get("part", "test")
    if part not in ("test", "validation"):
        raise UseError(f"bench methods: part must be test or validation, got {part!r}")
    rounds = numbers("methods", options, "rounds", "0")[0]
    setting = replace(SETTINGS[name], data=options.get("data", ""), part=part)  # type: ignore[arg-type]  # checked above
    return replace(setting, rounds=rounds, every=min(setting.every, rounds)) if rounds else setting


def numbers(bench: str, options: Mapping[str, str], name: str, default: str, least: int = 0) -> list[int]:
    """Whole numbers from `least` with commas between. Raises UseError."""
    text = options.get(name, default)
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() and int(word) >= least for word in words):
        expected = "whole numbers with commas between" + (f", from {least}" if least else "")
        raise UseError(f"bench {bench}: {name} must be {expected}, got {text!r}")
    return [int(word) for word in words]


def shards(setting: Setting, seed: int) -> tuple[tuple[Shard, ...], Shard]:
    train, test = _whole(setting.data)
    if test is not None and setting.part == "test":
        return deal(Source(train), setting.devices, setting.split, holdout=0.0, seed=seed).devices, test
    dealt = deal(Source(train), setting.devices, setting.split, holdout=VALIDATION, seed=seed)
    assert dealt.test is not None  # a share was held out
    return dealt.devices, dealt.test


def _whole(data: str) -> tuple[Shard, Shard | None]:
    """Training samples, and test samples where the data set has them."""
    if not data:
        return digits().shard, None
    path = data_file(data)
    with np.load(path, allow_pickle=False) as archive:
        missing = [name for name in ARRAYS if name not in archive.files]
        if missing:
            raise UseError(f"bench methods: {path} has no array {missing[0]!r}; expected {', '.join(ARRAYS)}")
        train, test = (make(_images(archive[f"x_{p}"]), archive[f"y_{p}"], str(path)) for p in ("train", "test"))
    return train, test


def data_file(data: str) -> Path:
    path = Path(data)
    if not path.is_file():
        raise UseError(f"bench: no data file {path}; expected an .npz with {', '.join(ARRAYS)}")
    return path


def _images(x: Any) -> Any:
    """[samples, channels, EDGE, EDGE] from 0 to 1: means of whole squares of pixels."""
    x = np.asarray(x, np.float32) / (255 if x.dtype == np.uint8 else 1)
    x = x[:, None] if x.ndim == 3 else x.transpose(0, 3, 1, 2)
    pool = max(1, x.shape[-1] // EDGE)
    n, channels, height, width = x.shape
    cut = x[:, :, : height // pool * pool, : width // pool * pool]
    return cut.reshape(n, channels, height // pool, pool, width // pool, pool).mean(axis=(3, 5))


def digest(setting: Setting) -> str:
    """Of everything that a run's outcome follows from but the contender and the seed; of a data file its bytes."""
    data = hashlib.sha256(data_file(setting.data).read_bytes()).hexdigest() if setting.data else "digits"
    return hashlib.sha256(f"{replace(setting, data=data)!r}".encode()).hexdigest()[:16]
