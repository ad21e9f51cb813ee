"""Who is let in and who is not, and what they are told: one line each, with what to do."""

from __future__ import annotations

import asyncio
import dataclasses
import socket
from pathlib import Path

import grpc
import grpc.aio
import pytest

from pleat.errors import Fatal, UseError
from pleat.exchange import envelope, limits, messages
from pleat.exchange.messages import Ack, Chunk, Ping, Refusal, Welcome, Why
from pleat.exchange.report import Profile
from pleat_client.link import Link
from pleat_server.carrier import Joined, Left, Rejected
from pleat_server.keep.spool import Spool
from pleat_server.link.servicer import REFUSED, GrpcCarrier, Limits
from support.fleet import Fleet, Heard, OpenDesk, RawDevice, in_time, order, report
from support.pair import HELLO


async def refused(fleet: Fleet) -> str:
    """Why the last device was refused for good."""
    with pytest.raises(Fatal) as error:
        await fleet.tasks[-1][1]
    assert error.value.exit_code == 2
    assert "\n" not in str(error.value)
    return str(error.value)


@in_time
async def test_a_cloned_identity_is_refused_naming_both_addresses_while_the_first_answers(tmp_path: Path) -> None:
    async with Fleet(tmp_path) as fleet:
        first = Heard()
        fleet.device("kitchen", first, secret=bytes(32))
        await first.until("joined")
        fleet.device("cellar", Heard(), secret=bytes(32))
        text = await refused(fleet)
        (seated,) = fleet.carrier.devices().values()
        assert "in use by 'kitchen'" in text
        assert seated.address in text
        assert text.count("127.0.0.1:") == 3  # the server's, the first's, the clone's
        assert "delete the copy's state folder" in text
        assert first.kinds() == ["joined"]
    assert fleet.carrier.traffic()[REFUSED].up > 0


@in_time
async def test_two_devices_of_one_name_are_refused_and_the_first_stays(tmp_path: Path) -> None:
    async with Fleet(tmp_path) as fleet:
        first = Heard()
        fleet.device("kitchen", first, secret=b"1" * 32)
        await first.until("joined")
        fleet.device("kitchen", Heard(), secret=b"2" * 32)
        text = await refused(fleet)
        assert "the name 'kitchen' is taken" in text
        assert "--name" in text
        assert first.kinds() == ["joined"]


@in_time
async def test_a_seat_whose_holder_does_not_answer_goes_to_the_newcomer(tmp_path: Path) -> None:
    async with Fleet(tmp_path, caps=Limits(ping_s=0.1)) as fleet:
        silent = RawDevice(fleet.address)
        assert isinstance(await silent.join("kitchen", nonce=b"old"), Welcome)
        heard = Heard()
        fleet.device("kitchen", heard, secret=b"secret")
        await heard.until("joined")
        assert (await fleet.event(Left)).reason == "did not answer"
        assert isinstance(await silent.hear(), Ping)
        assert await silent.hear() is None
        await silent.vanish()


@in_time
async def test_the_same_process_takes_over_its_own_seat_without_a_ping(tmp_path: Path) -> None:
    async with Fleet(tmp_path) as fleet:
        old, new = RawDevice(fleet.address), RawDevice(fleet.address)
        await old.join("kitchen")
        assert isinstance(await new.join("kitchen"), Welcome)
        assert await old.hear() is None
        kinds = [type(e) for e in (await fleet.event(Joined, 2), *fleet.events)][1:]
        assert kinds == [Joined, Left, Joined]
        assert len(fleet.carrier.devices()) == 1
        await old.vanish()
        fleet.carrier.notify("kitchen", "still seated")
        assert await new.hear() == messages.Notice("still seated")
        await new.vanish()


@in_time
async def test_a_seat_is_free_again_when_its_holder_leaves(tmp_path: Path) -> None:
    async with Fleet(tmp_path) as fleet:
        first, second = Heard(), Heard()
        link = fleet.device("kitchen", first, secret=b"1" * 32)
        await first.until("joined")
        await link.stop()
        assert (await fleet.event(Left)).reason == "stopped"
        fleet.device("kitchen", second, secret=b"2" * 32)
        await second.until("joined")


@pytest.mark.parametrize(("protocol", "which"), [(0, "older"), (2, "newer")])
@in_time
async def test_a_wrong_protocol_version_is_answered_with_which_end_is_older(
    protocol: int, which: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Fleet(tmp_path) as fleet:
        link = fleet.device("kitchen", Heard())
        hello = dataclasses.replace(link.device.hello(Profile()), protocol=protocol, software="9.9")
        monkeypatch.setattr(link.device, "hello", lambda profile: hello)
        text = await refused(fleet)
        assert f"speaks protocol {protocol} (pleat 9.9), {which} than the server's 1" in text
        assert f"upgrade pleat on the {'device' if which == 'older' else 'server'}" in text


@in_time
async def test_a_device_that_breaks_the_protocol_is_named_and_the_others_do_not_notice(tmp_path: Path) -> None:
    async with Fleet(tmp_path) as fleet:
        fleet.desk.open[order("b").id] = "b"
        honest = Heard()
        link = fleet.device("b", honest)
        await honest.until("joined")
        device = RawDevice(fleet.address)
        await device.join("a")
        await device.raw(envelope.pack(Chunk(b"out of turn")))
        told = await device.hear()
        assert told == Refusal(Why.BROKEN, "the device may not say chunk when joined")
        assert await device.hear() is None
        broke = await fleet.event(Rejected)
        assert (broke.device, broke.order_id, broke.reason) == ("a", None, told.text)
        link.report("run-1/1/0", report("b"))
        await honest.until("ack")
        await device.vanish()


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"\xff\xff", "is not a pleat.v1.DeviceMessage"),
        (envelope.pack(Chunk(b"x")), "may not say chunk when open"),
        (envelope.pack(Ack("r/1/0")), "says nothing this version knows"),
        (envelope.pack(dataclasses.replace(HELLO, name="kitchen", identity=b"x")), "identity of 1 bytes"),
    ],
    ids=["no protobuf", "a chunk", "a word of the server", "a bad hello"],
)
@in_time
async def test_whoever_does_not_begin_with_a_hello_is_turned_away(raw: bytes, reason: str, tmp_path: Path) -> None:
    async with Fleet(tmp_path) as fleet:
        device = RawDevice(fleet.address)
        await device.raw(raw)
        device.line.send(HELLO)
        told = await device.hear()
        assert isinstance(told, Refusal)
        assert told.why is Why.BROKEN
        assert reason in told.text
        assert await device.hear() is None
        assert fleet.carrier.devices() == {}
        await device.vanish()


@in_time
async def test_whoever_says_nothing_is_turned_away(tmp_path: Path) -> None:
    async with Fleet(tmp_path, caps=Limits(hello_s=0.05)) as fleet:
        device = RawDevice(fleet.address)
        device.line.send(HELLO)
        assert await device.hear() == Refusal(Why.BROKEN, "no hello within 0.05 s")
        await device.vanish()


@in_time
async def test_a_message_beyond_the_limit_ends_the_stream_before_it_is_taken(tmp_path: Path) -> None:
    async with Fleet(tmp_path) as fleet:
        device = RawDevice(fleet.address)
        await device.join("a")
        await device.raw(bytes(limits.MESSAGE + 1))
        with pytest.raises(grpc.aio.AioRpcError, match="larger than max"):
            await device.hear()
        await device.vanish()
        await fleet.event(Left)


@in_time
async def test_a_full_server_says_so_and_the_device_comes_back(tmp_path: Path) -> None:
    async with Fleet(tmp_path, caps=Limits(devices=1)) as fleet:
        first, second = Heard(), Heard()
        link = fleet.device("a", first)
        await first.until("joined")
        fleet.device("b", second)
        assert "1 devices connected, its limit" in (await second.until("lost"))[1]
        await link.stop()
        await second.until("joined")


@in_time
async def test_a_server_that_is_not_pleat_is_told_apart_from_one_that_is_not_there(tmp_path: Path) -> None:
    other = grpc.aio.server()
    port = other.add_insecure_port("127.0.0.1:0")
    await other.start()
    heard = Heard()
    link = Link(f"127.0.0.1:{port}", heard, name="a", secret=bytes(32), profile=Profile)
    running = asyncio.ensure_future(link.run())
    assert "answers, but not as a pleat server of protocol 1" in (await heard.until("lost"))[1]
    await link.stop()
    await running
    await other.stop(None)


# ---- addresses


def carrier(tmp_path: Path, listen: str, **options: bool) -> GrpcCarrier:
    spool = Spool(tmp_path / "spool")
    return GrpcCarrier(listen, spool, OpenDesk(spool), "run-1", **options)


def test_a_port_in_use_is_one_line_that_says_what_to_type(tmp_path: Path) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        late = carrier(tmp_path, f"127.0.0.1:{port}")
        with pytest.raises(
            UseError, match=f"^cannot listen on 127.0.0.1:{port}: another program has this port.*--listen"
        ):
            late.start()
        late.close()


def test_two_servers_do_not_share_a_port(tmp_path: Path) -> None:
    first = carrier(tmp_path / "1", "127.0.0.1:0")
    second = carrier(tmp_path / "2", first.start())
    with pytest.raises(UseError, match="another program has this port"):
        second.start()
    first.close()
    second.close()


def test_an_address_of_another_machine_cannot_be_listened_on(tmp_path: Path) -> None:
    elsewhere = carrier(tmp_path, "192.0.2.1:7878", insecure=True)
    with pytest.raises(UseError, match=r"^cannot listen on 192\.0\.2\.1:7878: .*check --listen"):
        elsewhere.start()
    elsewhere.close()


def test_plaintext_to_other_machines_is_refused_at_both_ends_unless_insisted(tmp_path: Path) -> None:
    with pytest.raises(UseError, match="give --cert FILE and --key FILE, or say --insecure"):
        carrier(tmp_path, "0.0.0.0:0")
    with pytest.raises(UseError, match="--ca FILE, or say --insecure"):
        Link("10.0.0.1:7878", Heard(), name="a", secret=bytes(32), profile=Profile)
    Link("10.0.0.1:7878", Heard(), name="a", secret=bytes(32), profile=Profile, insecure=True)
    open_door = carrier(tmp_path, "0.0.0.0:0", insecure=True)
    assert open_door.start().startswith("0.0.0.0:")
    open_door.close()


@pytest.mark.parametrize("name", ["", "a b", "-a", "ä", "x" * 65, "a/b"])
def test_a_name_that_cannot_be_is_refused_before_anything_is_sent(name: str) -> None:
    with pytest.raises(UseError, match=r"device name .* is not valid.*--name"):
        Link("127.0.0.1:1", Heard(), name=name, secret=bytes(32), profile=Profile)
