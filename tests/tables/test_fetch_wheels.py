"""deploy/fetch_wheels.py: conditions are judged for the board and not for the machine that fetches."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "deploy" / "fetch_wheels.py"


@pytest.fixture
def fetch(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(SCRIPT.parent))  # as for a script that is run
    spec = importlib.util.spec_from_file_location("fetch_wheels", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("python", "numpy"), [("3.10", "numpy==2.2.6"), ("3.13", "numpy==2.4.6")])
def test_the_tested_versions_are_those_of_the_boards_python_and_torch_is_chosen_apart(
    fetch: ModuleType, python: str, numpy: str
) -> None:
    found = fetch.tested_on(python, "aarch64")
    assert [line for line in found if line.startswith("numpy")] == [numpy]
    assert [line for line in found if line.startswith("torch") or ";" in line] == []
    assert "zstandard==0.25.0" in found


def test_a_wheels_needs_are_its_clients_on_the_board(fetch: ModuleType, tmp_path: Path) -> None:
    wheel = tmp_path / "pleat-0-py3-none-any.whl"
    needs = [
        "torch>=2.4",
        "numpy>=2",
        "tomli; python_version < '3.11'",
        "grpcio; extra == 'client'",
        "flwr; extra == 'server'",
    ]
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("pleat-0.dist-info/METADATA", "".join(f"Requires-Dist: {need}\n" for need in needs))
    assert fetch.needs_of(wheel, "3.10", "aarch64") == ["numpy>=2", "tomli", "grpcio"]
    assert fetch.needs_of(wheel, "3.12", "aarch64") == ["numpy>=2", "grpcio"]


def test_torch_2_10_0_is_not_fetched(tmp_path: Path) -> None:
    words = ["--python", "3.11", "--machine", "aarch64", "--torch", "2.10.0", str(tmp_path / "wheels")]
    done = subprocess.run([sys.executable, str(SCRIPT), *words], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "illegal instruction on a Pi 4" in done.stderr
    assert not (tmp_path / "wheels").exists()
