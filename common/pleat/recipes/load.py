"""Load: from a recipe's name or file to the recipe, validated before anything runs.

A recipe may `extend` another by name or path. A key that is unknown, out of its range or contradicts another is refused
with its line and the nearest valid one.
"""

from __future__ import annotations

from typing import Any

import msgspec

from pleat.errors import UseError, hint
from pleat.exchange import skills
from pleat.nets.names import NAMES, unknown
from pleat.recipes.checks import check
from pleat.recipes.recipe import Recipe, Table
from pleat.recipes.source import Source, merge, names, nearest_key, place, sources

__all__ = ["load", "names"]


# Of any objective, gate or adjuster: what a recipe inherits from another may be for another one.
_SETTINGS = {
    "objective": sorted({name for names in (*skills.OBJECTIVES.values(), *skills.GATES.values()) for name in names}),
    "rule": sorted({name for names in skills.ADJUSTERS.values() for name in names}),
}


def load(name: str, *, model: str = "", overrides: dict[str, Any] | None = None) -> Recipe:
    """The recipe called `name`, or in the file `name`, as it applies to the net `model`, with `overrides` laid on top.

    Raises UseError, naming the file, the line, the key and the nearest valid one.
    """
    files, raw = sources(name), dict[str, Any]()
    for source in files:
        _known(source.raw, source)
        raw = merge(raw, source.raw)
    raw = merge(raw, raw.get("models", {}).get(model, {}))
    if overrides:
        laid = Source(f"{name} with --set", "", overrides)
        _known(overrides, laid)
        files, raw = [*files, laid], merge(raw, overrides)
    try:
        recipe = msgspec.convert(raw, Recipe)
    except msgspec.ValidationError as error:
        told = str(error)
        key = told.rpartition("$.")[2].rstrip("`").partition("[")[0]
        raise UseError(f"recipe {_place(files, raw, key, model)}: {told}") from None
    check(recipe, lambda key: _place(files, raw, key, model))
    return recipe


def _place(files: list[Source], raw: dict[str, Any], key: str, model: str) -> str:
    """Where a value of the merged recipe comes from: the command line, what the net lays on top, or the recipe."""
    table, _, last = key.partition(".")
    if files[-1].text == "" and last in (files[-1].raw.get(table) or {}):
        return files[-1].where
    laid = raw.get("models", {}).get(model, {}).get(table, {})
    return place(files, f"models.{model}.{key}" if last in laid else key)


def _known(raw: dict[str, Any], source: Source, table: str = "", prefix: str = "") -> None:
    """Refuse the first unknown key of a file, in what it says for single nets too."""
    for key, value in raw.items():
        if key not in _keys(table):
            where = place([source], prefix + key)
            raise UseError(f"recipe {where}: unknown key {prefix + key!r}; {nearest_key(key, table, _keys)}")
        if key == "settings" and table in _SETTINGS and isinstance(value, dict):
            odd = next((name for name in value if name not in _SETTINGS[table]), None)
            if odd is not None:
                full = f"{prefix}{key}.{odd}"
                told = hint(odd, _SETTINGS[table])
                raise UseError(f"recipe {place([source], full)}: unknown key {full!r}; {told}")
        if not table and key == "models" and isinstance(value, dict):
            for net, laid in value.items():
                if net not in NAMES and ":" not in net:
                    where = place([source], f"models.{net}")
                    raise UseError(f"recipe {where}: {unknown(net)}")
                if isinstance(laid, dict):
                    _known(laid, source, "", f"models.{net}.")
        elif not table and _keys(key) and isinstance(value, dict):
            _known(value, source, key, f"{prefix}{key}.")


def _keys(table: str) -> tuple[str, ...]:
    """The keys of a table, or of the recipe itself for ""; none for what is no table."""
    if not table:
        return Recipe.__struct_fields__
    kind = next((f.type for f in msgspec.structs.fields(Recipe) if f.name == table), None)
    return kind.__struct_fields__ if isinstance(kind, type) and issubclass(kind, Table) else ()
