"""One life of the daemon: lock, store, child, link and signals put together; the exit code is what comes back."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

from pleat_client import lock, status, thrift
from pleat_client.child import Limits, Trainer
from pleat_client.config import Config
from pleat_client.daemon import Daemon
from pleat_client.link import Link
from pleat_client.notify import READY, STOPPING, Notifier
from pleat_client.probe import board, cgroup
from pleat_client.probe.files import ROOT
from pleat_client.store import Store

INTERRUPTED = 130  # what a shell expects after Ctrl-C
GROUP_SHARE = 31 / 32  # of a container's or unit's limit that daemon and trainer may hold; the rest is the kernel's own
_EXITS = {signal.SIGINT: INTERRUPTED, signal.SIGTERM: 0}
_Result = TypeVar("_Result")
log = logging.getLogger("pleat")


def run(config: Config) -> int:
    """Serve until a signal: 130 after Ctrl-C, 0 after SIGTERM. Raises PleatError for what only a person can mend."""
    thrift.map_large_buffers()
    with lock.hold(config.state):
        return asyncio.run(_serve(config, Notifier(os.environ)))


def trainer(config: Config) -> Trainer:
    """The child for these settings, not yet started."""
    command = [sys.executable, "-m", "pleat_client.worker", "--store", str(config.state), "--data", str(config.data)]
    threads = str(config.threads or board.threads())
    return Trainer(
        [*command, "--holdout", str(config.holdout), "--accelerator", config.accelerator],
        limits(config),
        {
            "OMP_NUM_THREADS": threads,  # else OpenMP starts a thread for every core that a container only shows
            "MALLOC_ARENA_MAX": "1",  # a heap for every thread keeps up to 30 MB more
        },
    )


def limits(config: Config, root: Path = ROOT) -> Limits:
    """What daemon and trainer may hold: the owner's budget, and most of what a container or unit allows."""
    group = cgroup.memory_limit(root)
    return Limits(config.memory, config.idle, None if group is None else int(GROUP_SHARE * group))


async def _serve(config: Config, manager: Notifier) -> int:
    stopped: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    stopped.add_done_callback(lambda _: manager.say(STOPPING))
    _listen(stopped)
    store, child = Store(config.state), trainer(config)
    secret, daemon = store.identity(), Daemon(config, store, child)
    daemon.on_status = lambda said: manager.say(f"STATUS={status.words(said)}")
    if warning := advice(config):
        log.warning(warning)
    alive = asyncio.ensure_future(manager.keep_alive())
    try:
        profile = await _until(stopped, daemon.profile())
        if profile is not None:
            manager.say(READY)  # whether or not the server can be reached: it may start later
            link = Link(
                config.server,
                daemon,
                name=config.name,
                secret=secret,
                profile=lambda: profile,
                ca=config.ca,
                cert=config.cert,
                key=config.key,
                insecure=config.insecure,
            )
            await _joined(stopped, link, daemon)
        return stopped.result()
    finally:
        alive.cancel()
        await child.stop()


async def _joined(stopped: asyncio.Future[int], link: Link, daemon: Daemon) -> None:
    """Link and daemon side by side, until a signal or until one of them ends with an error, which is raised."""
    tasks: list[asyncio.Future[None]] = [asyncio.ensure_future(link.run()), asyncio.ensure_future(daemon.serve(link))]
    try:
        both: list[asyncio.Future[Any]] = [stopped, *tasks]
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            if task.done():
                task.result()
    finally:
        tasks[1].cancel()
        await asyncio.wait(tasks[1:])  # it answers what it leaves undone, which the link still has to carry
        await link.stop()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _until(stopped: asyncio.Future[int], doing: Coroutine[Any, Any, _Result]) -> _Result | None:
    """What `doing` brings; None, and it is cancelled, when a signal comes first."""
    task: asyncio.Future[_Result] = asyncio.ensure_future(doing)
    both: list[asyncio.Future[Any]] = [stopped, task]
    await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
    if task.done():
        return task.result()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    return None


def _listen(stopped: asyncio.Future[int]) -> None:
    def stop(code: int) -> None:
        if not stopped.done():
            stopped.set_result(code)

    loop = asyncio.get_running_loop()
    for number, code in _EXITS.items():
        loop.add_signal_handler(number, stop, code)


def advice(config: Config, root: Path = ROOT) -> str:
    """One line for a kernel that drops the memory limits of containers and units without a word; "" for another."""
    if not board.memory_groups_off(root):
        return ""
    kept = "--memory is still kept" if config.memory is not None else "give --memory, which pleat keeps itself"
    return (
        f"memory limits of systemd and Docker do nothing here: the kernel has memory groups switched off; {kept}. "
        f"To have them, {board.switch_groups_on(root)} and reboot"
    )
