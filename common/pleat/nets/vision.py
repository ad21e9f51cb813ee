"""Vision: importing torchvision where its wheel does not fit torch's.

torchvision's wheel from PyPI keeps its operators in a CUDA library that a CPU build of torch cannot load, and its
import then fails; declaring two of the operators is enough for its nets and data sets.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, TypeVar

import torch

T = TypeVar("T")


def with_torchvision(load: Callable[[], T]) -> T:
    """`load()`, which imports torchvision or something that does; once more, with the operators declared, where it
    fails for want of them."""
    try:
        return load()
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
    for module in [m for m in sys.modules if m.split(".")[0] == "torchvision"]:
        del sys.modules[module]  # half imported
    make_library: Any = torch.library.Library  # untyped in torch
    library = make_library("torchvision", "DEF")
    for operator in ("nms", "qnms"):
        library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    loaded = load()
    sys.modules["torchvision"].pleat_operators = library  # type: ignore[attr-defined]  # they vanish with their library
    return loaded
