"""Names of the nets that come with pleat, and where their factories are; known without torch."""

from __future__ import annotations

from pleat.errors import hint, nearest

_ZOO = ("mlp", "cnn", "caldas", "resnet6", "resnet8", "resnet18", "resnet20", "resnet56")
NAMES = {**{name: f"pleat.nets.zoo:{name}" for name in _ZOO}, "transformer": "pleat.nets.transformer:transformer"}


def unknown(name: str) -> str:
    """What to say of a net that has no such name."""
    own = "" if nearest(name, NAMES) else "; a net of your own is named as package.module:function"
    return f"unknown net {name!r}; {hint(name, sorted(NAMES))}{own}"
