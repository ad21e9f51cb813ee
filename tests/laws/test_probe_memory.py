"""The memory sensor on this very process: peaks are those of the interval, by the kernel's mark or by polling."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pleat_client.probe import memory
from support.fake_board import put

MIB = 2**20
STEP = 64 * MIB


def touched(size: int) -> bytearray:
    block = bytearray(size)
    block[::4096] = b"\1" * len(block[::4096])
    return block


def test_resident_memory_grows_by_what_is_touched() -> None:
    before = memory.rss_bytes()
    block = touched(STEP)
    after = memory.rss_bytes()
    assert before is not None
    assert after is not None
    assert after - before == pytest.approx(len(block), rel=0.2)


def test_a_peak_that_has_passed_is_forgotten_by_the_reset_and_a_new_one_is_not() -> None:
    if not memory.reset_peak():
        pytest.skip("this kernel or container does not let the mark be reset")
    floor = memory.peak_bytes()
    watch = memory.Peak((os.getpid(),))
    block = touched(STEP)
    del block
    peak = watch.stop()
    assert floor is not None
    assert peak is not None
    assert peak >= floor + 0.8 * STEP
    assert memory.reset_peak()
    assert (memory.peak_bytes() or 0) < peak - 0.5 * STEP


def test_without_the_reset_a_rising_mark_still_gives_the_peak(tmp_path: Path) -> None:
    put(tmp_path, {"proc/7/status": "VmHWM:\t 1000 kB\nVmRSS:\t 400 kB\n"})
    (tmp_path / "proc/7/clear_refs").mkdir()  # cannot be written, whoever tries
    watch = memory.Peak((7,), tmp_path, poll_s=3600)
    assert watch.bytes() == 400 * 1024, "the mark has not risen: what is resident now counts"
    put(tmp_path, {"proc/7/status": "VmHWM:\t 1500 kB\nVmRSS:\t 400 kB\n"})
    assert watch.stop() == 1500 * 1024


def test_processes_that_have_ended_count_as_last_seen(tmp_path: Path) -> None:
    put(tmp_path, {f"proc/{pid}/status": f"VmHWM:\t {pid}000 kB\nVmRSS:\t 10 kB\n" for pid in (7, 8)})
    put(tmp_path, {f"proc/{pid}/clear_refs": "" for pid in (7, 8)})
    watch = memory.Peak((7, 8), tmp_path)
    assert watch.bytes() == 15000 * 1024
    (tmp_path / "proc/8/status").unlink()
    assert watch.stop() == 15000 * 1024


def test_the_tree_holds_children_and_grandchildren_and_no_strangers(tmp_path: Path) -> None:
    put(
        tmp_path,
        {
            "proc/10/stat": "10 (python3 (x) y) S 1 10 10 0",
            "proc/11/stat": "11 (worker) R 10 10 10 0",
            "proc/12/stat": "12 (helper) S 11 10 10 0",
            "proc/13/stat": "13 (gone) Z 10 10 10 0",
            "proc/20/stat": "20 (other) S 1 20 20 0",
            "proc/10/status": "VmRSS:\t 100 kB\n",
            "proc/11/status": "VmRSS:\t 20 kB\n",
            "proc/12/status": "VmRSS:\t 3 kB\n",
            "proc/20/status": "VmRSS:\t 5000 kB\n",
        },
    )
    assert memory.tree(10, tmp_path) == [10, 11, 12]
    assert memory.tree_rss_bytes(10, tmp_path) == 123 * 1024


def test_a_real_child_is_in_the_tree() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        assert child.pid in memory.tree(os.getpid())
        assert memory.rss_bytes(child.pid) is not None
