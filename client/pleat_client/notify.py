"""Notify: how the daemon tells its service manager that it is ready, what it does, and that it still turns.

systemd's protocol: one datagram of `KEY=value` lines to the socket that NOTIFY_SOCKET names. Without that variable
nothing is said; a manager that does not listen is no reason to stop working. The sign of life comes from a task on the
daemon's own event loop: a loop that hangs falls silent, and the manager starts the daemon afresh.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Mapping

READY, STOPPING, ALIVE = "READY=1", "STOPPING=1", "WATCHDOG=1"
PINGS = 3  # signs of life in the time after which a silent daemon is given up


class Notifier:
    """The manager's end, as `environment` names it; `every_s`: seconds between signs of life, None = not asked for."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        named = environment.get("NOTIFY_SOCKET", "")
        self._address = f"\0{named[1:]}" if named.startswith("@") else named  # @: a name without a file
        self.every_s = _every_s(environment) if self._address else None

    def say(self, *lines: str) -> None:
        """Tell the manager, in one datagram; what it does not take at once is lost."""
        if not self._address:
            return
        data = "\n".join(" ".join(line.splitlines()) for line in lines).encode()
        kind = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, kind) as to:
            to.sendto(data, self._address)

    async def keep_alive(self) -> None:
        """Say that this event loop turns, for as long as it does."""
        while self.every_s is not None:
            self.say(ALIVE)
            await asyncio.sleep(self.every_s)


def _every_s(environment: Mapping[str, str]) -> float | None:
    """None as well where the watchdog is meant for another process, from which the variables were inherited."""
    wanted = environment.get("WATCHDOG_USEC", "")
    meant = environment.get("WATCHDOG_PID") or str(os.getpid())
    if not wanted.isdecimal() or int(wanted) == 0 or meant != str(os.getpid()):
        return None
    return int(wanted) / 1e6 / PINGS
