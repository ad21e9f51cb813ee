#!/usr/bin/env python3
"""Fill a folder with all that install-client.sh --wheels needs, for boards without internet.

    python3 deploy/fetch_wheels.py --python 3.11 --machine aarch64 wheels

Runs on any machine with internet, Python 3.10 or newer and pip; the board may be of another kind.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import zipfile
from pathlib import Path

from foreign_wheels import applying, for_target, pins, plain

CHECKOUT = Path(__file__).resolve().parent.parent
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
TORCH = {"aarch64": "2.9.1", "x86_64": "2.13.0"}
PYTHONS = ("3.10", "3.11", "3.12", "3.13")


def main() -> int:
    asked = _arguments()
    folder: Path = asked.folder
    folder.mkdir(parents=True, exist_ok=True)
    board = (asked.python, asked.machine)
    tested = tested_on(*board)
    (folder / "constraints.txt").write_text("".join(f"{line}\n" for line in tested))
    for old in (*folder.glob("pleat-*.whl"), *folder.glob("torch-*.whl")):
        old.unlink()
    _pip("wheel", "--no-deps", "--wheel-dir", str(folder), str(CHECKOUT))
    needs = needs_of(next(folder.glob("pleat-*.whl")), *board)
    if asked.torch != "none":
        torch, index = asked.torch, asked.torch_index
        if index is None and asked.machine == "x86_64":
            index = CPU_INDEX
        _download(asked, ["--no-deps", f"torch=={torch}", *(["--index-url", index] if index else [])])
        needs += needs_of(next(folder.glob("torch-*.whl")), *board)
    _download(asked, ["--constraint", str(folder / "constraints.txt"), *needs])
    sizes = [path.stat().st_size for path in folder.glob("*.whl")]
    print(f"{folder}: {len(sizes)} wheels, {sum(sizes) / 1e6:.0f} MB; copy it and deploy/ to the board, there type:")
    print(f"  sudo deploy/install-client.sh --wheels {folder.name}")
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--python", choices=PYTHONS, required=True, help="the board's: python3 -V")
    parser.add_argument("--machine", choices=sorted(TORCH), required=True, help="the board's: uname -m")
    parser.add_argument("--torch", help="version (2.9.1, x86_64: 2.13.0); none: the board has its own")
    parser.add_argument("--torch-index", metavar="URL", help=f"default: {CPU_INDEX} for x86_64, else the usual index")
    asked = parser.parse_args()
    asked.torch = asked.torch or TORCH[asked.machine]
    if asked.torch.startswith("2.10.0"):
        parser.error("torch 2.10.0 dies with an illegal instruction on a Pi 4; leave --torch out")
    return asked


def tested_on(python: str, machine: str) -> list[str]:
    """The tested versions that hold on the board, but for torch, which is chosen apart."""
    lines = pins((CHECKOUT / "constraints.txt").read_text())
    return [plain(one) for one in applying(lines, python, machine) if not one.name.startswith("torch")]


def needs_of(wheel: Path, python: str, machine: str) -> list[str]:
    """What a wheel needs on the board, but for torch; pleat's, what its client needs."""
    with zipfile.ZipFile(wheel) as archive:
        name = next(n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        lines = archive.read(name).decode().splitlines()
    needs = [line.partition(": ")[2] for line in lines if line.startswith("Requires-Dist: ")]
    return [plain(one) for one in applying(needs, python, machine, "client") if one.name != "torch"]


def _download(asked: argparse.Namespace, words: list[str]) -> None:
    _pip("download", "--dest", str(asked.folder), *for_target(asked.python, asked.machine), *words)


def _pip(*words: str) -> None:
    done = subprocess.run([sys.executable, "-m", "pip", *words, "--quiet", "--disable-pip-version-check"], check=False)
    if done.returncode != 0:
        sys.exit(f"fetch_wheels: pip {words[0]} failed, see above; the folder is not complete")


if __name__ == "__main__":
    sys.exit(main())
