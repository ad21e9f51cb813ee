"""The systemd unit: accepted, hardened, and without what breaks torch, a board's devices or an older systemd."""

from __future__ import annotations

import configparser
import shutil
import subprocess
from pathlib import Path

import pytest

UNIT = Path(__file__).resolve().parents[2] / "deploy" / "systemd" / "pleat-client.service"
NEEDED = {
    "Type": "notify",
    "KillMode": "mixed",
    "OOMPolicy": "continue",
    "StateDirectory": "pleat",
    "ProtectSystem": "strict",
    "User": "pleat",
}
UNFIT = {
    "MemoryDenyWriteExecute": "torch makes code at run time",
    "PrivateDevices": "hides the GPU of a Jetson and the firmware of a Pi",
    "DevicePolicy": "hides the GPU of a Jetson and the firmware of a Pi",
    "DeviceAllow": "closes all other devices",
    "ProtectClock": "implies DeviceAllow",
    "ProcSubset": "hides /proc/meminfo and /proc/cpuinfo",
    "RestartSteps": "needs systemd 254",
    "RestartMaxDelaySec": "needs systemd 254",
    "RestartMode": "needs systemd 254",
    "ExitType": "needs systemd 250",
    "MemoryZSwapMax": "needs systemd 253",
    "RestrictFileSystems": "needs systemd 250",
    "SurviveFinalKillSignal": "needs systemd 255",
    "MemoryPressureWatch": "needs systemd 254",
}


def complaints(text: str) -> list[str]:
    """What is missing from a unit, and what must not be in it."""
    parser = configparser.RawConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read_string(text)
    service = dict(parser["Service"])
    missing = [f"{key} is to be {value}" for key, value in NEEDED.items() if service.get(key) != value]
    missing += [f"{key} is to be given" for key in ("WatchdogSec", "MemoryHigh") if key not in service]
    return [*missing, *(f"{key}: {why}" for key, why in UNFIT.items() if any(key in parser[s] for s in parser))]


def test_the_unit_has_what_it_needs_and_nothing_that_is_unfit() -> None:
    assert complaints(UNIT.read_text()) == []


@pytest.mark.parametrize("key", UNFIT)
def test_whatever_is_unfit_is_noticed(key: str) -> None:
    assert len(complaints(UNIT.read_text().replace("[Service]\n", f"[Service]\n{key}=yes\n"))) == 1


@pytest.mark.parametrize("key", [*NEEDED, "WatchdogSec", "MemoryHigh"])
def test_whatever_is_missing_is_noticed(key: str) -> None:
    text = "\n".join(line for line in UNIT.read_text().splitlines() if not line.startswith(f"{key}="))
    assert len(complaints(text)) == 1


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
@pytest.mark.parametrize("words", [["verify", "--man=no"], ["security", "--offline=true", "--threshold=30"]])
def test_systemd_accepts_it_and_finds_it_hardened(tmp_path: Path, words: list[str]) -> None:
    copy = tmp_path / UNIT.name
    copy.write_text(UNIT.read_text().replace("/opt/pleat/bin/pleat-client", "/bin/true"))  # which is installed
    done = subprocess.run(["systemd-analyze", *words, str(copy)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
