"""The real carrier and real links on loopback: orders down, reports up, and nothing lost when something breaks."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from pleat.exchange import messages
from pleat.exchange.body import order_of
from pleat.exchange.messages import Begin, Chunk, Returned
from pleat.exchange.order import OrderId
from pleat.exchange.report import Budgets, Heartbeat, Profile
from pleat.exchange.wire import order_to_bytes
from pleat_server.carrier import Joined, Left, Pulse, Rejected, Reported, Verdict
from pleat_server.link.servicer import Limits
from support.fleet import RUN, Fleet, Heard, OpenDesk, RawDevice, in_time, order, report, steady_address

LARGE = bytes(range(256)) * (12 << 10)  # 3 MiB


def answers(frame: bytes = b"update", device: str = "a") -> Callable[[bytes], tuple[str, bytes]]:
    """A handler's answer: a report on whatever order came."""

    def answer(data: bytes) -> tuple[str, bytes]:
        told = order_of(data)
        _, round, rank = told.split("/")
        return told, report(device, int(round), int(rank), frame)

    return answer


@in_time
async def test_an_order_goes_down_and_its_report_comes_up_durable_and_acknowledged(tmp_path: Path) -> None:
    async with Fleet(tmp_path) as fleet:
        heard, sent = Heard(answers(LARGE)), order(frame=LARGE)
        profile = Profile("Pi 4", samples=360, budgets=Budgets(upload_bytes=2_000_000))
        link = fleet.device("a", heard, profile=lambda: profile)
        joined = await fleet.event(Joined)
        fleet.desk.open[sent.id] = "a"
        assert fleet.carrier.send(sent)
        await heard.until("ack")
        told = await fleet.event(Reported)
        assert (joined.device, joined.profile) == ("a", profile)
        assert fleet.carrier.devices() == {"a": joined}
        assert heard.orders == [order_to_bytes(sent)]
        assert fleet.spool.read(sent.id) == report(frame=LARGE)
        assert (told.order_id, told.nbytes) == (sent.id, len(report(frame=LARGE)))
        assert told.up_s > 0
    assert fleet.carrier.traffic()["a"].up == link.bytes_up > len(LARGE)
    assert fleet.carrier.traffic()["a"].down == link.bytes_down > len(LARGE)


@in_time
async def test_heartbeats_notices_and_cancels_pass(tmp_path: Path) -> None:
    async with Fleet(tmp_path) as fleet:
        heard = Heard()
        link = fleet.device("a", heard)
        await heard.until("joined")
        link.beat(Heartbeat(load=0.5, state="training"))
        assert (await fleet.event(Pulse)).heartbeat == Heartbeat(load=0.5, state="training")
        fleet.carrier.notify("a", "idle: nothing fits")
        assert await heard.until("notify") == ("notify", "idle: nothing fits")
        fleet.carrier.send(order())
        await heard.until("order")
        fleet.carrier.cancel(order().id)
        assert await heard.until("cancel") == ("cancel", "run-1/1/0")


@in_time
async def test_a_device_may_start_before_the_server_and_stays_for_the_next_run(tmp_path: Path) -> None:
    address = steady_address()
    first = Fleet(tmp_path / "1", listen=address)
    await first.close()
    heard = Heard()
    link_home = Fleet(tmp_path / "2")
    link_home.device("a", heard, address=address)
    lost = await heard.until("lost")
    assert f"cannot reach {address}" in lost[1]
    assert "refused" in lost[1].lower()
    second = Fleet(tmp_path / "3", listen=address)
    await heard.until("joined")
    await second.close()
    await heard.until("lost", word="the server is closing")
    third = Fleet(tmp_path / "4", listen=address)
    await heard.until("joined", 2)
    await link_home.close()
    await third.close()


@in_time
async def test_reports_made_while_away_are_sent_at_the_next_join(tmp_path: Path) -> None:
    address = steady_address()
    first = Fleet(tmp_path, listen=address)
    heard = Heard()
    link_home = Fleet(tmp_path / "elsewhere")
    link = link_home.device("a", heard, address=address)
    await heard.until("joined")
    await first.close()
    await heard.until("lost")
    file = tmp_path / "staged"
    file.write_bytes(report(rank=1, frame=LARGE))
    link.report("run-1/1/0", report())
    link.report("run-1/1/1", file)
    second = Fleet(tmp_path, listen=address)
    second.desk.open.update({order(rank=0).id: "a", order(rank=1).id: "a"})
    await heard.until("ack", 2)
    assert second.spool.ids(RUN, 1) == [OrderId(RUN, 1, 0), OrderId(RUN, 1, 1)]
    assert second.spool.read(OrderId(RUN, 1, 1)) == file.read_bytes()
    await link_home.close()
    await second.close()


@in_time
async def test_a_report_that_is_durable_already_is_acknowledged_again_and_told_to_the_loop_once(tmp_path: Path) -> None:
    async with Fleet(tmp_path) as fleet:
        fleet.desk.open[order().id] = "a"
        heard = Heard()
        link = fleet.device("a", heard)
        await heard.until("joined")
        link.report("run-1/1/0", report())
        await heard.until("ack")
        link.report("run-1/1/0", report())
        await heard.until("ack", 2)
        fleet.carrier.notify("a", "after")
        await heard.until("notify")
        assert len([e for e in fleet.carrier.poll(0) if isinstance(e, Reported)]) == 1


@in_time
async def test_a_report_on_an_unknown_order_is_returned_and_leaves_nothing(tmp_path: Path) -> None:
    async with Fleet(tmp_path) as fleet:
        heard = Heard()
        link = fleet.device("a", heard)
        await heard.until("joined")
        link.report("run-0/7/3", report(frame=LARGE))
        _, told, reason = await heard.until("returned")
        assert (told, reason.split(":")[0]) == ("run-0/7/3", "late")
        link.report("run-1/1/0", report(frame=b"small"))
        await heard.until("returned", 2)
        assert fleet.files() == []


@in_time
async def test_an_order_of_another_device_cannot_be_answered(tmp_path: Path) -> None:
    async with Fleet(tmp_path) as fleet:
        fleet.desk.open[order().id] = "b"
        heard = Heard()
        link = fleet.device("a", heard)
        await heard.until("joined")
        link.report("run-1/1/0", report())
        await heard.until("returned")
        assert fleet.files() == []


@in_time
async def test_a_bad_report_is_returned_with_the_reason_and_the_next_one_is_taken(tmp_path: Path) -> None:
    async with Fleet(tmp_path) as fleet:
        fleet.desk.open.update({order(rank=0).id: "a", order(rank=1).id: "a"})
        heard = Heard()
        link = fleet.device("a", heard)
        await heard.until("joined")
        link.report("run-1/1/0", report(rank=0, frame=b"bad"))
        assert "frame is bad" in (await heard.until("returned"))[2]
        assert "frame is bad" in (await fleet.event(Rejected)).reason
        link.report("run-1/1/1", report(rank=1))
        await heard.until("ack")
        assert [p.name.split(".")[0] for p in fleet.files()] == ["000001"]


class ClosingDesk(OpenDesk):
    """A desk whose round closes while a report is checked."""

    def admit(self, device: str, order_id: OrderId, data: bytes) -> None:
        self.open.clear()


class BrokenDesk(OpenDesk):
    def admit(self, device: str, order_id: OrderId, data: bytes) -> None:
        raise ZeroDivisionError("a bug")


@in_time
async def test_a_report_whose_round_closes_while_it_is_checked_is_returned(tmp_path: Path) -> None:
    async with Fleet(tmp_path, desk=ClosingDesk) as fleet:
        fleet.desk.open[order().id] = "a"
        heard = Heard()
        link = fleet.device("a", heard)
        await heard.until("joined")
        link.report("run-1/1/0", report())
        assert "late" in (await heard.until("returned"))[2]
        assert fleet.files() == []


@in_time
async def test_a_bug_in_the_check_returns_the_report_and_is_said_aloud(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with Fleet(tmp_path, desk=BrokenDesk) as fleet:
        fleet.desk.open[order().id] = "a"
        heard = Heard()
        link = fleet.device("a", heard)
        await heard.until("joined")
        link.report("run-1/1/0", report())
        assert "ZeroDivisionError" in (await heard.until("returned"))[2]
        assert "ZeroDivisionError" in caplog.text
        assert fleet.files() == []


class SlowDesk(OpenDesk):
    """A desk that takes its time over a report."""

    go = threading.Event()

    def admit(self, device: str, order_id: OrderId, data: bytes) -> None:
        self.go.wait(20)


@in_time
async def test_while_a_report_is_checked_the_session_goes_on(tmp_path: Path) -> None:
    async with Fleet(tmp_path, desk=SlowDesk) as fleet:
        fleet.desk.open[order().id] = "a"
        heard = Heard()
        link = fleet.device("a", heard)
        await heard.until("joined")
        link.report("run-1/1/0", report())
        link.beat(Heartbeat(load=1.0))
        await fleet.event(Pulse)
        fleet.carrier.notify("a", "still here")
        await heard.until("notify")
        assert "ack" not in heard.kinds()
        SlowDesk.go.set()
        await heard.until("ack")


@in_time
async def test_a_full_disk_loses_nothing_and_the_device_tries_again(tmp_path: Path) -> None:
    async with Fleet(tmp_path) as fleet:
        fleet.desk.open[order().id] = "a"
        room, fleet.spool._reserve = fleet.spool._reserve, 1 << 60
        heard = Heard()
        link = fleet.device("a", heard)
        await heard.until("joined")
        link.report("run-1/1/0", report(frame=LARGE))
        assert "disk full" in (await heard.until("lost"))[1]
        assert "disk full" in (await fleet.event(Rejected)).reason
        fleet.spool._reserve = room
        await heard.until("ack")
        assert fleet.spool.read(order().id) == report(frame=LARGE)


@in_time
async def test_an_order_is_not_sent_to_a_device_that_is_away_nor_twice_to_one_that_has_it(tmp_path: Path) -> None:
    async with Fleet(tmp_path) as fleet:
        assert not fleet.carrier.send(order())
        heard = Heard(working=["run-1/1/0"])
        fleet.device("a", heard)
        await heard.until("joined")
        assert fleet.carrier.send(order(frame=LARGE))
        assert fleet.carrier.send(order(rank=1))
        await heard.until("order")
        assert heard.orders == [order_to_bytes(order(rank=1))]
    assert fleet.carrier.traffic()["a"].down < 1000


@in_time
async def test_a_cancelled_order_stops_half_way_down(tmp_path: Path) -> None:
    async with Fleet(tmp_path) as fleet:
        device = RawDevice(fleet.address)
        await device.join("a")
        fleet.carrier.send(order(frame=bytes(64 << 20)))
        assert isinstance(await device.hear(), Begin)
        fleet.carrier.cancel(order().id)
        said = []
        while not isinstance(message := await device.hear(), messages.Cancel):
            said.append(type(message))
        assert set(said) <= {Chunk, messages.Stop}
        assert said.count(Chunk) < 64
        await device.vanish()


@in_time
async def test_a_stream_that_breaks_in_the_middle_of_a_report_leaves_nothing(tmp_path: Path) -> None:
    async with Fleet(tmp_path) as fleet:
        fleet.desk.open[order().id] = "a"
        device = RawDevice(fleet.address)
        await device.join("a")
        await device.say(Begin("run-1/1/0", len(LARGE)))
        await device.say(Chunk(LARGE[: 1 << 20]))
        while not fleet.files():
            await asyncio.sleep(0.01)
        await device.vanish()
        await fleet.event(Left)
        await fleet.emptied()
        assert not fleet.spool.has(order().id)


@in_time
async def test_a_report_given_up_leaves_nothing_and_the_next_one_is_taken(tmp_path: Path) -> None:
    async with Fleet(tmp_path) as fleet:
        fleet.desk.open[order().id] = "a"
        device = RawDevice(fleet.address)
        await device.join("a")
        await device.say(Begin("run-1/1/0", len(LARGE)))
        await device.say(Chunk(LARGE[: 1 << 20]))
        await device.say(messages.Stop("changed my mind"))
        await device.say(Begin("run-1/1/0", len(report()), report()))
        assert await device.hear() == messages.Ack("run-1/1/0")
        assert fleet.spool.read(order().id) == report()
        assert len(fleet.files()) == 1
        await device.vanish()


@in_time
async def test_a_report_of_a_tebibyte_is_refused_before_memory_or_disk_is_taken(tmp_path: Path) -> None:
    async with Fleet(tmp_path) as fleet:
        fleet.desk.open[order().id] = "a"
        device = RawDevice(fleet.address)
        await device.join("a")
        await device.say(Begin("run-1/1/0", 1 << 40))
        told = await device.hear()
        assert isinstance(told, Returned)
        assert told.reason == f"report of {1 << 40} bytes, the limit is {1 << 30}"
        await device.say(Chunk(bytes(1 << 20)))
        await device.say(messages.Stop())
        await device.say(Begin("run-1/1/0", len(report()), report()))
        assert await device.hear() == messages.Ack("run-1/1/0")
        await device.vanish()


@in_time
async def test_an_order_larger_than_a_device_takes_comes_back_refused_with_the_numbers(tmp_path: Path) -> None:
    async with Fleet(tmp_path) as fleet:
        fleet.desk.open[order().id] = "a"
        heard = Heard()
        fleet.device("a", heard, largest=1000)
        await heard.until("joined")
        fleet.carrier.send(order(frame=LARGE))
        await heard.until("ack")
        assert b"this device takes at most 1000" in fleet.spool.read(order().id)
        assert "order" not in heard.kinds()


@in_time
async def test_a_report_whose_file_is_gone_is_not_sent_and_others_are(tmp_path: Path) -> None:
    async with Fleet(tmp_path) as fleet:
        fleet.desk.open.update({order(rank=n).id: "a" for n in range(3)})
        heard = Heard()
        link = fleet.device("a", heard)
        await heard.until("joined")
        cut = tmp_path / "cut"
        cut.write_bytes(LARGE)
        link.report("run-1/1/0", tmp_path / "nowhere")
        link.report("run-1/1/1", cut)
        cut.write_bytes(b"short")
        link.report("run-1/1/2", report(rank=2))
        await heard.until("ack")
        assert heard.lines[-1] == ("ack", "run-1/1/2")
        assert list(link.device.reports) == []


@in_time
async def test_both_streams_of_one_report_are_acknowledged_and_one_is_kept(tmp_path: Path) -> None:
    async with Fleet(tmp_path) as fleet:
        fleet.desk.open[order().id] = "a"
        old, new = RawDevice(fleet.address), RawDevice(fleet.address)
        data = report(frame=LARGE)
        await old.join("a")
        await old.say(Begin("run-1/1/0", len(data)))
        await old.say(Chunk(data[: 1 << 20]))
        await new.join("a")
        await new.say(Begin("run-1/1/0", len(data)))
        for at in range(0, len(data), 1 << 20):
            await new.say(Chunk(data[at : at + (1 << 20)]))
        assert await new.hear() == messages.Ack("run-1/1/0")
        assert await old.hear() is None
        assert fleet.spool.read(order().id) == data
        while len(fleet.files()) > 1:
            await asyncio.sleep(0.01)
        await old.vanish()
        await new.vanish()


class OftenAsked(OpenDesk):
    """Says TAKE to every report of an open order at first sight, as if each had come before the other was durable."""

    seen = 0

    def verdict(self, device: str, order_id: OrderId) -> Verdict:
        self.seen += 1
        return Verdict.TAKE if self.seen in (1, 3) else super().verdict(device, order_id)


@in_time
async def test_a_report_that_becomes_durable_while_its_twin_comes_in_is_told_once(tmp_path: Path) -> None:
    async with Fleet(tmp_path, desk=OftenAsked) as fleet:
        fleet.desk.open[order().id] = "a"
        device = RawDevice(fleet.address)
        await device.join("a")
        for _ in range(2):
            await device.say(Begin("run-1/1/0", len(report()), report()))
            assert await device.hear() == messages.Ack("run-1/1/0")
        assert len(fleet.files()) == 1
        await device.vanish()
        await fleet.event(Left)
        assert len([e for e in fleet.events if isinstance(e, Reported)]) == 1


@in_time
async def test_two_hundred_sessions_at_once_and_every_byte_is_counted(tmp_path: Path) -> None:
    many = 200
    async with Fleet(tmp_path, caps=Limits(ping_s=20.0)) as fleet:
        told = [Heard(answers(bytes([n]) * 20_000, f"d{n}")) for n in range(many)]
        links = [fleet.device(f"d{n}", heard) for n, heard in enumerate(told)]
        for heard in told:
            await heard.until("joined")
        assert len(fleet.carrier.devices()) == many
        for n in range(many):
            sent = order(f"d{n}", rank=n, frame=bytes([n]) * 20_000)
            fleet.desk.open[sent.id] = f"d{n}"
            assert fleet.carrier.send(sent)
        for n, heard in enumerate(told):
            await heard.until("ack")
            assert heard.orders == [order_to_bytes(order(f"d{n}", rank=n, frame=bytes([n]) * 20_000))]
        assert len(fleet.spool.ids(RUN, 1)) == many
        for n in range(many):
            assert fleet.spool.read(OrderId(RUN, 1, n)) == report(f"d{n}", 1, n, bytes([n]) * 20_000)
    traffic = fleet.carrier.traffic()
    assert len(traffic) == many
    assert [(t.up, t.down) for t in (traffic[f"d{n}"] for n in range(many))] == [
        (link.bytes_up, link.bytes_down) for link in links
    ]
    assert all(20_000 < t.up < 20_500 and 20_000 < t.down < 20_500 for t in traffic.values())
