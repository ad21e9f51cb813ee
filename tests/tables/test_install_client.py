"""install-client.sh on board after board: what it would do, what it refuses, and that a failure leaves nothing."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from support.boards import CHECKOUT, SCRIPT, Board, board

PI4: dict[str, Any] = {"model": "Raspberry Pi 4 Model B Rev 1.4"}
PI5: dict[str, Any] = {
    "model": "Raspberry Pi 5 Model B Rev 1.0",
    "features": "fp asimd atomics",
    "system": ("debian", "13"),
}
ORIN: dict[str, Any] = {
    "model": "NVIDIA Jetson Orin Nano",
    "features": "fp asimd atomics",
    "system": ("ubuntu", "22.04"),
    "jetson": True,
    "FAKE_PYTHON": "3.10",
}
PC: dict[str, Any] = {"machine": "x86_64", "features": "", "system": ("ubuntu", "24.04"), "FAKE_PYTHON": "3.12"}
INDEX = "https://example.org/cpu"

PLANS: list[tuple[dict[str, Any], list[str], list[str]]] = [
    (PI4, [], ["Raspberry Pi 4 Model B Rev 1.4 (aarch64, ARMv8.0)", "2.9.1 from PyPI, a CPU build", str(CHECKOUT)]),
    (PI5, [], ["Raspberry Pi 5 Model B Rev 1.0 (aarch64)", "2.9.1 from PyPI"]),
    (PI4, ["--torch", "2.8.0"], ["2.8.0 from PyPI"]),
    (PI4, ["--torch-index", INDEX], [f"the newest from {INDEX}"]),
    (PI5, ["--torch", "2.13.0", "--torch-index", INDEX], [f"2.13.0 from {INDEX}"]),
    (PC, [], ["2.13.0 from https://download.pytorch.org/whl/cpu", "python3 (3.12)"]),
    ({**ORIN, "FAKE_TORCH": "2.8.0"}, [], ["2.8.0, which", "python3 (3.10)"]),
    (ORIN, ["--torch-index", INDEX], [f"the newest from {INDEX}"]),
    ({**PC, "system": ("fedora", "43")}, [], ["not among those it was tried on"]),
    (PI4, ["--server", "10.0.0.1:8440", "--name", "a"], ["server 10.0.0.1:8440, data not given, name a"]),
]
REFUSALS: list[tuple[dict[str, Any], list[str], str]] = [
    ({**PI4, "bits": 32}, [], "this system is 32-bit (the kernel says aarch64)"),
    ({"machine": "armv7l"}, [], "no torch is made for armv7l"),
    ({**PI4, "FAKE_PYTHON": "3.9"}, ["--python", "python3"], "found: Python 3.9; sudo apt-get install python3"),
    ({**ORIN, "FAKE_PYTHON": "3.8"}, ["--python", "python3"], "install JetPack 6"),
    ({**PI4, "FAKE_NO_VENV": "yes"}, [], "sudo apt-get install python3.11-venv"),
    ({**PI4, "free_mb": 700}, [], "/opt has 700 MB free, "),
    (PI4, ["--torch", "2.10.0"], "illegal instruction on ARMv8.0, which this board is; leave --torch out for 2.9.1"),
    (PI5, ["--torch", "2.10.0"], "illegal instruction on ARMv8.0; leave"),
    (PI5, ["--torch", "2.11.0"], "PyPI's torch 2.11.0 for aarch64 is a CUDA build of 3 GB"),
    (PI4, ["--torch", "newest"], "is no version, no wheel and not 'system'"),
    (PI4, ["--torch", "/none/torch-2.9.1-cp311.whl"], "there is no file /none/torch-2.9.1"),
    (ORIN, [], "has no torch; give NVIDIA's wheel for this JetPack"),
    ({**ORIN, "FAKE_TORCH": "2.10.0"}, [], "has torch 2.10.0, which pleat does not use"),
    (PI4, ["--torch", "system"], "has no torch"),
    (PI4, ["--wheels", "/no/such/folder"], "there is no folder /no/such/folder"),
    (PI4, ["--wheels", "EMPTY"], "holds no torch-*.whl; make it with: python3 deploy/fetch_wheels.py --python 3.11"),
    (PI4, ["--wheels", "EMPTY", "--torch-index", INDEX], "exclude each other"),
    (PI4, ["--server", "here"], "--server 'here' is no address; expected HOST:PORT"),
    (PI4, ["--name", "a b"], "--name 'a b' is no device name"),
    (PI4, ["--data", "/none.npz"], "--data: there is no file /none.npz"),
    (PI4, ["--ca", "/none.pem"], "--ca: there is no file /none.pem"),
    (PI4, ["--sever", "x:1"], "unknown option '--sever'"),
    (PI4, ["--server"], "--server needs a value"),
    (PI4, ["--server", "--name"], "--server needs a value"),
]  # fmt: skip


@pytest.mark.parametrize(("facts", "words", "expected"), PLANS)
def test_a_dry_run_tells_the_right_torch_for_the_board_and_does_nothing(
    tmp_path: Path, facts: dict[str, Any], words: list[str], expected: list[str]
) -> None:
    made = board(tmp_path, **facts)
    before = made.files()
    done = made.run("--dry-run", *words)
    assert (done.returncode, done.stderr) == (0, "")
    assert [text for text in expected if text not in done.stdout] == []
    assert (made.files(), made.called()) == (before, "")


@pytest.mark.parametrize(("facts", "words", "expected"), REFUSALS)
def test_what_cannot_be_is_one_line_exit_code_2_and_nothing_done(
    tmp_path: Path, facts: dict[str, Any], words: list[str], expected: str
) -> None:
    made = board(tmp_path, **facts)
    (tmp_path / "empty").mkdir()
    before = made.files()
    done = made.run(*(str(tmp_path / "empty") if word == "EMPTY" else word for word in words))
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done
    assert expected in done.stderr
    assert (made.files(), made.called()) == (before, "")


def installed(made: Board, *words: str, **environment: str) -> str:
    done = made.run(*words, **environment)
    assert (done.returncode, done.stderr) == (0, ""), done
    return done.stdout


def test_it_installs_again_and_again_keeps_the_settings_and_goes_away_whole(tmp_path: Path) -> None:
    made = board(tmp_path, **PI4)
    before = made.files()
    shard = tmp_path / "shard.npz"
    shard.write_bytes(b"")
    said = installed(made, "--server", "10.0.0.1:8440", "--data", str(shard), "--name", "kitchen", FAKE_BUILD="1")
    assert "installed, and it runs" in said
    once = made.files()
    assert once["etc/pleat/client.toml"].startswith(
        "# Settings of this device: the same names as the options of `pleat-client run --help`.\n"
        f'server = "10.0.0.1:8440"\ndata = "{shard}"\nname = "kitchen"\n'
    )
    assert once["opt/pleat/bin/pleat-client"] == "#!/opt/pleat/bin/python\n# 1\n", "it runs from where it lies now"
    assert once["opt/pleat/pyvenv.cfg"] == "command = python3 -m venv /opt/pleat\n"
    unit = (CHECKOUT / "deploy/systemd/pleat-client.service").read_text()
    assert once["etc/systemd/system/pleat-client.service"] == unit
    calls = made.called()
    assert "pip install --quiet" in calls
    assert "--no-deps torch==2.9.1" in calls
    assert "usermod --append --groups video pleat" in calls, "for the firmware's word on throttling"
    installed(made, "--server", "9.9.9.9:1", FAKE_BUILD="2")
    twice = made.files()
    assert twice.pop("opt/pleat/bin/pleat-client") == "#!/opt/pleat/bin/python\n# 2\n"
    assert twice == {k: v for k, v in once.items() if k != "opt/pleat/bin/pleat-client"}
    installed(made, "--uninstall")
    assert made.files() == before


def test_without_a_server_it_says_what_to_fill_in_and_does_not_start(tmp_path: Path) -> None:
    made = board(tmp_path, **PI4)
    assert "put server and data into" in installed(made)
    assert "systemctl start" not in made.called()


def test_a_wheels_folder_is_all_that_pip_may_look_at(tmp_path: Path) -> None:
    made = board(tmp_path, **PI4)
    wheels = tmp_path / "my wheels"
    wheels.mkdir()
    for name in ("torch-2.9.1-cp311.whl", "pleat-0.1.0-py3-none-any.whl"):
        (wheels / name).write_bytes(b"")
    installed(made, "--wheels", str(wheels))
    pips = [line for line in made.called().splitlines() if "pip install" in line]
    assert len(pips) == 2
    assert all(f"--no-index --find-links {wheels}" in line for line in pips)
    assert f"{wheels}/torch-2.9.1-cp311.whl" in pips[0]


FAILURES: list[tuple[dict[str, str], str]] = [
    ({"FAKE_FAIL": "venv"}, "-m venv"),
    ({"FAKE_FAIL": "pip", "FAKE_SAYS": "ERROR: No space left on device"}, "no space left under /opt"),
    ({"FAKE_FAIL": "pip", "FAKE_SAYS": "Failed to establish a new connection"}, "give --wheels DIR"),
    ({"FAKE_FAIL": "pip", "FAKE_SAYS": "ERROR: No matching distribution found for torch"}, "No matching distribution"),
    ({"FAKE_FAIL": "term"}, "it stopped (exit 143)"),
    ({"FAKE_TRY": "132"}, "illegal instruction"),
    ({"FAKE_TRY": "1", "FAKE_SAYS": "RuntimeError: Numpy is not available"}, "was built for numpy 1"),
    ({"FAKE_TRY": "1", "FAKE_SAYS": "ImportError: libcudart.so.12"}, "does not run: ImportError: libcudart"),
    ({"FAKE_FAIL": "useradd"}, "the machine is as it was"),
    ({"FAKE_FAIL": "chown"}, "the machine is as it was"),
    ({"FAKE_FAIL": "daemon-reload"}, "the machine is as it was"),
    ({"FAKE_FAIL": "enable pleat-client"}, "the machine is as it was"),
]


@pytest.mark.parametrize("again", [False, True], ids=["first", "again"])
@pytest.mark.parametrize(
    ("environment", "expected"), FAILURES, ids=lambda v: "-".join(v.values()) if isinstance(v, dict) else ""
)
def test_a_failure_at_any_step_leaves_the_machine_as_it_was(
    tmp_path: Path, again: bool, environment: dict[str, str], expected: str
) -> None:
    made = board(tmp_path, **PI4)
    if again:
        installed(made, FAKE_BUILD="old")
        (made.root / "etc/systemd/system/pleat-client.service").write_text("an older unit")
    before = made.files()
    done = made.run(FAKE_BUILD="new", **environment)
    assert done.returncode not in (0, 2)
    assert expected in done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert made.files() == before


def test_what_a_power_cut_left_behind_is_put_back(tmp_path: Path) -> None:
    made = board(tmp_path, **PI4)
    installed(made, FAKE_BUILD="old")
    whole = made.files()
    (made.root / "opt/.pleat-old.abc").mkdir()
    (made.root / "opt/pleat").rename(made.root / "opt/.pleat-old.abc/pleat")
    (made.root / "opt/.pleat-new.abc").mkdir()
    assert made.run(FAKE_FAIL="venv").returncode == 1
    assert made.files() == whole


def test_what_is_not_pleats_stays_and_is_named(tmp_path: Path) -> None:
    made = board(tmp_path, **PI4)
    (made.root / "usr/local/bin/pleat-client").write_text("another program")
    assert "it is another program's" in installed(made)
    (made.root / "var/lib/pleat/shard.npz").write_text("mine")
    said = installed(made, "--uninstall")
    assert f"kept {made.root}/var/lib/pleat: it holds shard.npz" in said
    assert made.files()["usr/local/bin/pleat-client"] == "another program"


SCRIPTS = [SCRIPT, *sorted((SCRIPT.parent / "install").glob("*.sh")), SCRIPT.parent / "check-install.sh"]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_the_scripts_parse(script: Path) -> None:
    shell = "bash" if script.read_text().startswith("#!/bin/bash") else "sh"
    subprocess.run([shell, "-n", str(script)], check=True)


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
@pytest.mark.parametrize("script", [SCRIPT, SCRIPT.parent / "check-install.sh"], ids=lambda path: path.name)
def test_shellcheck_has_nothing_to_say(script: Path) -> None:
    found = subprocess.run(["shellcheck", "-x", str(script)], capture_output=True, text=True, check=False)
    assert found.stdout == ""
