"""The parent end of the trainer's pipe, against children that misbehave in every way a child can.

The children are a few lines each on the real pipe; the real worker meets the real daemon in test_daemon.py.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

from pleat.errors import LocalError, UseError
from pleat_client import child, pipe
from pleat_client.child import Died, Limits, Trainer
from pleat_client.probe import memory

MIB = 2**20
HEAD = """
import os, signal, sys, time
from pleat_client import pipe
out = sys.stdout.buffer
def say(message):
    out.write(pipe.encode(message)); out.flush()
def hear():
    return pipe.read_request(sys.stdin.buffer)
"""
READY = "say(pipe.Ready(10, 1, (1, 8, 8), 10))\n"
STAGED = 'say(pipe.Staged("r", 1, 0, "/tmp/report", "done"))\n'


def trainer(body: str, limits: Limits = Limits(), ready: bool = True) -> Trainer:  # noqa: B008 - frozen
    return Trainer([sys.executable, "-c", HEAD + (READY if ready else "") + body], limits)


def run(test: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(test, 30))


async def one(trainer: Trainer) -> pipe.Staged | pipe.Failed | Died:
    try:
        return await trainer.do(pipe.Train(b"order"))
    finally:
        await trainer.stop()


@pytest.mark.parametrize(
    ("body", "killed", "says"),
    [
        ("hear(); os.kill(os.getpid(), signal.SIGKILL)", True, "killed by the kernel, most likely for want of memory"),
        ("hear(); os._exit(137)", True, "killed by the kernel"),
        ("hear(); os.kill(os.getpid(), signal.SIGILL)", False, "torch 2.10.0 does not run on a Pi 4"),
        ("hear(); sys.exit(3)", False, "exit status 3"),
        ("hear()", False, "exit status 0"),
        ("hear(); out.write(b'\\xff\\xff\\xff\\xff'); out.flush(); time.sleep(60)", False, "pipe to the trainer"),
        ("hear(); out.write(b'\\2\\0\\0\\0ab'); out.flush(); time.sleep(60)", False, "not a message"),
        ("hear(); out.write(b'\\9\\0'); out.flush()", False, "exit status 0"),
        ("hear(); out.close(); os.close(1); time.sleep(60)", False, "closed its pipe without an answer"),
    ],
)
def test_however_the_child_ends_the_answer_says_it(body: str, killed: bool, says: str) -> None:
    answer = run(one(trainer(body)))
    assert isinstance(answer, Died)
    assert says in answer.reason
    assert answer.killed is killed


def test_a_child_that_dies_is_started_again_for_the_next_order(tmp_path: Path) -> None:
    once = f"""
p = {str(tmp_path / "once")!r}
if not os.path.exists(p):
    open(p, "w"); hear(); os.kill(os.getpid(), 9)
"""

    async def twice() -> list[Any]:
        child_ = trainer(once + "hear()\n" + STAGED + "hear()")
        try:
            return [await child_.do(pipe.Train(b"1")), await child_.do(pipe.Train(b"2"))]
        finally:
            await child_.stop()

    first, second = run(twice())
    assert isinstance(first, Died)
    assert second == pipe.Staged("r", 1, 0, "/tmp/report", "done")


def test_what_the_child_tells_on_the_way_is_heard() -> None:
    heard: list[Any] = []
    child_ = trainer("hear(); say(pipe.Started('r/1/0')); say(pipe.Progress('r/1/0', 0.5))\n" + STAGED + "hear()")
    child_.heard = heard.append
    assert isinstance(run(one(child_)), pipe.Staged)
    assert heard == [pipe.Started("r/1/0"), pipe.Progress("r/1/0", 0.5)]


def test_a_cancelled_order_ends_at_once_when_the_child_listens_and_by_force_when_not() -> None:
    async def cancelled(body: str) -> tuple[Any, float]:
        child_ = trainer(body)
        await child_.ready()
        doing = asyncio.ensure_future(child_.do(pipe.Train(b"order")))
        await asyncio.sleep(0)
        began = time.monotonic()
        child_.cancel("r/1/0")
        answer = await doing
        took = time.monotonic() - began
        await child_.stop()
        return answer, took

    listens = "hear(); r = hear()\nif isinstance(r, pipe.Cancel): say(pipe.Staged('r', 1, 0, '', 'aborted'))\nhear()"
    answer, took = run(cancelled(listens))
    assert isinstance(answer, pipe.Staged)
    assert took < child.PATIENCE_S
    answer, took = run(cancelled("hear(); time.sleep(60)"))
    assert isinstance(answer, Died)
    assert (answer.reason, answer.killed) == ("cancelled", False)
    assert child.PATIENCE_S * 0.9 < took < child.PATIENCE_S + 5


def test_a_child_over_the_memory_budget_is_stopped_with_the_numbers() -> None:
    budget = 150 * MIB
    hungry = f"hear(); b = bytearray({400 * MIB}); b[::4096] = b'x' * len(b[::4096]); time.sleep(60)"
    answer = run(one(trainer(hungry, Limits(memory_bytes=budget))))
    assert isinstance(answer, Died)
    assert answer.killed
    assert "of the memory budget of 150 MiB" in answer.reason
    assert answer.peak_bytes is not None
    assert answer.peak_bytes > budget
    modest = "hear(); time.sleep(0.6)\n" + STAGED + "hear()"
    assert isinstance(run(one(trainer(modest, Limits(memory_bytes=4000 * MIB)))), pipe.Staged)


def test_a_containers_limit_kills_too_and_pages_of_files_do_not_count(tmp_path: Path) -> None:
    room = 300 * MIB  # beside what the process of the tests holds, which counts as the daemon does
    limits = Limits(group_bytes=(memory.own_bytes() or 0) + room)
    hungry = f"hear(); b = bytearray({400 * MIB}); b[::4096] = b'x' * len(b[::4096]); time.sleep(60)"
    answer = run(one(trainer(hungry, limits)))
    assert isinstance(answer, Died)
    assert answer.killed
    assert "of this container's or unit's memory of" in answer.reason
    big = tmp_path / "libraries"
    with big.open("wb") as file:
        file.truncate(400 * MIB)
    mapped = f"import mmap; f = open({str(big)!r}); m = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ)\n"
    reads = mapped + f"hear(); sum(m[i] for i in range(0, {400 * MIB}, 4096)); time.sleep({3 * child.WATCH_S})\n"
    answer = run(one(trainer(reads + STAGED + "hear()", limits)))
    assert isinstance(answer, pipe.Staged), "resident are 400 MiB, but the kernel could drop them"
    assert isinstance(run(one(trainer(reads + STAGED + "hear()", Limits((memory.rss_bytes() or 0) + room)))), Died)


def test_a_child_without_orders_leaves_by_itself() -> None:
    async def idle() -> tuple[int | None, int | None]:
        child_ = trainer("hear()\n" + STAGED + "hear()", Limits(idle_s=0.0))
        await child_.do(pipe.Train(b"order"))
        pid = child_.pid
        assert pid is not None
        while os.path.exists(f"/proc/{pid}"):
            await asyncio.sleep(0.01)
        return pid, child_.pid

    assert run(idle())[1] is None


def test_a_child_that_works_is_killed_at_the_end_and_not_asked() -> None:
    async def stop() -> float:
        child_ = trainer("hear(); time.sleep(60)")
        await child_.ready()
        doing = asyncio.ensure_future(child_.do(pipe.Train(b"order")))
        await asyncio.sleep(0)
        began = time.monotonic()
        await child_.stop()
        took = time.monotonic() - began
        await doing
        return took

    assert run(stop()) < child.PATIENCE_S


def test_a_child_whose_answer_nobody_waits_for_any_more_is_killed() -> None:
    async def give_up() -> float:
        child_ = trainer("hear(); time.sleep(60)")
        await child_.ready()
        doing = asyncio.ensure_future(child_.do(pipe.Train(b"order")))
        await asyncio.sleep(0)
        doing.cancel()
        await asyncio.gather(doing, return_exceptions=True)
        began = time.monotonic()
        await child_.stop()
        return time.monotonic() - began

    assert run(give_up()) < child.PATIENCE_S


@pytest.mark.parametrize(
    ("body", "error", "says"),
    [
        ("say(pipe.Failed('', 'shard x.npz: no labels')); sys.exit(2)", UseError, "shard x.npz: no labels"),
        ("say(pipe.Failed('', 'disk')); sys.exit(1)", LocalError, "disk"),
        ("sys.exit(1)", LocalError, "could not start: exit status 1"),
        ("os.kill(os.getpid(), signal.SIGILL)", LocalError, "torch 2.10.0 does not run on a Pi 4"),
    ],
)
def test_a_child_that_cannot_start_says_why(body: str, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        run(trainer(body, ready=False).ready())


def test_a_program_that_is_not_there_is_a_line() -> None:
    with pytest.raises(LocalError, match=r"the trainer could not be started: .*/no/such/python"):
        run(Trainer(["/no/such/python"]).ready())


def test_the_kernel_is_told_to_take_the_child_first() -> None:
    async def score() -> str:
        child_ = trainer("hear()")
        await child_.ready()
        found = Path(f"/proc/{child_.pid}/oom_score_adj").read_text().strip()
        await child_.stop()
        return found

    assert run(score()) == "800"


def test_a_terminals_interrupt_does_not_reach_the_child() -> None:
    async def group() -> tuple[int, int]:
        child_ = trainer("hear()")
        await child_.ready()
        assert child_.pid is not None
        found = os.getpgid(child_.pid), child_.pid
        await child_.stop()
        return found

    theirs, pid = run(group())
    assert theirs == pid != os.getpgid(0)
    assert signal.getsignal(signal.SIGINT) is not signal.SIG_IGN
