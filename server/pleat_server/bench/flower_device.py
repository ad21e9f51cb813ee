"""Flower's own stack on loopback: a SuperLink, SuperNodes and one `flwr run`, for figures beside ours.

Needs private folders only; nothing is downloaded (telemetry, update check and dependency installation are off).
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from pleat.errors import LocalError

BIN = Path(sys.executable).parent
START_S = 90.0
_PYPROJECT = """
[project]
name = "pleat-bench"
version = "1.0.0"

[tool.flwr.app]
publisher = "pleat"

[tool.flwr.app.components]
serverapp = "pleat_bench:server"
clientapp = "pleat_bench:client"
"""
_CONFIG = """
[superlink]
default = "bench"

[superlink.bench]
address = "127.0.0.1:{port}"
insecure = true
"""


def write_app(folder: Path, code: str) -> Path:
    """A Flower app whose module `pleat_bench` is `code`, with `server` and `client` in it."""
    app = folder / "app"
    app.mkdir(parents=True, exist_ok=True)
    (app / "pyproject.toml").write_text(_PYPROJECT)
    (app / "pleat_bench.py").write_text(code)
    return app


@contextlib.contextmanager
def superlink(folder: Path) -> Iterator[int]:
    """A SuperLink with its files under `folder`; its port."""
    home = folder / "flwr"
    home.mkdir(parents=True, exist_ok=True)
    port = free_port()
    (home / "config.toml").write_text(_CONFIG.format(port=port))
    words = ["flower-superlink", "--insecure", "--disable-runtime-dependency-installation", "--port", str(port)]
    with process(words, folder / "superlink.log", environment(folder)):
        _wait_for(port, folder / "superlink.log")
        yield port


@contextlib.contextmanager
def supernode(folder: Path, port: int, name: str) -> Iterator[subprocess.Popen[bytes]]:
    """A SuperNode that serves the SuperLink at `port`; its process, whose children belong to the device too."""
    words = ["flower-supernode", "--insecure", "--superlink", f"127.0.0.1:{port}", "--port", str(free_port())]
    with process(words, folder / f"{name}.log", environment(folder)) as node:
        yield node


def submit(folder: Path, app: Path) -> subprocess.Popen[bytes]:
    """`flwr run`, which hands the app over and ends; the SuperLink goes on with it."""
    log = (folder / "run.log").open("wb")
    with log:
        return subprocess.Popen(
            [str(BIN / "flwr"), "run", str(app), "bench"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment(folder),
        )


def environment(folder: Path) -> dict[str, str]:
    return {
        **os.environ,
        "FLWR_HOME": str(folder / "flwr"),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "PATH": f"{BIN}:{os.environ.get('PATH', '')}",
    }


@contextlib.contextmanager
def process(words: Sequence[str], log: Path, env: Mapping[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """A program of this environment and all its children, ended together."""
    with log.open("wb") as out:
        started = subprocess.Popen(
            [str(BIN / words[0]), *words[1:]],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            env=dict(env),
            start_new_session=True,
        )
    try:
        yield started
    finally:
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(started.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                started.wait(5)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


def _wait_for(port: int, log: Path) -> None:
    end = time.monotonic() + START_S
    while time.monotonic() < end:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.2)
    raise LocalError(f"Flower's SuperLink did not listen on port {port} within {START_S:.0f} s; see {log}")
