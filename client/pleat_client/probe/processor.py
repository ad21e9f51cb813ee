"""The processor's features, as the kernel tells a program: what decides whether a wheel's instructions exist here."""

from __future__ import annotations

import struct
from pathlib import Path

from pleat_client.probe.files import ROOT, text

_AT_HWCAP = 16  # linux/auxvec.h
_ATOMICS = 1 << 8  # asm/hwcap.h of arm64: LSE, in every ARMv8.1 and later; a Pi 3, Pi 4 or Zero 2 lacks it
_PAIR = struct.Struct("=QQ")


def has_lse(root: Path = ROOT) -> bool | None:
    """Does a 64-bit Arm have LSE atomics? From the kernel's auxiliary vector, else from /proc/cpuinfo; None = not told.

    Meaningless on other architectures.
    """
    found = _hwcap(root / "proc/self/auxv")
    if found is not None:
        return bool(found & _ATOMICS)
    for line in (text(root / "proc/cpuinfo") or "").splitlines():
        name, _, features = line.partition(":")
        if name.strip() == "Features":
            return "atomics" in features.split()
    return None


def _hwcap(path: Path) -> int | None:
    try:
        raw = path.read_bytes()
    except OSError:
        return None
    pairs = _PAIR.iter_unpack(raw[: len(raw) // _PAIR.size * _PAIR.size])
    return next((int(value) for key, value in pairs if key == _AT_HWCAP), None)
