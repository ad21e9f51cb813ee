"""torchvision's nets for tests, which skip where it is not installed."""

from __future__ import annotations

import importlib
from typing import Any

import pytest


def models() -> Any:
    """torchvision.models; the test is skipped where there is none."""
    from pleat.nets.vision import with_torchvision

    try:
        return with_torchvision(lambda: importlib.import_module("torchvision.models"))
    except ImportError:
        return pytest.skip("torchvision is optional and not installed")
