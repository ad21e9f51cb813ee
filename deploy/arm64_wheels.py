"""Does everything that a device needs exist as wheels for aarch64, at the tested versions? And: fetch them.

    python arm64_wheels.py 3.10 3.11 3.13              resolve for each of these Pythons, print one line each
    python arm64_wheels.py 3.11 --into DIR             install for one of them (a folder for PYTHONPATH)
    python arm64_wheels.py 3.11 --into DIR --torch V   the same with another torch

What a device needs stands in pyproject.toml ([project] and its extra `client`), the versions in constraints.txt.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from foreign_wheels import applying, for_target, pins, plain

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
MACHINE = "aarch64"


def pip(python: str, *words: str) -> dict[str, Any]:
    """What pip would install, or installs, for the target: its own report. Ends the program with pip's last words."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--ignore-installed", *for_target(python, MACHINE)]
    with tempfile.NamedTemporaryFile(suffix=".json") as report:
        done = subprocess.run(
            [*command, "--report", report.name, *words], stderr=subprocess.PIPE, text=True, check=False
        )
        if done.returncode:
            sys.exit(f"cp{python.replace('.', '')}: {done.stderr.strip()}")
        found: dict[str, Any] = json.loads(Path(report.name).read_bytes())
    return found


def versions(report: dict[str, Any]) -> list[str]:
    return [f"{one['metadata']['name']}=={one['metadata']['version']}" for one in report["install"]]


def place(into: Path | None) -> list[str]:
    """pip's words for where to: with --platform it wants a folder, also where it only tries."""
    return ["--target", str(into)] if into else ["--dry-run", "--target", tempfile.gettempdir()]


def resolve(python: str, torch: str, into: Path | None) -> list[str]:
    """The names and versions of the whole set, installed into a folder if one is given."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    direct = applying([*project["dependencies"], *project["optional-dependencies"]["client"]], python, MACHINE)
    lines = pins((ROOT / "constraints.txt").read_text())
    tested = {one.name: plain(one) for one in applying(lines, python, MACHINE)}
    wanted = f"torch=={torch}" if torch else tested["torch"]
    alone = pip(python, *place(into), "--no-deps", wanted)
    needs = applying(alone["install"][0]["metadata"]["requires_dist"], python, MACHINE)
    rest = [plain(one) for one in (*direct, *needs) if re.sub("[-_.]+", "-", one.name).lower() != "torch"]
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as constraints:
        constraints.write("\n".join(tested.values()))
        constraints.flush()
        others = pip(python, *place(into), "--constraint", constraints.name, *rest)
    return sorted({*versions(alone), *versions(others)})


def main() -> None:
    parser = argparse.ArgumentParser(description="The device's wheels on aarch64.")
    parser.add_argument("python", nargs="+", help="such as 3.11")
    parser.add_argument("--torch", default="", help="another version than the tested one")
    parser.add_argument("--into", type=Path, help="install there")
    given = parser.parse_args()
    for python in given.python:
        found = resolve(python, given.torch, given.into)
        print(f"cp{python.replace('.', '')}: {len(found)} wheels: {' '.join(found)}", flush=True)


if __name__ == "__main__":
    main()
