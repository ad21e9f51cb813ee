"""What several verbs read from the command line, and how they print. Units stand in the help texts."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from pleat.errors import UseError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

RUNS = Path("runs")

RecipeName = Annotated[str, typer.Option("--recipe", help="Method: a name from `pleat recipes`, or a .toml file.")]
ModelName = Annotated[
    str,
    typer.Option(
        "--model", help="Net: mlp, cnn, caldas, resnet6, 8, 18, 20, 56, transformer or package.module:function."
    ),
]
Rounds = Annotated[int, typer.Option("--rounds", min=1, help="Rounds to run.")]
Seed = Annotated[int, typer.Option("--seed", help="Everything random follows from it.")]
Policy = Annotated[
    str, typer.Option("--policy", help="Who trains what: sweep, ducb, lookup or fixed. Default: the recipe's.")
]
Folder = Annotated[Path | None, typer.Option("--folder", help="Folder of the run. Default: runs/RECIPE-MODEL-N.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
JsonFile = Annotated[
    Path | None, typer.Option("--json", help="Write the summary to this file as JSON.", metavar="FILE")
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set", help="Lay one value over the recipe, such as training.epochs=4. Repeatable.", metavar="KEY=VALUE"
    ),
]
TestData = Annotated[
    Path | None, typer.Option("--data", help="Samples to score on, .npz with x and y. Default: the run's own.")
]
Size = Annotated[
    str,
    typer.Option(
        help="A rate in (0, 1], one of the recipe's or any other, 1 = the whole model; or rates by name as a run "
        "prints them, such as 'depth 0.67 density 0.33'."
    ),
]
Depth = Annotated[
    str, typer.Option("--depth", help="Blocks to keep of every stage, such as 2,2,1,1. Default: the recipe's own.")
]
Proxy = Annotated[
    Path | None,
    typer.Option(
        help="Samples to prune by before the first round, .npz; for recipes such as elf. Default: some of the server's."
    ),
]
Cache = Annotated[
    Path | None,
    typer.Option(help="Folder for what pruning came to. Default: pleat in $XDG_CACHE_HOME, ~/.cache."),
]
Run = Annotated[Path, typer.Argument(help="Folder of a run.", metavar="RUN")]


def overrides(words: list[str] | None) -> dict[str, Any]:
    """{"training": {"epochs": 4}} of ["training.epochs=4"]; a value is TOML, or else a plain word."""
    out: dict[str, Any] = {}
    for word in words or []:
        key, equals, text = word.partition("=")
        if not equals or not key.strip():
            raise UseError(f"--set {word}: expected KEY=VALUE, such as training.epochs=4")
        table = out
        *path, last = key.strip().split(".")
        for name in path:
            table = table.setdefault(name, {})
            if not isinstance(table, dict):
                raise UseError(f"--set {word}: {name} was set to a value before")
        table[last] = _value(text.strip())
    return out


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def shape(text: str) -> tuple[int, ...]:
    """(1, 28, 28) of "1x28x28"; () of "". Raises UseError."""
    from pleat.exchange.flower import shape as parsed

    return parsed(text)


def depth(text: str) -> tuple[int, ...]:
    """(2, 2, 1, 1) of "2,2,1,1"; () of "". Raises UseError."""
    words = text.split(",") if text.strip() else []
    if not all(word.strip().isdecimal() for word in words):
        raise UseError(f"--depth {text}: expected how many blocks to keep of every stage, such as 2,2,1,1")
    return tuple(int(word) for word in words)


def new_folder(recipe: str, model: str) -> Path:
    """runs/RECIPE-MODEL-N with the first N that is free. Short, because the run's name travels with every order."""
    stem = f"{Path(recipe).stem}-{model.rpartition(':')[2]}"
    number = 1
    while (RUNS / f"{stem}-{number}").exists():
        number += 1
    return RUNS / f"{stem}-{number}"


def latest_run() -> Path:
    """The run begun last under runs/. Raises UseError if there is none."""
    found = sorted(RUNS.glob("*/run.json"), key=lambda p: p.stat().st_mtime)
    if not found:
        raise UseError("no run under runs/; begin one with `pleat serve` or `pleat demo`, or name its folder")
    return found[-1].parent


def dump(value: object) -> None:
    """JSON on standard output."""
    print(json.dumps(value, indent=2, default=str))


def write_json(path: Path, value: object) -> None:
    """`value` as JSON in the file `path`, whole or not at all."""
    from pleat.disk import write_atomic

    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, (json.dumps(value, indent=2, default=str) + "\n").encode())
