"""Names of the nets that come with pleat, and where their factories are; known without torch."""

from __future__ import annotations

_ZOO = ("mlp", "cnn", "caldas", "resnet6", "resnet8", "resnet18", "resnet20", "resnet56")
NAMES = {**{name: f"pleat.nets.zoo:{name}" for name in _ZOO}, "transformer": "pleat.nets.transformer:transformer"}
