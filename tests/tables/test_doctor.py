"""Every check of the doctor on boards that are well, ill, and silent: a fault is named, and silence is never health."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pleat.errors import Retry
from pleat.exchange.question import Answer
from pleat_client import lock
from pleat_client.cli.doctor import shown
from pleat_client.doctor import health, network, resources, software
from pleat_client.doctor.case import Case, Ran, run_command
from pleat_client.doctor.finding import Finding, Mark
from pleat_client.doctor.table import CHECKS, examine, exit_code
from pleat_client.link_ask import Reached
from support.fake_board import cgroups, meminfo, orin, pi4, pi5, put

MIB = 2**20
WELL = Ran(0, json.dumps({"torch": "2.9.1", "idle_bytes": 200 * MIB, "peak_bytes": 230 * MIB, "step_s": 0.01}), "")
OK, WARN, FAIL, UNKNOWN = Mark
NOW = 1_790_000_000.0  # September 2026


def case(root: Path, **more: Any) -> Case:
    """A board whose files lie under `root`, and on which everything else is well."""
    well: dict[str, Any] = {
        "servers": (),
        "state": root / "state",
        "root": root,
        "python": (3, 11),
        "bits": 64,
        "machine": "aarch64",
        "now": lambda: NOW,
        "synchronised": lambda: True,
        "firmware": lambda: None,
        "run": lambda command, patience: WELL,
    }
    return Case(**{**well, **more})


def test_a_board_that_tells_nothing_is_unknown_and_never_well(tmp_path: Path) -> None:
    silent = case(tmp_path, machine="", synchronised=lambda: None)
    found = {one.check: one.mark for one in examine(silent)}
    assert found == {
        "python": OK,
        "processor": UNKNOWN,
        "torch": OK,
        "memory cgroup": UNKNOWN,
        "memory": UNKNOWN,
        "disk": OK,
        "clock": UNKNOWN,
        "temperature": UNKNOWN,
        "throttling": UNKNOWN,
        "power": UNKNOWN,
        "server": UNKNOWN,
    }
    assert len(found) == len(CHECKS)


def test_every_finding_that_is_not_well_says_what_to_do(tmp_path: Path) -> None:
    ill = case(
        pi4(tmp_path),
        python=(3, 9),
        bits=32,
        run=lambda command, patience: Ran(-4, "", ""),
        budget=MIB,
        state=Path("/proc/version/state"),
        now=lambda: 0.0,
        servers=("a:1",),
        ask=unreachable,
    )
    found = list(examine(ill))
    assert [one.check for one in found if one.mark in (WARN, FAIL) and not one.remedy] == []
    assert [one.check for one in found if one.mark is OK] == ["power"]
    assert exit_code(found) == 1
    assert all("\n" not in one.says + one.remedy for one in found)


def unreachable(address: str, ca: Path | None, insecure: bool, cert: Path | None, key: Path | None) -> Reached:
    raise Retry(f"cannot reach {address}: Connection refused; is the server running there?")


def test_only_a_failure_makes_the_exit_code_one() -> None:
    marks = [Finding("x", mark, "") for mark in (OK, WARN, UNKNOWN)]
    assert exit_code(marks) == 0
    assert exit_code([*marks, Finding("x", FAIL, "")]) == 1


def test_a_finding_is_one_line_and_its_remedy_another() -> None:
    assert shown(Finding("clock", OK, "fine")) == "ok       clock         fine"
    assert shown(Finding("clock", WARN, "late", "set it")).splitlines()[1].strip() == "set it"


@pytest.mark.parametrize(
    ("python", "mark"), [((3, 8), FAIL), ((3, 9), FAIL), ((3, 10), OK), ((3, 13), OK), ((3, 14), WARN)]
)
def test_pythons_that_have_all_wheels_are_well(tmp_path: Path, python: tuple[int, int], mark: Mark) -> None:
    assert software.python(case(tmp_path, python=python)).mark is mark


@pytest.mark.parametrize(
    ("build", "more", "mark", "says"),
    [
        (pi4, {}, OK, "ARMv8.0 without LSE atomics"),
        (pi5, {}, OK, "ARMv8.1 or later"),
        (orin, {}, OK, "ARMv8.1 or later"),
        (pi4, {"bits": 32, "machine": "armv7l"}, FAIL, "a 32-bit system"),
        (pi4, {"bits": 32}, FAIL, "a 32-bit system"),  # the 64-bit kernel of a 32-bit Pi OS
        (pi4, {"machine": "x86_64"}, OK, "x86_64"),
        (pi4, {"machine": "riscv64"}, UNKNOWN, "never tried"),
        (lambda root: root, {}, UNKNOWN, "not told"),
    ],
)
def test_the_processor_is_known_or_unknown(
    tmp_path: Path, build: Callable[[Path], Path], more: dict[str, Any], mark: Mark, says: str
) -> None:
    found = software.architecture(case(build(tmp_path), **more))
    assert (found.mark, says in found.says) == (mark, True), found


@pytest.mark.parametrize(
    ("ran", "mark", "says", "remedy"),
    [
        (WELL, OK, "torch 2.9.1 imports and trains; a step of a small net takes 10 ms", ""),
        (Ran(-4, "", ""), FAIL, "illegal instruction (SIGILL)", "'torch==2.9.1'"),
        (Ran(132, "", ""), FAIL, "torch 2.10.0 does this, 2.9.1 does not", "'torch==2.9.1'"),
        (Ran(-9, "", ""), FAIL, "want of memory", "oom"),
        (Ran(137, "", ""), FAIL, "want of memory", "oom"),
        (Ran(1, "", "Traceback\nModuleNotFoundError: No module named 'torch'\n"), FAIL, "not installed", "torch=="),
        (Ran(1, "", "Traceback\nValueError: libcublasLt.so not found\n"), FAIL, "libcublasLt.so not found", "torch=="),
        (Ran(-11, "", ""), FAIL, "signal 11", "torch=="),
        (Ran(None, "", ""), UNKNOWN, "did not get through", "time "),
        (Ran(0, "nonsense", ""), FAIL, "exit status 0", "torch=="),
    ],
)
def test_the_end_of_torchs_trial_becomes_advice(tmp_path: Path, ran: Ran, mark: Mark, says: str, remedy: str) -> None:
    found = software.torch(case(tmp_path, run=lambda command, patience: ran))
    assert (found.mark, says in found.says, remedy in found.remedy) == (mark, True, True), found


def test_a_jetson_is_never_told_to_take_pypis_torch(tmp_path: Path) -> None:
    found = software.torch(case(orin(tmp_path), run=lambda command, patience: Ran(-4, "", "")))
    assert "NVIDIA's wheel" in found.remedy
    assert "torch==" not in found.remedy


def test_a_trial_that_cannot_be_started_is_unknown(tmp_path: Path) -> None:
    def missing(command: object, patience: float) -> Ran:
        raise FileNotFoundError(2, "No such file or directory", "python")

    assert software.torch(case(tmp_path, run=missing)).mark is UNKNOWN
    assert resources.memory(case(pi4(tmp_path), run=missing)).mark is UNKNOWN


def test_a_command_is_cut_off_after_its_time() -> None:
    assert run_command(["sleep", "60"], 0.05) == Ran(None, "", "")
    assert run_command(["sh", "-c", "echo out; echo err >&2; exit 3"], 10.0) == Ran(3, "out\n", "err\n")
    assert run_command(["sh", "-c", "kill -4 $$"], 10.0).code == -4


def test_memory_groups_switched_off_by_the_firmware_come_with_the_line_that_turns_them_on(tmp_path: Path) -> None:
    off = resources.groups(case(pi4(tmp_path / "4")))
    assert off.mark is WARN
    assert off.remedy == (
        "sudo sed -i '1 s/$/ cgroup_enable=memory cgroup_memory=1/' /boot/firmware/cmdline.txt && sudo reboot"
    )
    assert [resources.groups(case(build(tmp_path / build.__name__))).mark for build in (pi5, orin)] == [OK, OK]
    other = resources.groups(case(put(tmp_path / "x", cgroups(0))))
    assert (other.mark, "client.toml" in other.remedy) == (WARN, True)


@pytest.mark.parametrize(
    ("free_mib", "mark"),
    # 50 of the daemon + 230 of the trial = 280; a quarter to spare = 350
    [(1000, OK), (351, OK), (349, WARN), (281, WARN), (279, FAIL)],
)
def test_memory_is_compared_with_what_the_trial_took(tmp_path: Path, free_mib: int, mark: Mark) -> None:
    found = resources.memory(case(put(tmp_path, meminfo(2_000_000, free_mib * 1024))))
    assert (found.mark, found.facts["need"]) == (mark, 280 * MIB), found


def answering(smallest: int | None, **more: Any) -> Callable[..., Reached]:
    return lambda address, ca, insecure, cert, key: Reached(
        Answer(more.get("protocol", 1), "0.1", "run-1", smallest),
        more.get("rtt_s", 0.002),
        more.get("up", 1e6),
        more.get("down", 2e6),
    )


def test_the_servers_smallest_submodel_counts_where_it_is_told(tmp_path: Path) -> None:
    root = put(tmp_path, meminfo(2_000_000, 600 * 1024))
    told = resources.memory(case(root, servers=("a:1",), ask=answering(400 * MIB)))
    assert told.mark is FAIL  # 50 + 200 + 1.15 x 400 = 710
    assert told.facts["need"] == 710 * MIB
    assert "the server's smallest submodel needs 710 MiB" in told.says
    assert resources.memory(case(root, servers=("a:1",), ask=answering(None))).facts["need"] == 280 * MIB
    assert resources.memory(case(root, servers=("a:1",), ask=unreachable)).facts["need"] == 280 * MIB


def test_a_budget_below_the_smallest_submodel_is_told_with_one_that_fits(tmp_path: Path) -> None:
    root = put(tmp_path, meminfo(2_000_000, 1500 * 1024))
    found = resources.memory(case(root, budget=200 * MIB))
    assert found.mark is FAIL
    assert "the budget is 200 MiB" in found.says
    assert 'memory = "350MiB"' in found.remedy
    assert resources.memory(case(root, budget=350 * MIB)).mark is OK


def test_what_a_living_daemon_holds_counts_as_free_for_it(tmp_path: Path) -> None:
    root = put(tmp_path, {**meminfo(2_000_000, 100 * 1024), f"proc/{os.getpid()}/status": "VmRSS: 409600 kB\n"})
    assert resources.memory(case(root)).mark is FAIL
    with lock.hold(tmp_path / "state"):
        assert case(root).free_bytes == 500 * MIB
        assert resources.memory(case(root)).mark is OK


def test_a_state_folder_is_written_to_and_left_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    found = resources.disk(case(tmp_path))
    assert (found.mark, list((tmp_path / "state").iterdir())) == (OK, [])
    assert resources.disk(case(tmp_path, state=tmp_path / "not/yet")).mark is OK
    assert not (tmp_path / "not").exists()


def test_a_state_folder_that_cannot_be_is_a_failure(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert resources.disk(case(tmp_path, state=tmp_path / "file")).mark is FAIL
    assert resources.disk(case(tmp_path, state=tmp_path / "file/state")).mark is FAIL
    read_only = resources.disk(case(tmp_path, state=Path("/proc/self")))
    assert (read_only.mark, "cannot be written" in read_only.says) == (FAIL, True)


@pytest.mark.parametrize(("owner", "mark"), [(0, FAIL), (1, UNKNOWN)])
def test_a_state_folder_of_another_user_is_unknown_and_never_taken_from_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: int, mark: Mark
) -> None:
    def denied(folder: Path, trace: bool) -> None:
        raise PermissionError(13, "Permission denied")

    (tmp_path / "state").mkdir()
    monkeypatch.setattr(resources, "_try_writing", denied)
    monkeypatch.setattr(os, "geteuid", lambda: (tmp_path / "state").stat().st_uid + owner)
    found = resources.disk(case(tmp_path))
    assert (found.mark, "install" in found.remedy) == (mark, mark is FAIL)
    elsewhere = resources.disk(case(tmp_path, state=tmp_path / "not/yet"))
    assert elsewhere.mark is FAIL


@pytest.mark.parametrize(("free", "mark"), [(600 * MIB, OK), (200 * MIB, WARN), (100 * MIB, FAIL)])
def test_a_full_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, mark: Mark) -> None:
    monkeypatch.setattr(resources, "free_bytes", lambda folder: free)
    assert resources.disk(case(tmp_path)).mark is mark


@pytest.mark.parametrize(
    ("now", "synchronised", "mark"),
    [
        (NOW, True, OK),
        (NOW, False, WARN),
        (NOW, None, UNKNOWN),
        (0.0, True, FAIL),  # 1970
        (1_600_000_000.0, True, FAIL),  # 2020
        (5e9, False, FAIL),  # 2128
    ],
)
def test_a_clock_in_another_year_is_a_failure_and_one_that_drifts_a_warning(
    tmp_path: Path, now: float, synchronised: bool | None, mark: Mark
) -> None:
    assert resources.clock(case(tmp_path, now=lambda: now, synchronised=lambda: synchronised)).mark is mark


@pytest.mark.parametrize(
    ("build", "millidegrees", "mark"),
    [(pi4, 60_000, OK), (pi4, 76_000, WARN), (pi4, 86_000, FAIL), (orin, 90_000, OK), (orin, 95_000, WARN)],
)
def test_heat_is_judged_by_where_the_board_brakes(
    tmp_path: Path, build: Callable[[Path], Path], millidegrees: int, mark: Mark
) -> None:
    root = put(build(tmp_path), {"sys/class/thermal/thermal_zone0/temp": f"{millidegrees}\n"})
    assert health.temperature(case(root)).mark is mark


def test_a_fan_that_stands_still_is_named_where_it_is_hot(tmp_path: Path) -> None:
    hot = {"sys/class/thermal/thermal_zone0/temp": "79000\n", "sys/class/hwmon/hwmon3/fan1_input": "0\n"}
    assert "the fan stands still" in health.temperature(case(put(pi5(tmp_path), hot))).says


@pytest.mark.parametrize(
    ("word", "throttled", "power"),
    [
        ("throttled=0x0", OK, OK),
        ("throttled=0x50005", WARN, FAIL),
        ("throttled=0x50000", WARN, WARN),
        ("throttled=0x10000", OK, WARN),
        ("throttled=0x80008", WARN, OK),
    ],
)
def test_the_firmwares_word_is_split_into_heat_and_voltage(
    tmp_path: Path, word: str, throttled: Mark, power: Mark
) -> None:
    pi = case(pi5(tmp_path), firmware=lambda: word)
    assert (health.throttling(pi).mark, health.voltage(pi).mark) == (throttled, power)


def test_a_pi_that_hides_its_firmwares_word_knows_its_voltage_and_not_its_throttling(tmp_path: Path) -> None:
    silent = case(pi5(tmp_path))
    assert (health.throttling(silent).mark, health.voltage(silent).mark) == (UNKNOWN, FAIL)
    assert "video" in health.throttling(silent).remedy
    put(tmp_path, {"sys/class/hwmon/hwmon2/in0_lcrit_alarm": "0\n"})
    calm = health.voltage(case(tmp_path))
    assert (calm.mark, calm.facts["since_boot"]) == (OK, None)


def test_the_firmware_of_another_board_is_not_asked(tmp_path: Path) -> None:
    def never() -> str | None:
        raise AssertionError("asked")

    jetson = case(orin(tmp_path), firmware=never)
    assert (health.throttling(jetson).mark, health.voltage(jetson).mark) == (OK, WARN)
    assert "7 over-current events" in health.voltage(jetson).says
    put(tmp_path, {"sys/class/thermal/cooling_device0/cur_state": "2\n", "sys/class/hwmon/hwmon4/oc3_event_cnt": "0\n"})
    assert (health.throttling(jetson).mark, health.voltage(jetson).mark) == (WARN, OK)


@pytest.mark.parametrize(
    ("more", "mark", "says"),
    [
        ({}, OK, "run run-1: 2.0 ms there and back, 8 Mbit/s up, 16 Mbit/s down"),
        ({"up": None}, OK, "unknown up"),
        ({"up": 2e8, "down": 4.6e5}, OK, "1600 Mbit/s up, 3.7 Mbit/s down"),
        ({"up": 1e4}, WARN, "a slow link"),
        ({"rtt_s": 0.8}, WARN, "a slow link"),
        ({"protocol": 2}, FAIL, "speaks protocol 2, not 1"),
    ],
)
def test_a_servers_answer_becomes_a_line(tmp_path: Path, more: dict[str, Any], mark: Mark, says: str) -> None:
    [found] = network.servers(case(tmp_path, servers=("a:1",), ask=answering(1, **more)))
    assert (found.mark, says in found.says) == (mark, True), found


def test_each_server_is_asked_once_and_has_its_line(tmp_path: Path) -> None:
    asked = []

    def counted(address: str, *more: Any) -> Reached:
        asked.append(address)
        return unreachable(address, *more) if address == "b:2" else answering(5)(address, *more)

    found = list(examine(case(pi5(tmp_path), servers=("a:1", "b:2"), ask=counted)))
    assert [(one.mark, one.facts["server"]) for one in found[-2:]] == [(OK, "a:1"), (FAIL, "b:2")]
    assert asked == ["a:1", "b:2"]
    assert found[-1].remedy == "is the server running there?"
