"""What the link tells the daemon and what the daemon makes of it, without a link, a child or torch."""

from __future__ import annotations

import asyncio
import logging
import sys
from pathlib import Path

import msgspec
import pytest

from pleat.exchange.body import order_of, refusal_report
from pleat.exchange.order import OrderId
from pleat.exchange.report import Heartbeat, Outcome
from pleat_client import pipe, status
from pleat_client.child import Trainer
from pleat_client.config import Config
from pleat_client.daemon import Daemon
from pleat_client.store import Store

DIES = "import sys; from pleat_client import pipe; sys.stdout.buffer.write(pipe.encode(pipe.Ready(1, 0, (1,), 2)))"

HANGS = """
import sys, threading
from pleat_client import pipe
for answer in pipe.Ready(1, 0, (1,), 2), pipe.Started("r/1/0"):
    sys.stdout.buffer.write(pipe.encode(answer))
    sys.stdout.flush()
threading.Event().wait()
"""


def body_of(order: str) -> bytes:
    """Bytes whose head names `order`: of an order the daemon reads no more."""
    return refusal_report(order, "a", Outcome.DONE, "")


class Link:
    """What the daemon asks of a link, written down."""

    def __init__(self) -> None:
        self.sent: dict[str, Path | bytes] = {}
        self.news = asyncio.Event()

    def report(self, order: str, report: Path | bytes) -> None:
        self.sent[order] = report
        self.news.set()

    def beat(self, heartbeat: Heartbeat) -> None:
        pass


def daemon(folder: Path, trainer: Trainer | None = None) -> Daemon:
    config = Config(server="localhost:1", data=folder / "shard.npz", name="a", state=folder)
    return Daemon(config, Store(folder), trainer or Trainer([sys.executable, "-c", DIES]))


async def served(made: Daemon, link: Link, *wanted: str) -> None:
    """Let it serve until the `wanted` orders have been reported."""
    serving = asyncio.ensure_future(made.serve(link))
    try:
        while not set(wanted) <= set(link.sent):
            link.news.clear()
            await asyncio.wait_for(link.news.wait(), 30)
    finally:
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)


def test_orders_waiting_are_held_and_cancelled_ones_are_not(tmp_path: Path) -> None:
    async def held() -> list[list[str]]:
        made = daemon(tmp_path)
        made.on_order(body_of("r/1/0"), 0.5)
        before = made.held()
        made.on_cancel("r/1/0")
        return [before, made.held()]

    assert asyncio.run(held()) == [["r/1/0"], []]


def test_a_newer_order_overtakes_older_ones_of_its_run_alone(tmp_path: Path) -> None:
    async def held() -> list[str]:
        made = daemon(tmp_path)
        for order in ("r/2/0", "other/1/0", "r/1/9", "r/3/0"):
            made.on_order(body_of(order), 0.0)
        return made.held()

    assert asyncio.run(held()) == ["other/1/0", "r/3/0"]


def test_every_order_ends_in_a_report_but_a_cancelled_one(tmp_path: Path) -> None:
    async def sent() -> dict[str, str]:
        made, link = daemon(tmp_path), Link()
        made.on_order(body_of("r/1/0"), 0.0)
        made.on_order(body_of("r/2/0"), 0.0)
        made.on_order(body_of("other/1/0"), 0.0)
        made.on_cancel("other/1/0")
        await served(made, link, "r/1/0", "r/2/0")
        return {order: order_of(Path(str(report)).read_bytes()) for order, report in link.sent.items()}

    assert asyncio.run(sent()) == {"r/1/0": "r/1/0", "r/2/0": "r/2/0"}


def test_progress_is_written_down_at_most_every_ten_seconds_for_cards_wear(tmp_path: Path) -> None:
    now = 0.0
    config = Config(server="localhost:1", data=tmp_path / "shard.npz", name="a", state=tmp_path)
    trainer = Trainer([sys.executable, "-c", DIES])
    Daemon(config, Store(tmp_path), trainer, clock=lambda: now)
    written = []
    for now, done in ((0.0, 0.1), (0.5, 0.2), (9.9, 0.3), (10.0, 0.4), (19.0, 0.5), (21.0, 0.6)):  # noqa: B007
        trainer.heard(pipe.Progress("r/1/0", done, 2.0))
        said = msgspec.json.decode((tmp_path / status.NAME).read_bytes(), type=status.Status)
        written.append((said.progress, said.loss))
    assert written == [(p, 2.0) for p in (0.1, 0.1, 0.1, 0.4, 0.4, 0.6)]


def test_an_order_that_ends_is_a_round_with_its_bytes_and_its_answer(tmp_path: Path) -> None:
    async def rounds() -> list[status.Done]:
        made, link = daemon(tmp_path), Link()
        made.on_order(body_of("r/1/0"), 0.0)
        await served(made, link, "r/1/0")
        made.on_returned("r/1/0", "too late")
        said = msgspec.json.decode((tmp_path / status.NAME).read_bytes(), type=status.Status)
        return list(said.rounds)

    [one] = asyncio.run(rounds())
    assert (one.order, one.outcome, one.width, one.answer) == ("r/1/0", "failed", None, "returned")
    assert (one.bytes_down, one.bytes_up > 0) == (len(body_of("r/1/0")), True)
    again = status.begun(tmp_path, status.Status(name="a", server="s:1"))
    assert again.rounds == (one,)


def test_a_stop_answers_the_order_being_done_and_those_that_wait_but_a_cancelled_one(tmp_path: Path) -> None:
    async def sent() -> dict[str, str]:
        trainer, link, begun = Trainer([sys.executable, "-c", HANGS]), Link(), asyncio.Event()
        made = daemon(tmp_path, trainer)
        trainer.heard = lambda answer: begun.set()
        made.on_order(body_of("r/1/0"), 0.0)
        made.on_order(body_of("other/1/0"), 0.0)
        made.on_order(body_of("third/1/0"), 0.0)
        made.on_cancel("third/1/0")
        serving = asyncio.ensure_future(made.serve(link))
        await asyncio.wait_for(begun.wait(), 30)
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
        assert made.held() == []
        return {order: order_of(Path(str(report)).read_bytes()) for order, report in link.sent.items()}

    assert asyncio.run(sent()) == {"r/1/0": "r/1/0", "other/1/0": "other/1/0"}
    assert [order_id.run for order_id, _ in Store(tmp_path).staged()] == ["other", "r"]


def test_what_was_staged_before_is_sent_at_the_start(tmp_path: Path) -> None:
    async def sent() -> dict[str, Path | bytes]:
        Store(tmp_path).stage(OrderId("r", 7, 0), body_of("r/7/0"))
        made, link = daemon(tmp_path), Link()
        await served(made, link, "r/7/0")
        return link.sent

    assert list(asyncio.run(sent())) == ["r/7/0"]


def test_a_report_that_cannot_be_staged_is_sent_all_the_same(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def sent() -> dict[str, Path | bytes]:
        made, link = daemon(tmp_path), Link()
        (tmp_path / "runs").write_text("a file where a folder should be")
        made.on_order(body_of("r/1/0"), 0.0)
        await served(made, link, "r/1/0")
        return link.sent

    assert isinstance(asyncio.run(sent())["r/1/0"], bytes)
    assert "unstaged" in caplog.text


def test_a_disk_that_breaks_at_the_acknowledgement_is_a_line_and_not_the_end(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: Store, order_id: OrderId) -> None:
        raise OSError(5, "Input/output error")

    async def acknowledged() -> None:
        made = daemon(tmp_path)
        Store(tmp_path).stage(OrderId("r", 1, 0), body_of("r/1/0"))
        made.on_ack("r/1/0")

    monkeypatch.setattr(Store, "commit", broken)
    with caplog.at_level(logging.ERROR):
        asyncio.run(acknowledged())
    assert "Input/output error" in caplog.text
    assert [order_id for order_id, _ in Store(tmp_path).staged()] == [OrderId("r", 1, 0)]
