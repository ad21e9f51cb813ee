"""One frozen configuration of a run: what was asked for, saved beside the run so that resuming needs nothing else."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import msgspec

from pleat.disk import write_atomic
from pleat.errors import UseError


@dataclass(frozen=True)
class RunConfig:
    """`input_shape` and `classes` come from `data`, else from the first devices to connect. Paths are kept absolute.

    `carried`: what takes orders to devices, so that it can be gone on with: "grpc" (`pleat serve`), "simulate", "demo",
    "beside" (in the folder of another run) or "flower". `how`: what that needs beyond what stands here. `proxy`:
    samples to train on before the first round, else some of the server's own; `cache`: where what came of it is kept,
    else `cache_folder`."""

    recipe: str
    model: str
    folder: Path
    rounds: int = 30
    seed: int = 0
    data: Path | None = None
    listen: str = "127.0.0.1:8470"
    insecure: bool = False
    cert: Path | None = None
    key: Path | None = None
    ca: Path | None = None
    policy: str = ""
    least: int = 0  # devices to wait for; 0: the recipe's
    overrides: dict[str, Any] = field(default_factory=dict)
    input_shape: tuple[int, ...] = ()
    classes: int = 0
    proxy: Path | None = None
    cache: Path | None = None
    carried: str = "grpc"
    how: dict[str, Any] = field(default_factory=dict)

    def save(self) -> None:
        """Write `run.json` into the run's folder."""
        plain = {k: str(v.resolve()) if isinstance(v, Path) else v for k, v in asdict(self).items()}
        write_atomic(self.folder / "run.json", msgspec.json.format(msgspec.json.encode(plain), indent=2))

    @staticmethod
    def load(folder: Path) -> RunConfig:
        """The configuration of the run in `folder`. Raises UseError if there is none."""
        path = folder / "run.json"
        if not path.is_file():
            raise UseError(f"{folder} holds no run (no run.json); name the folder that `pleat serve` printed")
        try:
            plain = msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
        except msgspec.DecodeError as error:
            raise UseError(f"{path}: not a run's configuration: {error}") from None
        known = {f.name for f in fields(RunConfig)}
        for name in ("folder", "data", "cert", "key", "ca", "proxy", "cache"):
            plain[name] = Path(plain[name]) if plain.get(name) else None
        plain["folder"] = folder
        plain["input_shape"] = tuple(plain.get("input_shape") or ())
        return RunConfig(**{k: v for k, v in plain.items() if k in known})


def cache_folder(env: Mapping[str, str] = os.environ) -> Path:
    """Where results that can be made again are kept: XDG_CACHE_HOME/pleat, else ~/.cache/pleat."""
    base = env.get("XDG_CACHE_HOME", "")
    return (Path(base) if base else Path(env.get("HOME") or ".") / ".cache") / "pleat"
