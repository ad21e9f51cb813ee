"""Factory: from the name of a net to a module. A net travels as "module:function" with arguments; code never does.

A factory takes `input_shape` ("1x8x8") and `classes`, and whatever else it likes, by keyword, and says in its signature
that it returns an nn.Module. Only such a function is called: a peer that names some other function of this machine is
refused before anything runs.
"""

from __future__ import annotations

import difflib
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
from pleat.nets.tensors import constants_of
from pleat.nets.zoo import NAMES

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
    near = difflib.get_close_matches(name, NAMES, 1)
    hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(sorted(NAMES))}"
    raise UseError(f"unknown net {name!r}; {hint} A net of your own is named as package.module:function")


def build(factory: str, arguments: Mapping[str, Scalar]) -> nn.Module:
    """Call the factory; the weights come from torch's global generator. Raises UseError if it cannot or does not."""
    function = _function(factory)
    try:
        module = function(**arguments)
    except UseError:
        raise
    except Exception as error:
        raise UseError(f"net {factory} with {dict(arguments)}: {type(error).__name__}: {error}") from error
    if not isinstance(module, nn.Module):
        raise UseError(f"net {factory} must return a torch.nn.Module, it returned {type(module).__name__}")
    return module


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
        found = getattr(importlib.import_module(path), attribute)
    except Exception as error:
        raise UseError(f"net {factory}: cannot be imported here: {type(error).__name__}: {error}") from error
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
