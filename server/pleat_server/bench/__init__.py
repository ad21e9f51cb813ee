"""Benchmarks: one module a name, each with `run() -> dict`, one flat JSON file each; every figure a median, with `n`.

Each runs in a process of its own, so that no one's memory or warm caches stand in another's figures.
"""

from __future__ import annotations

import importlib
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pleat.errors import LocalError, UseError

NAMES = ("codec", "aggregate", "plan", "policy", "shrink", "round", "device_memory", "demo")
LONG = ("methods", "text", "elf")  # minutes to hours, and with options of their own: not among "all"


def measure(name: str, out: Path, options: Mapping[str, str]) -> dict[str, Any]:
    """The figures of one benchmark, with the machine they were taken on. `out`: where pictures go. Raises UseError for
    an unknown name or option."""
    if name not in NAMES + LONG:
        raise UseError(f"unknown benchmark {name!r}; there are {', '.join(NAMES + LONG)} and all")
    run = importlib.import_module(f"pleat_server.bench.{name}").run
    if options and name not in LONG:
        raise UseError(f"bench {name} has no options, got {', '.join(options)}")
    figures: dict[str, Any] = run(options, out) if name in LONG else run()
    return {**figures, "machine": machine()}


def machine() -> str:
    """Processor, cores and load, in a line."""
    load = os.getloadavg()[0]
    return f"{_processor()}, {os.cpu_count()} cores, load {load:.1f}, Python {platform.python_version()}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.machine()


def run_one(name: str, out: Path, options: Mapping[str, str] | None = None) -> None:
    """Measure `name` here, print the figures and leave `out`/NAME.json."""
    from pleat_server.cli.options import write_json

    figures = measure(name, out, options or {})
    write_json(out / f"{name}.json", figures)
    for key, value in figures.items():
        if isinstance(value, int | float | str):
            print(f"{name:14} {key:28} {value:.4g}" if isinstance(value, float) else f"{name:14} {key:28} {value}")


def run_all(out: Path) -> None:
    """Every benchmark, one after another. Raises LocalError at the end if some failed; the others' files stand."""
    failed = []
    for name in NAMES:
        print(f"--- {name}", flush=True)
        words = [sys.executable, "-m", "pleat_server.cli", "bench", name, "--out", str(out)]
        if subprocess.run(words, check=False).returncode != 0:
            failed.append(name)
    if failed:
        raise LocalError(f"benchmarks that failed: {', '.join(failed)}")
