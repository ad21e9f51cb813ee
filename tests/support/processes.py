"""Real servers and daemons as processes of their own: started, watched through what they write, killed by their pid."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pleat_server.demo import DAEMON

PATIENCE_S = 90.0


def until(condition: Callable[[], Any], what: str, patience_s: float = PATIENCE_S) -> Any:
    """Wait for `condition` to hold, and return it; fails, saying `what` was waited for."""
    end, pause = time.monotonic() + patience_s, threading.Event()
    while not (found := condition()):
        assert time.monotonic() < end, f"waited {patience_s:.0f} s in vain for {what}"
        pause.wait(0.02)
    return found


def free_port() -> int:
    """A port that was free a moment ago; for servers that must come back at the same address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass
class Processes:
    """Every process started through this is dead after `stop`."""

    folder: Path
    running: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def server(self, *words: str) -> subprocess.Popen[bytes]:
        """`pleat WORDS`, its output in `folder`/server.log."""
        return self._start("server", [sys.executable, "-m", "pleat_server.cli", *words])

    def device(self, name: str, address: str, data: Path, *words: str) -> subprocess.Popen[bytes]:
        """`pleat-client run` as `name`, its state in `folder`/NAME, its output in `folder`/NAME.log."""
        own = ["run", "--server", address, "--data", str(data), "--name", name, "--state", str(self.folder / name)]
        return self._start(name, [sys.executable, "-c", DAEMON, *own, "--threads", "1", *words])

    def _start(self, name: str, command: list[str]) -> subprocess.Popen[bytes]:
        with (self.folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(command, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self.running.append(process)
        return process

    def log(self, name: str) -> str:
        path = self.folder / f"{name}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def status(self, name: str) -> dict[str, Any]:
        """What the daemon `name` last said of itself; {} before it said anything."""
        try:
            found: dict[str, Any] = json.loads((self.folder / name / "status.json").read_bytes())
        except (FileNotFoundError, json.JSONDecodeError):
            return {}
        return found

    def stop(self) -> None:
        for process in self.running:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
        for process in self.running:
            process.wait()


def rounds_in(run: Path) -> list[dict[str, Any]]:
    """The whole lines of a run's journal."""
    path = run / "journal.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]
