"""What a stranger may send: every violation is one RemoteError that names it, and none costs memory worth the name."""

from __future__ import annotations

import contextlib
import struct
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pleat.codec.masks import write_mask
from pleat.errors import RemoteError, UseError
from pleat.exchange import address, envelope, limits, messages
from pleat.exchange.body import order_of
from pleat.exchange.envelope import parse_device, parse_server
from pleat.exchange.pb import fleet_pb2 as pb
from pleat.exchange.wire import order_from_bytes, order_id, order_to_bytes, report_from_bytes
from support.fleet import order, report
from support.pair import SAID

HELLO: dict[str, Any] = {"protocol": 1, "name": "kitchen", "identity": bytes(32), "nonce": bytes(16)}


def body(head: Any, frames: bytes = b"") -> bytes:
    raw = head.SerializeToString()
    return struct.pack("<I", len(raw)) + raw + frames


def an_order(**fields: Any) -> pb.Order:
    base: dict[str, Any] = {
        "id": pb.OrderId(run="r", round=1, rank=0),
        "device": "kitchen",
        "net": pb.Net(factory="m:f", digest=bytes(32)),
    }
    return pb.Order(**{**base, **fields})


def a_report(**fields: Any) -> pb.Report:
    return pb.Report(**{"id": pb.OrderId(run="r", round=1, rank=0), "device": "kitchen", **fields})


def select(**fields: Any) -> bytes:
    return body(an_order(selection=pb.Selection(**fields), names=["h"]))


def mask(shape: tuple[int, ...], held: bytes, coded: bytes = b"") -> bytes:
    return select(masks=[pb.Selection.Mask(tensor=0, shape=shape, held=held, coded=coded)])


NAN = float("nan")
ORDERS: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "order of 0 bytes is cut short"),
    "a head longer than the body": (struct.pack("<I", 50) + b"x", "its head alone has 50"),
    "a head longer than the limit": (struct.pack("<I", limits.HEAD + 1), f"the limit is {limits.HEAD}"),
    "a head that is no protobuf": (struct.pack("<I", 3) + b"\xff\xff\xff", "is not a pleat.v1 Order"),
    "slack behind the frames": (body(an_order(), b"x"), "declare 0 bytes, 1 follow"),
    "frames shorter than declared": (body(an_order(payloads=[pb.Payload(size=2)]), b"x"), "declare 2 bytes, 1 follow"),
    "a size of 2^64 - 1": (body(an_order(payloads=[pb.Payload(size=2**64 - 1)])), "declare 18446744073709551615"),
    "no run": (body(an_order(id=pb.OrderId(round=1))), "run name '' is not valid"),
    "a run that is a path": (body(an_order(id=pb.OrderId(run="../../etc"))), "run name"),
    "a rank without end": (body(an_order(id=pb.OrderId(run="r", rank=2**31))), "order rank is 2147483648"),
    "a name with an escape": (body(an_order(device="\x1b[2J")), "device name"),
    "a kind of the future": (body(an_order(kind=9)), "order.kind is 9"),
    "a short digest": (body(an_order(net=pb.Net(digest=b"x"))), "net.digest of 1 bytes"),
    "a long factory": (body(an_order(net=pb.Net(digest=bytes(32), factory="x" * 257))), "net.factory has 257"),
    "a scalar without a value": (
        body(an_order(net=pb.Net(digest=bytes(32), arguments={"n": pb.Scalar()}))),
        "argument 'n' of the net has no value",
    ),
    "65 arguments": (
        body(an_order(net=pb.Net(digest=bytes(32), arguments={f"n{i}": pb.Scalar(whole=1) for i in range(65)}))),
        "65 arguments of the net",
    ),
    "a rate that is no number": (body(an_order(work=pb.Work(rate=NAN))), "work.rate is nan"),
    "a rate below zero": (body(an_order(work=pb.Work(rate=-1))), "work.rate is -1"),
    "a setting that is infinite": (body(an_order(work=pb.Work(settings={"t": float("inf")}))), "'t' is inf"),
    "epochs without end": (body(an_order(work=pb.Work(epochs=2**31))), "work.epochs is 2147483648"),
    "a deadline that is no number": (body(an_order(deadline=NAN)), "order.deadline is nan"),
    "65 nested selections": (body(an_order(nested=[pb.Selection()] * 65)), "65 nested selections"),
    "65 payloads": (body(an_order(payloads=[pb.Payload()] * 65)), "65 payloads"),
    "65 returns": (body(an_order(returns=[pb.Return()] * 65)), "65 returns"),
    "65537 names": (body(an_order(names=[""] * 65537)), "65537 names"),
    "a place that is not listed": (select(first=[7, 2]), "names place 7, 1 names are listed"),
    "half a pair": (select(first=[0]), "1 prefix numbers, expected pairs"),
    "a prefix of 2^32 - 1 channels": (select(first=[0, 2**32 - 1]), "channels kept in all selections is 4294967295"),
    "prefixes that add up": (select(first=[0, 2**20, 0, 2**20]), "channels kept in all selections is 2097152"),
    "prefixes that add up over selections": (
        body(an_order(names=["h"], nested=[pb.Selection(first=[0, 2**19])] * 3)),
        "channels kept in all selections is 1572864",
    ),
    "a group twice": (select(first=[0, 1, 0, 2]), "names 'h' twice"),
    "a group twice in two forms": (select(first=[0, 1], cuts=[pb.Selection.Cut(kept=b"\x02")]), "names 'h' twice"),
    "a cut that ends with nothing": (select(cuts=[pb.Selection.Cut(kept=b"\x02\x00")]), "must end with a byte"),
    "an empty cut": (select(cuts=[pb.Selection.Cut()]), "must end with a byte"),
    "a cut of too many channels": (
        select(cuts=[pb.Selection.Cut(kept=bytes(131072) + b"\x01")]),
        "channels kept in all selections is 1048584",
    ),
    "a mask of 2^62 entries": (mask((2**31, 2**31), b"\xff"), "has 1 bytes, expected 576460752303423488"),
    "a mask with too many bits": (mask((3,), b"\x0f"), "bits beyond its last entry"),
    "a mask with nine axes": (mask((1,) * 9, b"\x01"), "9 axes of a mask"),
    "a mask twice in two forms": (mask((3,), b"\x01", b"\0"), "has its bits twice"),
    "a coded mask of 2^62 entries": (
        mask((2**31, 2**31), b"", b"\0"),
        "entries of all coded masks is 4611686018427387904",
    ),
    "a coded mask of another size": (mask((9,), b"", write_mask(np.zeros(8, np.bool_))), "frame is bound to"),
    "a short digest of masks": (select(lent=b"x"), "by 1 bytes, not 32"),
    "masks of its own and lent ones": (
        select(lent=bytes(32), masks=[pb.Selection.Mask(tensor=0, shape=(3,), held=b"\x01")]),
        "1 masks of its own names others",
    ),
    "a part of the future": (body(an_order(returns=[pb.Return(part=9)])), "return.part is 9"),
    "a personal tensor that is not listed": (body(an_order(personal=[3])), "names place 3, 0 names are listed"),
    "65537 personal tensors": (body(an_order(personal=[0] * 65537)), "65537 personal tensors"),
    "a gate with an escape": (body(an_order(work=pb.Work(gate="\x1b"))), "cannot be printed"),
}
REPORTS: dict[str, tuple[bytes, str]] = {
    "an outcome of the future": (body(a_report(outcome=9)), "report.outcome is 9"),
    "a metric that is no number": (body(a_report(metrics={"loss": NAN})), "report.metrics: 'loss' is nan"),
    "a metric with a name like a screen": (body(a_report(metrics={"\x1b[2J": 1.0})), "cannot be printed"),
    "65 metrics": (body(a_report(metrics={f"m{i}": 1.0 for i in range(65)})), "65 report.metrics"),
    "a sensor that is no number": (body(a_report(sensors={"celsius": NAN})), "'celsius' is nan"),
    "samples without end": (body(a_report(samples=2**63)), "report.samples is 9223372036854775808"),
    "65537 labels": (body(a_report(labels=[1] * 65537)), "65537 labels"),
    "a label without end": (body(a_report(labels=[2**31])), "label is 2147483648"),
    "seconds below zero": (body(a_report(seconds=pb.Seconds(train=-1))), "report.seconds.train is -1"),
    "seconds that are no number": (body(a_report(seconds=pb.Seconds(up=NAN))), "report.seconds.up is nan"),
    "a peak without end": (body(a_report(peak=2**60)), "report.peak is"),
    "a step that is no number": (body(a_report(measured=[pb.Measured(step=NAN)])), "measured.step is nan"),
    "65 measurements": (body(a_report(measured=[pb.Measured()] * 65)), "65 measurements"),
    "a base without end": (body(a_report(payloads=[pb.Payload(base=2**63)])), "payload.base"),
    "a coding with a newline": (body(a_report(payloads=[pb.Payload(coding="raw\n")])), "cannot be printed"),
}
DEVICE: dict[str, tuple[pb.DeviceMessage, str]] = {
    "nothing known": (pb.DeviceMessage(), "says nothing this version knows"),
    "a short identity": (pb.DeviceMessage(hello=pb.Hello(**{**HELLO, "identity": b"x"})), "identity of 1 bytes"),
    "a short nonce": (pb.DeviceMessage(hello=pb.Hello(**{**HELLO, "nonce": b""})), "nonce of 0, expected 32 and 16"),
    "no name": (pb.DeviceMessage(hello=pb.Hello(**{**HELLO, "name": ""})), "device name ''"),
    "a name with a slash": (pb.DeviceMessage(hello=pb.Hello(**{**HELLO, "name": "a/b"})), "device name 'a/b'"),
    "65 held orders": (
        pb.DeviceMessage(hello=pb.Hello(**HELLO, held=[pb.OrderId(run="r")] * 65)),
        "65 held orders",
    ),
    "cores that are no number": (
        pb.DeviceMessage(hello=pb.Hello(**HELLO, profile=pb.Profile(cores=NAN))),
        "cores is nan",
    ),
    "nine axes": (
        pb.DeviceMessage(hello=pb.Hello(**HELLO, profile=pb.Profile(input_shape=[1] * 9))),
        "9 axes",
    ),
    "a board with an escape": (
        pb.DeviceMessage(hello=pb.Hello(**HELLO, profile=pb.Profile(board="\x1b]0;x"))),
        "profile.board",
    ),
    "a negative budget of seconds": (
        pb.DeviceMessage(hello=pb.Hello(**HELLO, profile=pb.Profile(budgets=pb.Budgets(seconds=-1)))),
        "seconds is -1",
    ),
    "a heart that is too hot": (pb.DeviceMessage(heartbeat=pb.Heartbeat(celsius=5000)), "celsius is 5000"),
    "more data than the body": (
        pb.DeviceMessage(begin=pb.Begin(id=pb.OrderId(run="r"), size=1, data=b"xx")),
        "begin holds 2 bytes of a body of 1",
    ),
    "a body of 2^63 bytes": (pb.DeviceMessage(begin=pb.Begin(id=pb.OrderId(run="r"), size=2**63)), "size of a body"),
}


@pytest.mark.parametrize("case", ORDERS, ids=lambda c: c.replace(" ", "_"))
def test_a_hostile_order_is_refused_by_name(case: str) -> None:
    data, reason = ORDERS[case]
    with pytest.raises(RemoteError) as refused:
        order_from_bytes(data)
    assert reason in str(refused.value)


@pytest.mark.parametrize("case", REPORTS, ids=lambda c: c.replace(" ", "_"))
def test_a_hostile_report_is_refused_by_name(case: str) -> None:
    data, reason = REPORTS[case]
    with pytest.raises(RemoteError) as refused:
        report_from_bytes(data)
    assert reason in str(refused.value)


@pytest.mark.parametrize("case", DEVICE, ids=lambda c: c.replace(" ", "_"))
def test_a_hostile_message_is_refused_by_name(case: str) -> None:
    message, reason = DEVICE[case]
    with pytest.raises(RemoteError) as refused:
        parse_device(message.SerializeToString())
    assert reason in str(refused.value)


def test_the_harmless_originals_of_the_hostile_ones_pass() -> None:
    order_from_bytes(body(an_order()))
    order_from_bytes(select(first=[0, 3]))
    order_from_bytes(mask((3,), b"\x05"))
    report_from_bytes(body(a_report()))
    parse_device(pb.DeviceMessage(hello=pb.Hello(**HELLO)).SerializeToString())


def test_refusing_a_bomb_takes_no_memory() -> None:
    bombs = [ORDERS[c][0] for c in ORDERS if "2^" in c]
    assert len(bombs) >= 3
    tracemalloc.start()
    for data in bombs:
        with pytest.raises(RemoteError):
            order_from_bytes(data)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 20


@pytest.mark.parametrize("parse", [parse_device, parse_server])
def test_a_message_over_the_limit_is_refused_before_it_is_parsed(parse: Callable[[bytes], object]) -> None:
    with pytest.raises(RemoteError, match=f"the limit is {limits.MESSAGE}"):
        parse(bytes(limits.MESSAGE + 1))


def test_a_hello_of_another_version_is_told_apart_whatever_else_it_holds() -> None:
    message = pb.DeviceMessage(hello=pb.Hello(protocol=7, software="9.0\x1b", name="/", identity=b"short"))
    heard = parse_device(message.SerializeToString())
    assert heard == messages.Hello("", b"", b"", protocol=7, software="9.0 ")


def test_a_welcome_in_another_protocol_is_refused() -> None:
    message = pb.ServerMessage(welcome=pb.Welcome(protocol=2, run="r"))
    with pytest.raises(RemoteError, match="welcomes in protocol 2"):
        parse_server(message.SerializeToString())


def test_words_for_a_screen_cannot_hold_what_steers_it() -> None:
    heard = parse_server(pb.ServerMessage(notice=pb.Notice(text="\x1b[2Jidle\n" + "x" * 5000)).SerializeToString())
    assert isinstance(heard, messages.Notice)
    assert heard.text.startswith(" [2Jidle x")
    assert len(heard.text) == limits.REASON


@pytest.mark.parametrize("text", ["r", "r/1", "r/1/x", "r/-1/0", "r/1/0/0", "/1/0", "r/²/0", "../x/1/0", "r/1/9999999"])
def test_an_order_id_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(RemoteError):
        order_id(text)


RAW = [envelope.pack(m) for m in SAID.values()]
BODIES = [order_to_bytes(order()), report()]


DAMAGE = st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), max_size=4)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(RAW + BODIES), DAMAGE, st.integers(0, 300))
def test_damaged_bytes_are_understood_or_refused_and_nothing_else(
    raw: bytes, damage: list[tuple[int, int]], length: int
) -> None:
    bent = bytearray(raw)
    for at, value in damage:
        bent[at % len(bent)] = value
    cut = bytes(bent[:length])
    for read in (parse_device, parse_server, order_from_bytes, report_from_bytes, order_of):
        with contextlib.suppress(RemoteError):
            read(cut)


@pytest.mark.parametrize(
    "text",
    ["", "host", "host:", ":7878", "host:seven", "host:70000", "::1:7878", "host:-1"],
)
def test_an_address_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(UseError, match="address"):
        address.parse(text)


@pytest.mark.parametrize(
    ("text", "local"),
    [
        ("127.0.0.1:1", True),
        ("127.9.9.9:1", True),
        ("localhost:1", True),
        ("[::1]:1", True),
        ("0.0.0.0:1", False),
        ("192.168.1.5:1", False),
        ("[::]:1", False),
        ("localhost.example.org:1", False),
        ("127.0.0.1.example.org:1", False),
    ],
)
def test_plaintext_is_for_this_machine_only_unless_its_owner_insists(text: str, local: bool) -> None:
    address.check_plaintext(text, True, "give --ca FILE")
    if local:
        address.check_plaintext(text, False, "give --ca FILE")
        return
    with pytest.raises(UseError, match="plain text; give --ca FILE, or say --insecure"):
        address.check_plaintext(text, False, "give --ca FILE")
