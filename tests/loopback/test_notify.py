"""What a service manager hears: a socket like systemd's, by file and by abstract name, and a real daemon behind it."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pleat_client.notify import ALIVE, PINGS, Notifier
from pleat_client.status import Status, words
from support.device import Lab, waiting


class Manager:
    """The manager's socket; `name` is what goes into NOTIFY_SOCKET."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(f"\0{name[1:]}" if name.startswith("@") else name)
        self._socket.settimeout(30)

    def hear(self) -> str:
        return self._socket.recv(4096).decode()

    def heard(self) -> list[str]:
        """All that came and was not listened to."""
        self._socket.setblocking(False)
        out = []
        try:
            while True:
                out.append(self._socket.recv(4096).decode())
        except BlockingIOError:
            self._socket.settimeout(30)
        return out

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(params=["file", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    made = Manager(str(tmp_path / "notify") if request.param == "file" else f"@pleat-test-{os.getpid()}")
    yield made
    made.close()


def test_one_datagram_carries_the_lines(manager: Manager) -> None:
    Notifier({"NOTIFY_SOCKET": manager.name}).say("READY=1", "STATUS=two\nlines")
    assert manager.hear() == "READY=1\nSTATUS=two lines"


@pytest.mark.parametrize("named", ["", "/no/such/socket", "@no-such-socket", "vsock:2:1"])
def test_nobody_who_listens_is_no_error(named: str) -> None:
    Notifier({"NOTIFY_SOCKET": named}).say("READY=1")


@pytest.mark.parametrize(
    ("environment", "every_s"),
    [
        ({"WATCHDOG_USEC": "6000000"}, 6 / PINGS),
        ({"WATCHDOG_USEC": "6000000", "WATCHDOG_PID": str(os.getpid())}, 6 / PINGS),
        ({"WATCHDOG_USEC": "6000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({}, None),
    ],
)
def test_signs_of_life_are_given_where_they_are_asked_for(environment: dict[str, str], every_s: float | None) -> None:
    assert Notifier({"NOTIFY_SOCKET": "/x", **environment}).every_s == every_s
    assert Notifier(environment).every_s is None, "nobody listens"


def test_an_event_loop_that_hangs_falls_silent(manager: Manager) -> None:
    every_s = 0.01

    async def life(hang_s: float) -> int:
        notifier = Notifier({"NOTIFY_SOCKET": manager.name, "WATCHDOG_USEC": str(int(every_s * PINGS * 1e6))})
        alive = asyncio.ensure_future(notifier.keep_alive())
        try:
            for _ in range(3):
                while ALIVE not in manager.heard():
                    await asyncio.sleep(every_s / 10)
            time.sleep(hang_s)  # what must not happen on the loop
            return len(manager.heard())
        finally:
            alive.cancel()

    assert asyncio.run(life(10 * every_s)) == 0


@pytest.mark.parametrize(
    ("said", "line"),
    [
        ({}, "away: starting (0 orders done)"),
        ({"notice": "cannot reach x", "state": "idle"}, "away: cannot reach x (0 orders done)"),
        ({"joined": True, "run": "r", "state": "training", "order": "r/1/0", "orders": 2, "unsent": 1},
         "joined r: training r/1/0 (2 orders done, 1 unsent)"),
        ({"state": "stopped"}, "stopped: stopped (0 orders done)"),
    ],
)  # fmt: skip
def test_the_status_is_one_line(said: dict[str, object], line: str) -> None:
    assert words(Status(name="a", server="x:1", **said)) == line  # type: ignore[arg-type]


def test_a_daemon_is_ready_before_its_server_shows_its_life_and_says_that_it_stops(
    manager: Manager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", manager.name)
    monkeypatch.setenv("WATCHDOG_USEC", "300000")
    lab = Lab(tmp_path)
    try:
        device = lab.device("127.0.0.1:1")
        heard: list[str] = []
        for _ in waiting():
            heard.append(manager.hear())
            if "READY=1" in heard:
                break
        assert heard.count(ALIVE) > 1, "signs of life while the trainer loads torch"
        for _ in waiting():
            heard.append(manager.hear())
            if heard[-1].startswith("STATUS=away: cannot reach"):
                break
        os.kill(device.process.pid, signal.SIGTERM)
        assert device.ended() == 0
        assert "STOPPING=1" in manager.heard()
    finally:
        lab.close()
