"""Sensors against fake /proc and /sys trees of the boards that pleat is made for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pleat_client.probe import board, cgroup, clock, frequency, memory, power, processor, sensors, thermal, throttle
from support.fake_board import LSE, auxv, cgroup_v1, cgroup_v2, cgroups, meminfo, nano, orin, pi4, pi5, put

MIB = 2**20


@pytest.mark.parametrize(
    ("build", "kind", "model", "system"),
    [
        (pi4, "pi", "Raspberry Pi 4 Model B Rev 1.4", "Debian GNU/Linux 12 (bookworm)"),
        (pi5, "pi", "Raspberry Pi 5 Model B Rev 1.0", "Debian GNU/Linux 13 (trixie)"),
        (orin, "jetson", "NVIDIA Jetson Orin Nano Developer Kit", "Ubuntu 22.04.5 LTS"),
    ],
)
def test_a_board_is_known_by_its_device_tree(
    tmp_path: Path, build: Callable[[Path], Path], kind: str, model: str, system: str
) -> None:
    found = board.board(build(tmp_path), machine="aarch64", affinity=4)
    assert (found.kind, found.model, found.system, found.machine, found.cores) == (kind, model, system, "aarch64", 4.0)
    assert bool(found.accelerator) is (kind == "jetson")
    assert not found.small


def test_an_empty_machine_tells_nothing_and_never_zero(tmp_path: Path) -> None:
    found = board.board(tmp_path, machine="", affinity=None)
    assert (found.model, found.kind, found.accelerator, found.memory_bytes) == ("", "", "", None)
    assert sensors.sample(tmp_path) == sensors.Sample()
    assert sensors.interval([sensors.sample(tmp_path)] * 3) == {}
    beat = sensors.heartbeat("idle", tmp_path)
    assert (beat.load, beat.free_bytes, beat.celsius, beat.throttled, beat.hertz) == (None,) * 5
    assert memory.rss_bytes(1, tmp_path) is None
    assert memory.peak_bytes(1, tmp_path) is None
    assert not memory.reset_peak(1, tmp_path)
    assert memory.free_bytes(tmp_path) is None
    assert cgroup.memory_limit(tmp_path) is None
    assert cgroup.cpu_quota(tmp_path) is None
    assert cgroup.oom_kills(tmp_path) is None
    assert board.fan_rpm(tmp_path) is None
    assert cgroup.memory_enabled(tmp_path) is None
    assert processor.has_lse(tmp_path) is None
    assert throttle.firmware(tmp_path) is None
    assert throttle.cooled(tmp_path) is None
    assert throttle.undervolted(tmp_path) is None
    assert throttle.over_current(tmp_path) is None
    assert power.rails(tmp_path) == {}


def test_a_board_of_half_a_gigabyte_is_small(tmp_path: Path) -> None:
    assert board.board(put(tmp_path, meminfo(425_000, 300_000)), "aarch64", 4).small


def test_the_firmware_word_of_a_hot_pi_is_read_from_sysfs(tmp_path: Path) -> None:
    found = throttle.throttling(pi4(tmp_path))
    assert found == throttle.Throttling(
        ("throttled", "soft temperature limit"), ("throttled", "soft temperature limit")
    )


@pytest.mark.parametrize(
    ("bits", "now", "before"),
    [
        (0x0, (), ()),
        (0x50005, ("under-voltage", "throttled"), ("under-voltage", "throttled")),
        (0x50000, (), ("under-voltage", "throttled")),
        (0xF0006, ("frequency capped", "throttled"), tuple(throttle.BITS.values())),
        (0xF0008, ("soft temperature limit",), tuple(throttle.BITS.values())),
    ],
)
def test_throttled_bits_mean_what_the_firmware_says(bits: int, now: tuple[str, ...], before: tuple[str, ...]) -> None:
    assert throttle.of_bits(bits) == throttle.Throttling(now, before)


@pytest.mark.parametrize("nonsense", ["", "throttled=", "VCHI initialization failed", "throttled=0xzz"])
def test_a_firmware_tool_that_answers_nonsense_is_not_believed(tmp_path: Path, nonsense: str) -> None:
    assert throttle.throttling(tmp_path, lambda: nonsense) is None


def test_a_pi_without_the_sysfs_word_is_asked_through_its_tool(tmp_path: Path) -> None:
    assert throttle.throttling(tmp_path, lambda: "throttled=0x20002\n") == throttle.Throttling(
        ("frequency capped",), ("frequency capped",)
    )


def test_a_pi_that_hides_the_word_still_shows_its_voltage_alarm(tmp_path: Path) -> None:
    assert throttle.throttling(pi5(tmp_path)) == throttle.Throttling(("under-voltage",))


def test_a_missing_firmware_tool_is_unknown_not_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert throttle.vcgencmd() is None


def test_a_fan_is_no_throttling_but_a_braked_cpu_is(tmp_path: Path) -> None:
    orin(tmp_path)
    assert throttle.throttling(tmp_path) == throttle.Throttling()
    put(tmp_path, {"sys/class/thermal/cooling_device0/cur_state": "2\n"})
    assert throttle.throttling(tmp_path) == throttle.Throttling(("throttled",))


def test_the_hottest_plausible_zone_counts_and_trip_points_are_read(tmp_path: Path) -> None:
    orin(tmp_path)
    assert [zone.name for zone in thermal.zones(tmp_path)] == ["cpu-thermal", "gpu-thermal"]
    assert thermal.hottest(tmp_path) == thermal.Zone("gpu-thermal", 63.25, None)
    assert thermal.zones(tmp_path)[0].brakes_at == 99.0
    assert thermal.celsius(pi4(tmp_path / "pi")) == 82.3


def test_the_fastest_cluster_gives_the_clock(tmp_path: Path) -> None:
    assert frequency.clock(orin(tmp_path)) == frequency.Clock(1_510_400_000.0, 1_510_400_000.0)
    slow = frequency.clock(pi4(tmp_path / "pi"))
    assert slow is not None
    assert slow.share == pytest.approx(2 / 3)


def test_the_input_rail_is_the_total_and_rails_are_never_summed(tmp_path: Path) -> None:
    assert power.rails(orin(tmp_path)) == {"VDD_IN": pytest.approx(7.62), "VDD_CPU_GPU_CV": pytest.approx(3.048)}
    assert power.watts(tmp_path) == pytest.approx(7.62)
    assert power.watts(nano(tmp_path / "nano")) == pytest.approx(4.816)


def test_parts_without_an_input_rail_give_no_total(tmp_path: Path) -> None:
    orin(tmp_path)
    put(tmp_path, {"sys/bus/i2c/devices/1-0040/hwmon/hwmon1/in1_label": "VDD_SOC\n"})
    assert power.watts(tmp_path) is None


def test_pi_os_switches_memory_limits_off_unless_told_otherwise(tmp_path: Path) -> None:
    assert board.memory_groups_off(pi4(tmp_path / "4"))
    assert not board.memory_groups_off(pi5(tmp_path / "5"))


HEADER = "#subsys_name\thierarchy\tnum_cgroups\tenabled\ncpu\t1\t4\t1\n"


@pytest.mark.parametrize(
    ("told", "off"),
    [
        ({"proc/cgroups": HEADER + "memory\t0\t90\t0\n"}, True),
        ({"proc/cgroups": HEADER + "memory\t4\t28\t1\n"}, False),
        # a kernel that did not heed its command line, in either direction
        ({"proc/cgroups": HEADER + "memory\t0\t90\t0\n", "proc/cmdline": "cgroup_enable=memory"}, True),
        ({"proc/cgroups": HEADER + "memory\t4\t28\t1\n", "proc/cmdline": "cgroup_disable=memory"}, False),
        # version two alone: no line in /proc/cgroups
        ({"proc/cgroups": HEADER, "sys/fs/cgroup/cgroup.controllers": "cpuset cpu io pids\n"}, True),
        ({"proc/cgroups": HEADER, "sys/fs/cgroup/cgroup.controllers": "cpuset cpu io memory pids\n"}, False),
        ({}, False),
    ],
)
def test_the_kernels_own_list_says_whether_memory_limits_hold(tmp_path: Path, told: dict[str, str], off: bool) -> None:
    assert board.memory_groups_off(put(tmp_path, told)) is off


def test_a_container_of_a_large_machine_is_not_small_and_a_small_board_is(tmp_path: Path) -> None:
    held = cgroup_v1(tmp_path / "container")  # 128 MiB of a machine with 8 GiB
    assert board.board(held).memory_bytes == 128 * MIB
    assert not board.board(held).small
    assert board.board(put(tmp_path / "zero", meminfo(440_000, 300_000))).small


def test_a_container_of_version_one_is_found_at_the_mount_when_its_path_is_hidden(tmp_path: Path) -> None:
    cgroup_v1(tmp_path)
    assert cgroup.memory_limit(tmp_path) == 128 * MIB
    assert memory.total_bytes(tmp_path) == 128 * MIB
    assert memory.free_bytes(tmp_path) == 48 * MIB  # 128 - (100 - 20 of droppable cache)
    assert cgroup.cpu_quota(tmp_path) == 0.25
    assert board.cores(tmp_path, affinity=2) == 0.25
    assert board.threads(tmp_path, affinity=2) == 1
    assert cgroup.oom_kills(tmp_path) == 1


def test_a_version_one_group_without_a_limit_is_unlimited(tmp_path: Path) -> None:
    cgroup_v1(tmp_path)
    put(
        tmp_path,
        {
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
        },
    )
    assert cgroup.memory_limit(tmp_path) is None
    assert cgroup.cpu_quota(tmp_path) is None


def test_the_tightest_group_along_the_path_counts_in_version_two(tmp_path: Path) -> None:
    cgroup_v2(tmp_path)
    assert cgroup.memory_limit(tmp_path) == 512 * MIB
    assert cgroup.memory_left(tmp_path) == 112 * MIB
    assert memory.free_bytes(tmp_path) == 112 * MIB
    assert cgroup.cpu_quota(tmp_path) == 1.5
    assert board.threads(tmp_path, affinity=4) == 1
    assert cgroup.oom_kills(tmp_path) == 2


def test_a_path_outside_the_namespace_looks_at_the_mount_alone(tmp_path: Path) -> None:
    put(tmp_path, {"proc/self/cgroup": "0::/../../secret\n", "sys/fs/cgroup/memory.max": "1000000\n"})
    assert cgroup.memory_limit(tmp_path) == 1_000_000


def test_garbage_in_a_sensor_file_is_unknown(tmp_path: Path) -> None:
    put(
        tmp_path,
        {
            "proc/loadavg": "high\n",
            "proc/self/cgroup": "nonsense\n0::/\n",
            "sys/fs/cgroup/cpu.max": "many 0\n",
            "sys/fs/cgroup/memory.max": "plenty\n",
            "proc/meminfo": "MemTotal:\nMemAvailable: much kB\n",
            "sys/class/thermal/thermal_zone0/temp": "warm\n",
        },
    )
    assert sensors.heartbeat("idle", tmp_path) == sensors.heartbeat("idle", tmp_path / "nothing")
    assert cgroup.cpu_quota(tmp_path) is None
    assert memory.total_bytes(tmp_path) is None


def test_an_interval_is_throttled_by_a_flag_a_counter_or_a_slow_clock_in_the_middle() -> None:
    look = sensors.Sample
    calm = look(celsius=50.0, throttled=False, events=3, hertz=2e9, share=1.0)
    assert sensors.interval([calm] * 3) == {"celsius": 50.0, "hertz": 2e9, "throttled": 0.0}
    flagged = look(celsius=85.0, throttled=True, events=3, hertz=2e9, share=1.0)
    assert sensors.interval([calm, flagged, calm])["throttled"] == 1.0
    counted = look(celsius=50.0, throttled=False, events=4, hertz=2e9, share=1.0)
    assert sensors.interval([calm, calm, counted])["throttled"] == 1.0
    slow = look(celsius=50.0, throttled=False, events=3, hertz=1e9, share=0.5)
    assert sensors.interval([calm, slow, calm]) == {"celsius": 50.0, "hertz": 1e9, "throttled": 1.0}
    assert sensors.interval([slow, calm, slow])["throttled"] == 0.0, "a governor idles before and after the work"


@pytest.mark.parametrize(("build", "lse"), [(pi4, False), (pi5, True), (orin, True)])
def test_lse_is_read_from_the_auxiliary_vector_and_else_from_the_features(
    tmp_path: Path, build: Callable[[Path], Path], lse: bool
) -> None:
    build(tmp_path)
    assert processor.has_lse(tmp_path) is lse
    if build is not orin:  # of which the features are not written down
        (tmp_path / "proc/self/auxv").unlink()
        assert processor.has_lse(tmp_path) is lse


def test_the_vector_wins_over_features_of_another_processor(tmp_path: Path) -> None:
    """An emulator shows the host's /proc/cpuinfo; the vector is its own."""
    put(tmp_path, {**auxv(0), "proc/cpuinfo": "Features\t: fp atomics\n"})
    assert processor.has_lse(tmp_path) is False
    put(tmp_path, auxv(LSE))
    assert processor.has_lse(tmp_path) is True


@pytest.mark.parametrize("raw", [b"", b"short", bytes(16), bytes(40)])
def test_a_vector_without_the_word_or_cut_short_is_unknown(tmp_path: Path, raw: bytes) -> None:
    put(tmp_path, {"proc/self/auxv": raw})
    assert processor.has_lse(tmp_path) is None


@pytest.mark.parametrize(
    ("files", "on"),
    [
        (cgroups(1), True),
        (cgroups(0), False),
        ({"proc/cgroups": "#subsys_name\thierarchy\tnum_cgroups\tenabled\ncpu\t0\t1\t1\n"}, None),
        ({"proc/cgroups": "memory\n"}, None),
        ({"sys/fs/cgroup/cgroup.controllers": "cpu io memory pids\n"}, True),
        ({"sys/fs/cgroup/cgroup.controllers": "cpu io pids\n"}, False),
        ({"sys/fs/cgroup/cgroup.controllers": "cpu io pids\n", **cgroups(1)}, True),  # version 1 has it
        ({"sys/fs/cgroup/cgroup.controllers": "cpu io pids\n", **cgroups(0)}, False),
        ({"sys/fs/cgroup/unified/cgroup.controllers": "memory\n"}, True),
        ({"sys/fs/cgroup/cgroup.controllers": "memory_recursiveprot\n"}, False),
    ],
)
def test_memory_groups_are_on_off_or_unknown(tmp_path: Path, files: dict[str, str], on: bool | None) -> None:
    assert cgroup.memory_enabled(put(tmp_path, files)) is on


def test_the_boards_say_whether_they_keep_memory_limits(tmp_path: Path) -> None:
    assert [cgroup.memory_enabled(b(tmp_path / b.__name__)) for b in (pi4, pi5, orin, cgroup_v1, cgroup_v2)] == [
        False, True, True, True, True
    ]  # fmt: skip


def test_over_current_is_counted_without_the_thermal_counters(tmp_path: Path) -> None:
    assert throttle.over_current(orin(tmp_path)) == 7
    put(tmp_path, {"sys/devices/system/cpu/cpu0/thermal_throttle/package_throttle_count": "5\n"})
    assert (throttle.over_current(tmp_path), throttle.events(tmp_path)) == (7, 12)


def test_this_kernel_says_whether_its_clock_is_synchronised() -> None:
    assert clock.synchronised() in (True, False)
