"""Case: the board under examination. Whatever a check looks at comes from here, so that a test can put it there.

What takes long (the trial of torch, the questions to servers) is done once, when the first check asks for it.
"""

from __future__ import annotations

import os
import platform
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from pleat.errors import PleatError
from pleat_client import lock
from pleat_client.probe import board, clock, memory, throttle
from pleat_client.probe.files import ROOT

if TYPE_CHECKING:
    from pleat_client.link_ask import Reached

TRIAL_S = 240.0  # a board of 512 MB with a slow card takes minutes to load torch


@dataclass(frozen=True)
class Ran:
    """A command that ended. `code`: its exit status, None = it did not end in time and was killed."""

    code: int | None
    out: str
    err: str


Run = Callable[[Sequence[str], float], Ran]
Ask = Callable[[str, "Path | None", bool, "Path | None", "Path | None"], "Reached"]


def run_command(command: Sequence[str], patience_s: float) -> Ran:
    """Raises OSError where the command cannot be started."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=patience_s, check=False, env=environment, errors="replace"
        )
    except subprocess.TimeoutExpired:
        return Ran(None, "", "")
    return Ran(done.returncode, done.stdout, done.stderr)


def ask_server(address: str, ca: Path | None, insecure: bool, cert: Path | None, key: Path | None) -> Reached:
    from pleat_client.link_ask import ask  # gRPC: only where there is a server to ask

    return ask(address, ca, insecure, cert, key)


@dataclass
class Case:
    """`servers`: HOST:PORT each; `state`: the device's folder; `budget`: bytes the owner allows, None = all.

    The rest is the machine: where its files lie, what its kernel, its Python and its clock say, how to run a command
    and how to ask a server.
    """

    servers: tuple[str, ...]
    state: Path
    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    insecure: bool = False
    budget: int | None = None
    root: Path = ROOT
    python: tuple[int, int] = sys.version_info[:2]
    bits: int = struct.calcsize("P") * 8
    machine: str = field(default_factory=platform.machine)
    now: Callable[[], float] = time.time
    synchronised: Callable[[], bool | None] = clock.synchronised
    firmware: throttle.Run = throttle.vcgencmd
    run: Run = run_command
    ask: Ask = ask_server

    @cached_property
    def board(self) -> board.Board:
        return board.board(self.root, self.machine)

    @cached_property
    def trial(self) -> Ran | OSError:
        """torch's trial in a child, which may die of it."""
        try:
            return self.run([sys.executable, "-m", "pleat_client.trial"], TRIAL_S)
        except OSError as error:
            return error

    @cached_property
    def answers(self) -> Mapping[str, Reached | PleatError]:
        """What every server answered, or why it did not."""
        return {address: self._asked(address) for address in self.servers}

    def _asked(self, address: str) -> Reached | PleatError:
        try:
            return self.ask(address, self.ca, self.insecure, self.cert, self.key)
        except PleatError as error:
            return error

    @cached_property
    def free_bytes(self) -> int | None:
        """What daemon and trainer can have: what is free, and what they hold already if they run."""
        free, pid = memory.free_bytes(self.root), lock.holder(self.state)
        held = memory.tree_rss_bytes(pid, self.root) if pid is not None else None
        return None if free is None else free + (held or 0)

    @property
    def asks_firmware(self) -> throttle.Run | None:
        return self.firmware if self.board.kind == "pi" else None
