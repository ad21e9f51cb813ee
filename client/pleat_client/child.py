"""The trainer child as the daemon sees it: started when there is work, handed orders one at a time, cancelled, stopped.

The child holds torch, the daemon does not. The kernel is told to take the child first when memory runs out; its death
is an answer (`Died`), never the daemon's. It leaves after `idle_s` without an order, which gives its memory back.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pleat.errors import LocalError, UseError
from pleat_client import pipe, wheels
from pleat_client.probe import memory
from pleat_client.probe.files import ROOT

PATIENCE_S = 1.0  # an order that was cancelled has so long to stop by itself
LEAVING_S = 10.0  # a child that could not start has so long to end with its own exit status
WATCH_S = 0.25  # how often the memory budget is looked at while the child works
_HEAD = 4  # bytes of a frame's length
_SLICE = 1 << 16
_SACRIFICE = "800"  # oom_score_adj: of all processes of this size the child goes first


@dataclass(frozen=True)
class Died:
    """The child ended without an answer. `killed`: by the kernel, or by us for the owner's memory budget.

    `peak_bytes`: the most that this process and the child were seen to hold, at looks `WATCH_S` apart.
    """

    reason: str
    killed: bool
    peak_bytes: int | None = None


@dataclass(frozen=True)
class Limits:
    """Of this process and the child together, None = none. `memory_bytes`: the owner's budget for what is resident;
    `group_bytes`: what a container or unit leaves them, in which pages of files do not count, for the kernel can drop
    those; `idle_s`: see the module."""

    memory_bytes: int | None = None
    idle_s: float = 30.0
    group_bytes: int | None = None


@dataclass
class _Running:
    """One life of the child."""

    process: asyncio.subprocess.Process
    ready: pipe.Ready
    killed_for: str = ""  # why we killed it, if we did
    outgrown: bool = False  # we killed it for its memory
    cancelled: str = ""  # the order that is to stop
    busy: bool = False
    highest: int = 0  # bytes seen while at this order, of this process and the child
    listens: bool = False  # the order has gone out whole: another message may follow it


@dataclass
class Trainer:
    """Parent end of the child. Calls come from one event loop; orders are done one after the other."""

    command: Sequence[str]
    limits: Limits = Limits()
    environment: Mapping[str, str] = field(default_factory=dict)
    heard: Callable[[pipe.Started | pipe.Progress], None] = lambda answer: None
    root: Path = ROOT
    _running: _Running | None = field(default=None, init=False)
    _leaving: asyncio.TimerHandle | None = field(default=None, init=False)

    @property
    def pid(self) -> int | None:
        return self._running.process.pid if self._running is not None else None

    async def ready(self) -> pipe.Ready:
        """Start the child if it does not run, and tell what shard it read. Raises UseError for a shard
        that cannot be used, LocalError where it cannot start."""
        self._stay()
        if self._running is not None and self._running.process.returncode is None:
            return self._running.ready
        process = await self._spawn()
        answer = await self._first_answer(process)
        if isinstance(answer, pipe.Ready):
            self._running = _Running(process, answer)
            self._leave_later()
            return answer
        code = await _reap(process, LEAVING_S)
        if isinstance(answer, pipe.Failed):
            raise UseError(answer.reason) if code == UseError.exit_code else LocalError(answer.reason)
        raise LocalError(f"the trainer could not start: {wheels.ending(code)}; see its lines above")

    async def do(self, request: pipe.Train) -> pipe.Staged | pipe.Failed | Died:
        """Hand one order to the child and wait for its end; whoever gives up waiting kills it."""
        await self.ready()
        self._stay()
        running = self._running
        if running is None:
            return Died("the trainer ended before it began", False)
        guard = asyncio.ensure_future(self._guard(running))
        running.busy, running.highest = True, 0
        slices = _slices(pipe.encode(request))
        del request  # an order may be as large as the model: here it goes as it is written
        try:
            return await self._exchange(running, slices)
        except asyncio.CancelledError:
            _kill(running.process)
            raise
        finally:
            running.busy = running.listens = False
            guard.cancel()
            self._leave_later()

    def cancel(self, order: str) -> None:
        """Stop working on `order`; a child that does not stop within `PATIENCE_S` is killed."""
        running = self._running
        if running is None or running.process.returncode is not None or running.process.stdin is None:
            return
        running.cancelled = order
        if running.listens:
            _tell_cancelled(running)
        asyncio.get_running_loop().call_later(PATIENCE_S, self._kill_if_still_at, running)

    async def stop(self) -> None:
        """End the child: one that works is killed, another is asked to leave."""
        self._stay()
        running, self._running = self._running, None
        if running is None or running.process.returncode is not None:
            return
        if running.busy:
            _kill(running.process)
        with contextlib.suppress(ConnectionError):
            if running.process.stdin is not None:
                running.process.stdin.write(pipe.encode(pipe.Stop()))
                running.process.stdin.close()
        try:
            await asyncio.wait_for(running.process.wait(), PATIENCE_S)
        except asyncio.TimeoutError:
            _kill(running.process)
            await running.process.wait()

    async def _spawn(self) -> asyncio.subprocess.Process:
        try:
            process = await asyncio.create_subprocess_exec(
                *self.command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                env={**os.environ, **self.environment},
                start_new_session=True,  # Ctrl-C in a terminal is the daemon's to handle
            )
        except OSError as error:
            raise LocalError(f"the trainer could not be started: {error}") from None
        with contextlib.suppress(OSError):
            (self.root / f"proc/{process.pid}/oom_score_adj").write_text(_SACRIFICE)
        return process

    async def _first_answer(self, process: asyncio.subprocess.Process) -> pipe.Answer | None:
        try:
            return await _answer(process)
        except BaseException:
            _kill(process)
            await process.wait()
            raise

    async def _exchange(self, running: _Running, slices: deque[bytes]) -> pipe.Staged | pipe.Failed | Died:
        process = running.process
        running.cancelled = ""
        try:
            while slices and process.stdin is not None:
                process.stdin.write(slices.popleft())
                await process.stdin.drain()
            running.listens = True
            if running.cancelled:
                _tell_cancelled(running)
            while True:
                answer = await _answer(process)
                if isinstance(answer, (pipe.Staged, pipe.Failed)):
                    running.cancelled = ""
                    return answer
                if answer is None:
                    break
                if isinstance(answer, (pipe.Started, pipe.Progress)):
                    self.heard(answer)
        except (ConnectionError, LocalError) as error:
            running.killed_for = running.killed_for or str(error)
            _kill(process)
        if self._running is running:
            self._running = None
        return _verdict(running, await _reap(process))

    async def _guard(self, running: _Running) -> None:
        """Watch what this process and the child hold, and kill the child when that outgrows the limit: on a Pi nobody
        else would, and in a container the kernel would choose whom to kill."""
        pids = (None, running.process.pid)
        while True:
            used = _sum(memory.rss_bytes(pid, self.root) for pid in pids)
            running.highest = max(used, running.highest)
            over = _over(used, self.limits.memory_bytes, "the memory budget")
            if not over and self.limits.group_bytes is not None:
                own = _sum(memory.own_bytes(pid, self.root) for pid in pids)
                over = _over(own, self.limits.group_bytes, "this container's or unit's memory")
            if over:
                running.outgrown, running.killed_for = True, over
                _kill(running.process)
                return
            await asyncio.sleep(WATCH_S)

    def _kill_if_still_at(self, running: _Running) -> None:
        if running.cancelled and running.process.returncode is None:
            running.killed_for = running.killed_for or "cancelled"
            _kill(running.process)

    def _leave_later(self) -> None:
        self._stay()
        loop = asyncio.get_running_loop()
        self._leaving = loop.call_later(self.limits.idle_s, lambda: loop.create_task(self.stop()))

    def _stay(self) -> None:
        if self._leaving is not None:
            self._leaving.cancel()
            self._leaving = None


def _over(used: int, limit: int | None, whose: str) -> str:
    """What to say of a child that holds more than `limit`; "" of another."""
    if limit is None or used <= limit:
        return ""
    return f"used {used / 2**20:.0f} MiB of {whose} of {limit / 2**20:.0f} MiB and was stopped"


def _sum(sizes: Iterable[int | None]) -> int:
    return sum(size for size in sizes if size is not None)


def _tell_cancelled(running: _Running) -> None:
    if running.process.stdin is not None:
        with contextlib.suppress(ConnectionError):
            running.process.stdin.write(pipe.encode(pipe.Cancel(running.cancelled)))


def _verdict(running: _Running, code: int | None) -> Died:
    peak = running.highest or None
    if running.cancelled:
        return Died("cancelled", False, peak)
    if running.killed_for:
        return Died(f"the trainer {running.killed_for}", running.outgrown, peak)
    if code in wheels.KERNEL_KILLED:
        return Died("the trainer was killed by the kernel, most likely for want of memory (signal 9)", True, peak)
    return Died(f"the trainer ended: {wheels.ending(code)}", False, peak)


async def _answer(process: asyncio.subprocess.Process) -> pipe.Answer | None:
    """The child's next answer; None when it has closed its end."""
    if process.stdout is None:
        return None
    try:
        head = await process.stdout.readexactly(_HEAD)
        return pipe.decode_answer(await process.stdout.readexactly(pipe.frame_length(head)))
    except asyncio.IncompleteReadError:
        return None


def _slices(frame: bytes) -> deque[bytes]:
    """The frame in pieces: given all at once, what the pipe does not take yet would be copied once more."""
    return deque(frame[at : at + _SLICE] for at in range(0, len(frame), _SLICE))


async def _reap(process: asyncio.subprocess.Process, patience_s: float = PATIENCE_S) -> int | None:
    """The exit status of a child that has closed its pipe; None: it lingered and was killed."""
    try:
        return await asyncio.wait_for(process.wait(), patience_s)
    except asyncio.TimeoutError:
        _kill(process)
        await process.wait()
        return None


def _kill(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.kill()
