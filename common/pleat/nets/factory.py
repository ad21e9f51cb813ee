"""Factory: from the name of a net to a module. A net travels as "module:function" with arguments; code never does.

A factory takes `input_shape` ("1x8x8") and `classes`, and whatever else it likes, by keyword, and says in its signature
that it returns an nn.Module. One that does not know these two words gets them under the names that others use
(`num_classes`, `image_size`, `in_channels`), or not at all; so torchvision's nets are factories as they are. Only such
a function is called: a peer that names some other function of this machine is refused before anything runs.
"""

from __future__ import annotations

import importlib
import inspect
import re
import typing
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from pleat.errors import UseError
from pleat.exchange.order import Scalar
from pleat.nets.arguments import parse_shape
from pleat.nets.lookup import use_lookups
from pleat.nets.names import NAMES, unknown
from pleat.nets.tensors import constants_of
from pleat.nets.vision import with_torchvision

_FACTORY = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


def resolve(name: str) -> str:
    """The factory of a net: a name of the zoo, or "package.module:function" of one's own.

    Raises UseError with the nearest name, or with the reason why the function is none.
    """
    if ":" in name:
        _function(name)
        return name
    if name in NAMES:
        return NAMES[name]
    raise UseError(unknown(name))


def build(factory: str, arguments: Mapping[str, Scalar]) -> nn.Module:
    """Call the factory; the weights come from torch's global generator. Raises UseError if it cannot or does not."""
    function = _function(factory)
    try:
        module = function(**_adapted(function, arguments))
    except UseError:
        raise
    except Exception as error:
        raise UseError(f"net {factory} with {dict(arguments)}: {type(error).__name__}: {error}") from error
    if not isinstance(module, nn.Module):
        raise UseError(f"net {factory} must return a torch.nn.Module, it returned {type(module).__name__}")
    return use_lookups(module)


_CLASSES = ("classes", "num_classes", "n_classes", "num_labels")
_SIDE = ("image_size", "img_size", "input_size")
_CHANNELS = ("in_channels", "in_chans", "input_channels", "num_channels")


def _adapted(function: Callable[..., Any], arguments: Mapping[str, Scalar]) -> dict[str, Scalar]:
    """The arguments under the names that `function` knows them by."""
    names = _names(function)
    if names is None:
        return dict(arguments)
    out = {k: v for k, v in arguments.items() if k not in ("input_shape", "classes")}
    for name in _CLASSES:
        if name in names and "classes" in arguments:
            out.setdefault(name, arguments["classes"])
            break
    if "input_shape" in arguments and "input_shape" in names:
        out["input_shape"] = arguments["input_shape"]
    elif "input_shape" in arguments:
        shape = parse_shape(str(arguments["input_shape"]))
        known = dict.fromkeys(_CHANNELS, shape[0]) if len(shape) > 1 else {}
        known |= dict.fromkeys(_SIDE, shape[-1]) if len(shape) == 3 and shape[1] == shape[2] else {}
        out = {k: v for k, v in known.items() if k in names} | out
    return out


def _names(function: Callable[..., Any]) -> set[str] | None:
    """The keywords that a factory knows, those of the class it passes the rest on to included; None where it takes any
    and does not say."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return None
    names = {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    if all(p.kind is not p.VAR_KEYWORD for p in parameters) or names & {"input_shape", "classes"}:
        return names
    made = None if inspect.isclass(function) else typing.get_type_hints(function).get("return")
    if made is None or made is nn.Module:
        return None
    more = inspect.signature(made).parameters.values()
    return names | {p.name for p in more if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}


def check_exits(name: str, exits: int) -> None:
    """Raises UseError where the net `name` cannot be built with that many exits, for its factory takes no such word."""
    if exits > 1 and not _takes_exits(resolve(name)):
        able = ", ".join(sorted(n for n, factory in NAMES.items() if _takes_exits(factory)))
        raise UseError(
            f"net {name}: cannot be built with {exits} exits, its factory takes no keyword exits; nets of the zoo that "
            f"do are {able}; give a factory of your own a keyword exits, or write holds.exits = 0"
        )


def _takes_exits(factory: str) -> bool:
    names = _names(_function(factory))
    return names is None or "exits" in names


def skeleton(factory: str, arguments: Mapping[str, Scalar]) -> nn.Module:
    """The net without memory for its tensors, on torch's meta device: enough to trace it and to `shrink` it, where a
    small device could not hold it whole. A net that cannot be made so, since its making looks at values or leaves
    constants behind, is built in full."""
    try:
        with torch.device("meta"):
            module = build(factory, arguments)
    except UseError:
        return build(factory, arguments)
    plain = all(name == "num_batches_tracked" for name, _ in constants_of(module))
    return module if plain else build(factory, arguments)


def _function(factory: str) -> Callable[..., Any]:
    if not _FACTORY.fullmatch(factory):
        raise UseError(f"net {factory!r} must be written as package.module:function")
    path, _, attribute = factory.partition(":")
    try:
        found = getattr(with_torchvision(lambda: importlib.import_module(path)), attribute)
    except Exception as error:
        raise UseError(
            f"net {factory}: cannot be imported here: {type(error).__name__}: {error}; "
            f"install it, or put the folder it is in into PYTHONPATH"
        ) from error
    if not _makes_module(found):
        raise UseError(f"net {factory}: is no net factory; its signature must end in `-> torch.nn.Module`")
    return typing.cast("Callable[..., Any]", found)


def _makes_module(found: Any) -> bool:
    """Whether it is a class of modules, or a function whose signature says that it returns one."""
    if inspect.isclass(found):
        return issubclass(found, nn.Module)
    try:
        result = typing.get_type_hints(found).get("return")
    except Exception:
        return False
    return inspect.isfunction(found) and inspect.isclass(result) and issubclass(result, nn.Module)
