"""Inspection: what pleat sees in a net: channel groups, depth units, sizes, and the submodels a recipe makes of it."""

from __future__ import annotations

import shutil
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pleat.elastic import size
from pleat.elastic.selection import WHOLE, Selection, make
from pleat.modelmap import Group, ModelMap
from pleat.nets.build import initial, spec
from pleat.nets.trace import Look, look_at
from pleat.recipes import load as recipes
from pleat_server.plan.catalogue import catalogue

Facts = dict[str, Any]

_LEFT_OUT = {  # kind of a unit -> what leaving it out comes to, and whether zeros in its weights come to the same
    "block": ("passed by", True),
    "normed": ("passed by", False),
    "named": ("passed by", False),
    "branch": ("adds nothing", True),
    "exit": ("gives no logits", False),
    "tail": ("goes with the exits that need it", False),
}


def inspect(name: str, input_shape: tuple[int, ...], classes: int, recipe: str) -> Facts:
    """Everything that `show` prints, as plain data: counts, multiply-adds of a forward pass of one sample, and bytes a
    training step keeps for one sample. Raises UseError for a net that cannot be built, traced or cut so."""
    net = spec(name, input_shape, classes, recipes.load(recipe, model=name).holds.exits)
    seen = look_at(net)
    model = seen.model
    return {
        "model": net.factory,
        "input_shape": list(input_shape),
        "classes": classes,
        "digest": model.digest.hex(),
        **_sizes(model, WHOLE),
        "groups": [_group(model, g) for g in model.groups if g.role == "hidden"],
        "units": _units(seen),
        "exits": list(model.exits),
        "whole": [{"name": g.name, "channels": g.size, "reason": g.reason} for g in model.groups if g.role == "frozen"]
        + [{"name": path, "channels": None, "reason": why} for path, why in sorted(seen.whole.items())],
        "recipe": recipe,
        "ladder": _ladder(model, name, recipe, net),
    }


def _sizes(model: ModelMap, selection: Selection) -> Facts:
    return {
        "parameters": size.parameters(model, selection),
        "macs": size.macs(model, selection),
        "activation_bytes": 4 * size.activation_floats(model, selection),
    }


def _group(model: ModelMap, group: Group) -> Facts:
    """`parameters`: what every step of its channels takes away when all else is whole."""
    left = make(model, {group.name: range(group.size - group.step)})
    saved = size.parameters(model, WHOLE) - size.parameters(model, left)
    return {
        "name": group.name,
        "channels": group.size,
        "step": group.step,
        "unit": group.unit,
        "parameters": saved,
    }


def _units(seen: Look) -> list[Facts]:
    out = []
    for unit in seen.units:
        gone = _sizes(seen.model, Selection(dropped=frozenset((unit.path,))))  # a tail alone is no part to be built
        left_out, identity = _LEFT_OUT[unit.kind]
        saved = {key: value - gone[key] for key, value in _sizes(seen.model, WHOLE).items()}
        out.append(
            {"name": unit.path, "kind": unit.kind, "left_out": left_out, "zeros_equal_left_out": identity} | saved
        )
    return out


def _ladder(model: ModelMap, name: str, recipe: str, net: Any) -> list[Facts]:
    """The recipe's submodels, largest first, each once."""
    chosen = recipes.load(recipe, model=name)
    out: dict[Selection, Facts] = {}
    for row in catalogue(model, chosen, 0, initial(net, 0)):
        kept = {g: int(index.size) for g, index in row.selection.kept.items()}
        facts = {"size": row.rung.label, **_sizes(model, row.selection), "memory_bytes": row.memory_bytes}
        out.setdefault(row.selection, facts | {"kept": kept, "dropped": sorted(row.selection.dropped)})
    return list(out.values())


def show(facts: Facts) -> None:
    """Print tables; wide ones keep their columns where the terminal is narrower."""
    console = Console(width=max(shutil.get_terminal_size((100, 24)).columns, 80))
    shape = "x".join(map(str, facts["input_shape"]))
    console.print(
        f"{escape(facts['model'])} on {shape}, {facts['classes']} classes: {facts['parameters']:,} parameters, "
        f"{_millions(facts['macs'])} M multiply-adds a sample, {_kib(facts['activation_bytes'])} KiB kept a sample",
        highlight=False,
    )
    _table(console, f"Submodels that recipe {facts['recipe']} offers", _LADDER, map(_rung(facts), facts["ladder"]))
    _table(console, "Channel groups", _GROUPS, map(_row_of_group, facts["groups"]))
    _table(console, "Depth units", _UNITS, map(_row_of_unit, facts["units"]))
    _table(console, "Stays whole", ("name", "channels", "why"), map(_row_of_whole, facts["whole"]))


_LADDER = ("size", "parameters", "M multiply-adds", "KiB kept a sample", "MiB to train", "units left out")
_GROUPS = ("name", "channels", "in steps of", "parameters a step", "unit")
_UNITS = ("name", "left out", "zeros do the same", "parameters", "M multiply-adds")


def _rung(facts: Facts) -> Any:
    def row(rung: Facts) -> list[str]:
        return [
            rung["size"],
            f"{rung['parameters']:,} ({rung['parameters'] / facts['parameters']:.0%})",
            f"{_millions(rung['macs'])} ({rung['macs'] / max(1, facts['macs']):.0%})",
            _kib(rung["activation_bytes"]),
            f"{rung['memory_bytes'] / 2**20:.1f}",
            str(len(rung["dropped"])),
        ]

    return row


def _row_of_group(group: Facts) -> list[str]:
    return [group["name"], str(group["channels"]), str(group["step"]), f"{group['parameters']:,}", group["unit"] or "-"]


def _row_of_unit(unit: Facts) -> list[str]:
    same = "yes" if unit["zeros_equal_left_out"] else "no"
    return [unit["name"], unit["left_out"], same, f"{unit['parameters']:,}", _millions(unit["macs"])]


def _row_of_whole(part: Facts) -> list[str]:
    return [part["name"], "all" if part["channels"] is None else str(part["channels"]), part["reason"]]


def _table(console: Console, title: str, headings: tuple[str, ...], rows: Any) -> None:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        table.add_column(heading, overflow="fold", justify="left")
    for row in rows:
        table.add_row(*map(escape, row))
    console.print()
    if table.row_count:
        console.print(table)
    else:
        console.print(f"{title}: none", highlight=False)


def _millions(count: int) -> str:
    return f"{count / 1e6:.3g}"


def _kib(count: int) -> str:
    return f"{count / 1024:.0f}"
