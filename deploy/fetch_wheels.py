#!/usr/bin/env python3
"""Fill a folder with all that install-client.sh --wheels needs, for boards without internet.

    python3 deploy/fetch_wheels.py --python 3.11 --machine aarch64 wheels

Runs on any machine with internet, Python 3.10 or newer and pip; the board may be of another kind. pip picks wheels for
a foreign machine when told to, but judges conditions such as `python_version < "3.11"` by the machine it runs on; so
here the conditions of pleat, of torch and of the tested versions are judged for the board, and pip sees plain names.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import zipfile
from pathlib import Path

from pip._vendor.packaging.requirements import Requirement

CHECKOUT = Path(__file__).resolve().parent.parent
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
TORCH = {"aarch64": "2.9.1", "x86_64": "2.13.0"}
NEWEST_GLIBC = {"3.10": 35, "3.11": 36, "3.12": 39, "3.13": 41}  # of the oldest system that ships this Python


def main() -> int:
    asked = _arguments()
    folder: Path = asked.folder
    folder.mkdir(parents=True, exist_ok=True)
    board = {"python_version": asked.python, "python_full_version": f"{asked.python}.0", "sys_platform": "linux",
             "platform_machine": asked.machine, "platform_system": "Linux", "os_name": "posix",
             "implementation_name": "cpython", "platform_python_implementation": "CPython"}  # fmt: skip
    tested = _for_board((CHECKOUT / "constraints.txt").read_text().splitlines(), board)
    (folder / "constraints.txt").write_text("".join(f"{line}\n" for line in tested))
    for old in (*folder.glob("pleat-*.whl"), *folder.glob("torch-*.whl")):
        old.unlink()
    _pip("wheel", "--no-deps", "--wheel-dir", str(folder), str(CHECKOUT))
    needs = [n for n in _needs(next(folder.glob("pleat-*.whl")), board) if Requirement(n).name != "torch"]
    if asked.torch != "none":
        torch, index = asked.torch, asked.torch_index
        if index is None and asked.machine == "x86_64":
            index = CPU_INDEX
        _download(asked, ["--no-deps", f"torch=={torch}", *(["--index-url", index] if index else [])])
        needs += _needs(next(folder.glob("torch-*.whl")), board)
    _download(asked, ["--constraint", str(folder / "constraints.txt"), *needs])
    sizes = [path.stat().st_size for path in folder.glob("*.whl")]
    print(f"{folder}: {len(sizes)} wheels, {sum(sizes) / 1e6:.0f} MB; copy it and deploy/ to the board, there type:")
    print(f"  sudo deploy/install-client.sh --wheels {folder.name}")
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--python", choices=sorted(NEWEST_GLIBC), required=True, help="the board's: python3 -V")
    parser.add_argument("--machine", choices=sorted(TORCH), required=True, help="the board's: uname -m")
    parser.add_argument("--torch", help="version; none: the board has its own; default: %(default)s", default="")
    parser.add_argument("--torch-index", metavar="URL", help=f"default: {CPU_INDEX} for x86_64, else the usual index")
    asked = parser.parse_args()
    asked.torch = asked.torch or TORCH[asked.machine]
    if asked.torch.startswith("2.10.0"):
        parser.error("torch 2.10.0 dies with an illegal instruction on a Pi 4; leave --torch out")
    return asked


def _for_board(lines: list[str], board: dict[str, str]) -> list[str]:
    """The tested versions that hold for the board, without their conditions."""
    found = [Requirement(line) for line in lines if re.match(r"[A-Za-z0-9]", line)]
    held = [one for one in found if not one.name.startswith("torch")]  # which is chosen apart
    return [f"{one.name}{one.specifier}" for one in held if one.marker is None or one.marker.evaluate(board)]


def _needs(wheel: Path, board: dict[str, str]) -> list[str]:
    """What a wheel needs on the board; pleat's, what its client needs."""
    with zipfile.ZipFile(wheel) as archive:
        name = next(n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        lines = archive.read(name).decode().splitlines()
    found = [Requirement(line.partition(": ")[2]) for line in lines if line.startswith("Requires-Dist: ")]
    wanted = {**board, "extra": "client"}
    return [f"{one.name}{one.specifier}" for one in found if one.marker is None or one.marker.evaluate(wanted)]


def _download(asked: argparse.Namespace, words: list[str]) -> None:
    tags = [f"manylinux_2_{minor}_{asked.machine}" for minor in range(17, NEWEST_GLIBC[asked.python] + 1)]
    platforms = [word for tag in ("any", f"manylinux2014_{asked.machine}", *tags) for word in ("--platform", tag)]
    where = ["--only-binary=:all:", "--python-version", asked.python, "--dest", str(asked.folder)]
    _pip("download", *where, *platforms, *words)


def _pip(*words: str) -> None:
    done = subprocess.run([sys.executable, "-m", "pip", *words, "--quiet", "--disable-pip-version-check"], check=False)
    if done.returncode != 0:
        sys.exit(f"fetch_wheels: pip {words[0]} failed, see above; the folder is not complete")


if __name__ == "__main__":
    sys.exit(main())
