"""What limits daemon and trainer, by owner's budget and by container; and the line for kernels that keep no limit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pleat_client import app
from pleat_client.child import Limits
from pleat_client.config import Config
from support.fake_board import cgroup_v1, cgroup_v2, meminfo, orin, pi4, put

MIB = 2**20


def config(memory: int | None = None) -> Config:
    return Config(server="127.0.0.1:1", data=Path("x.npz"), name="d", state=Path("state"), memory=memory, idle=7.0)


def test_without_budget_or_container_nothing_limits(tmp_path: Path) -> None:
    assert app.limits(config(), put(tmp_path, meminfo(8_000_000, 7_000_000))) == Limits(None, 7.0, None)


@pytest.mark.parametrize(("build", "group"), [(cgroup_v1, 128 * MIB), (cgroup_v2, 512 * MIB)])
def test_a_container_limits_with_some_room_left_beside_the_owners_budget(
    tmp_path: Path, build: Callable[[Path], Path], group: int
) -> None:
    root = build(tmp_path)
    assert app.limits(config(), root) == Limits(None, 7.0, group * 31 // 32)
    assert app.limits(config(64 * MIB), root) == Limits(64 * MIB, 7.0, group * 31 // 32)


def test_a_kernel_that_keeps_no_limit_is_told_with_the_remedy_and_another_is_not(tmp_path: Path) -> None:
    pi = app.advice(config(), pi4(tmp_path / "pi"))
    assert "switched off; give --memory" in pi
    assert "'cgroup_enable=memory cgroup_memory=1' to the one line of /boot/firmware/cmdline.txt and reboot" in pi
    assert "--memory is still kept" in app.advice(config(200 * MIB), tmp_path / "pi")
    pc = put(tmp_path / "pc", {"proc/cgroups": "memory 0 1 0\n"})
    assert "/etc/default/grub" in app.advice(config(), pc)
    assert "\n" not in pi
    assert app.advice(config(), orin(tmp_path / "orin")) == ""
    assert app.advice(config(), cgroup_v1(tmp_path / "container")) == ""
