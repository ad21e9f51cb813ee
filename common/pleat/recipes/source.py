"""Sources: the TOML files that a recipe is made of, and where in them a key stands, for messages.

A recipe may extend another, so a value has a file and a line; of several that set it, the last laid on top.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from pleat.errors import UseError, hint, nearest

if sys.version_info >= (3, 11):
    import tomllib
else:  # pragma: no cover - exercised on Python 3.10
    import tomli as tomllib

_HEADER = re.compile(r"\s*\[\s*([^\[\]]+?)\s*\]")
_KEY = re.compile(r"""\s*([A-Za-z0-9_."'\-]+(?:\s*\.\s*[A-Za-z0-9_."'\-]+)*)\s*=""")


@dataclass(frozen=True)
class Source:
    """One file of a recipe: its name for messages, its text and what it says."""

    where: str
    text: str
    raw: dict[str, Any]


def names() -> list[str]:
    """The recipes that come with pleat."""
    return sorted(p.name[:-5] for p in resources.files("pleat.recipes").iterdir() if p.name.endswith(".toml"))


def sources(name: str, beside: Path | None = None, seen: tuple[str, ...] = ()) -> list[Source]:
    """The files of the recipe `name`, what it extends first. A file named in `extends` is sought from the file that
    names it. Raises UseError for what is not there, is not TOML, or goes round in a circle."""
    if name in seen:
        raise UseError(f"recipe {name!r} extends itself through {' -> '.join(seen)}; remove one `extends`")
    path = _file(name, beside)
    text, where = (path.read_text(encoding="utf-8"), str(path)) if path else (_shipped(name), f"{name}.toml")
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UseError(f"recipe {where}: not valid TOML: {error}") from None
    under = raw.get("extends")
    below = sources(str(under), path.parent if path else None, (*seen, name)) if under else []
    return [*below, Source(where, text, raw)]


def _file(name: str, beside: Path | None) -> Path | None:
    if not name.endswith(".toml"):
        return None
    found = [p for p in ((beside / name) if beside else None, Path(name)) if p is not None and p.is_file()]
    if not found:
        raise UseError(f"no recipe file {name}; recipes by name: {', '.join(names())}")
    return found[0]


def _shipped(name: str) -> str:
    if name not in names():
        raise UseError(f"unknown recipe {name!r}; {hint(name, names())} (`pleat recipes` lists them)")
    return resources.files("pleat.recipes").joinpath(f"{name}.toml").read_text(encoding="utf-8")


def merge(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """`over` laid on `under`, table by table; an objective's or policy's `settings` are replaced whole."""
    out = dict(under)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(out.get(key), dict) and key != "settings"
        out[key] = merge(out[key], value) if both else value
    return out


def place(files: Sequence[Source], key: str) -> str:
    """Where `key` ("training.epochs") was set last: "mine.toml, line 4"; the last file's name alone where no file
    sets it, as for a value of the command line."""
    for source in reversed(files):
        line = line_of(source.text, key)
        if line:
            return f"{source.where}, line {line}"
    return files[-1].where


def line_of(text: str, key: str) -> int:
    """The line, from 1, on which `key` is set: as it is, by the inline table that it is in, or by a header or key that
    lies in it, whichever says most of it, the first of equals; 0 if none does."""
    wanted, table = key.split("."), list[str]()
    best, line_found = 0, 0
    for number, line in enumerate(text.splitlines(), 1):
        header, assigned = _HEADER.match(line), _KEY.match(line)
        if header:
            table = _parts(header[1])
            path = table
        elif assigned:
            path = [*table, *_parts(assigned[1])]
        else:
            continue
        shared = min(len(path), len(wanted))
        if wanted[:shared] == path[:shared] and shared > best:
            best, line_found = shared, number
    return line_found


def _parts(dotted: str) -> list[str]:
    return [part.strip().strip("\"'") for part in dotted.split(".")]


Fields = Callable[[str], Sequence[str]]  # table, "" for the recipe itself -> its keys


def nearest_key(key: str, table: str, tables: Fields) -> str:
    """A hint for an unknown `key` of `table`: the nearest key there, else the table that has such a key."""
    here = tables(table)
    elsewhere = [f"{t}.{key}" for t in tables("") if t != table and key in tables(t)]
    return f"did you mean {elsewhere[0]!r}?" if elsewhere and not nearest(key, here) else hint(key, here, "valid keys:")
