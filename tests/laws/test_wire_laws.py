"""What goes onto the wire comes off it unchanged, and equal values are equal bytes."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pleat.elastic.selection import Selection
from pleat.errors import LocalError
from pleat.exchange import limits, messages
from pleat.exchange.body import order_of, refusal_report, slices
from pleat.exchange.envelope import pack, parse_device, parse_server
from pleat.exchange.order import Kind, NetSpec, Order, OrderId, Part, Payload, Return, Work
from pleat.exchange.pb import fleet_pb2 as pb
from pleat.exchange.report import Budgets, Heartbeat, Measured, Outcome, Profile, Report, Seconds
from pleat.exchange.wire import (
    order_from_bytes,
    order_id,
    order_to_bytes,
    order_to_parts,
    report_from_bytes,
    report_to_bytes,
)

few = settings(max_examples=25, deadline=None)

names = st.sampled_from(("a", "kitchen-pi", "0", "run_2.b", "x" * 64))
labels = st.sampled_from(("", "w", "layer1.0.conv1", "fc.weight", "größe", "rate", "topk:0.05/lloyd:4", "bf16-delta"))
words = st.sampled_from(("", "idle", "needs 412 MiB, has 300", "über 85 °C", "x" * 100))
reals = st.floats(allow_nan=False, allow_infinity=False)
singles = st.floats(0, 1e6, width=32)
counts = st.integers(0, limits.COUNT)
sizes = st.integers(0, limits.BYTES)
order_ids = st.builds(OrderId, names, st.integers(0, 2**32 - 1), st.integers(0, limits.CHANNELS))


@st.composite
def selections(draw: st.DrawFn) -> Selection:
    groups = draw(st.lists(labels, max_size=3, unique=True))
    kept = {
        g: np.array(sorted(draw(st.sets(st.integers(0, 70), min_size=1, max_size=20))), np.int64)
        if draw(st.booleans())
        else np.arange(draw(st.integers(0, 70)), dtype=np.int64)
        for g in groups
    }
    masks = {}
    for tensor in draw(st.lists(labels, max_size=2, unique=True)):
        shape = tuple(draw(st.lists(st.integers(1, 6), min_size=1, max_size=3)))
        bits = draw(st.lists(st.booleans(), min_size=math.prod(shape), max_size=math.prod(shape)))
        masks[tensor] = np.array(bits, np.bool_).reshape(shape)
    return Selection(kept, frozenset(draw(st.sets(labels, max_size=3))), masks)


payloads = st.builds(
    Payload,
    name=labels,
    coding=labels,
    frame=st.binary(max_size=60),
    version=st.integers(-1, 2**40),
    base=st.integers(-1, 2**40),
    selection=st.none() | selections(),
)
scalars = st.integers(-(2**62), 2**62) | reals | words | st.booleans()
works = st.builds(
    Work,
    objective=labels,
    settings=st.dictionaries(labels, reals, max_size=4),
    epochs=st.integers(0, 10**6),
    batch=st.integers(0, 10**6),
    rate=st.floats(0, 1e6),
    momentum=st.floats(0, 1),
    decay=st.floats(0, 1),
    clip=st.floats(0, 1e6),
    steps=st.integers(0, 10**6),
)
orders = st.builds(
    Order,
    id=order_ids,
    device=names,
    kind=st.sampled_from(Kind),
    net=st.builds(NetSpec, labels, st.dictionaries(labels, scalars, max_size=4), st.binary(min_size=32, max_size=32)),
    selection=selections(),
    nested=st.lists(selections(), max_size=3).map(tuple),
    work=works,
    payloads=st.lists(payloads, max_size=3).map(tuple),
    returns=st.lists(st.builds(Return, labels, labels), max_size=2).map(tuple),
    seed=st.integers(0, 2**64 - 1),
    deadline_s=st.floats(0, limits.SECONDS),
    memory_bytes=sizes,
)
reports = st.builds(
    Report,
    order_id=order_ids,
    device=names,
    outcome=st.sampled_from(Outcome),
    reason=words,
    payloads=st.lists(payloads, max_size=3).map(tuple),
    samples=counts,
    labels=st.lists(st.integers(0, 1000), max_size=5).map(tuple),
    metrics=st.dictionaries(labels, reals, max_size=4),
    seconds=st.builds(Seconds, singles, singles, singles, singles, singles, singles),
    peak_bytes=st.none() | sizes,
    measured=st.lists(st.builds(Measured, st.floats(0, 1e6), sizes), max_size=3).map(tuple),
    sensors=st.dictionaries(labels, reals, max_size=4),
)
budgets = st.builds(Budgets, st.none() | sizes, st.none() | st.floats(0, 1e7), st.none() | sizes, st.none() | sizes)
profiles = st.builds(
    Profile,
    board=words,
    machine=words,
    system=words,
    python=words,
    torch=words,
    cores=st.none() | st.floats(0, 4096),
    memory_bytes=st.none() | sizes,
    accelerator=words,
    samples=counts,
    input_shape=st.lists(st.integers(0, limits.CHANNELS), max_size=8).map(tuple),
    classes=st.integers(0, limits.CHANNELS),
    holdout=counts,
    budgets=budgets,
)
beats = st.builds(
    Heartbeat,
    load=st.none() | singles,
    free_bytes=st.none() | sizes,
    celsius=st.none() | st.floats(-100, 1000, width=32),
    throttled=st.none() | st.booleans(),
    hertz=st.none() | st.floats(0, 1e12),
    state=st.sampled_from(("idle", "training", "sending")),
)
ids = order_ids.map(str)
device_words = (
    st.builds(
        messages.Hello,
        names,
        st.binary(min_size=32, max_size=32),
        st.binary(min_size=16, max_size=16),
        profiles,
        st.lists(ids, max_size=3).map(tuple),
        software=st.just("0.1.0"),
    )
    | st.builds(messages.Beat, beats)
    | st.builds(messages.Pong, st.integers(0, 2**32 - 1))
    | st.builds(messages.Leave, words)
)
both = (
    st.binary(max_size=80).flatmap(lambda d: st.builds(messages.Begin, ids, st.integers(len(d), 200), st.just(d)))
    | st.builds(messages.Chunk, st.binary(min_size=1, max_size=400))
    | st.builds(messages.Stop, words)
)
server_words = (
    st.builds(messages.Welcome, names, software=st.just("0.1.0"))
    | st.builds(messages.Ack, ids)
    | st.builds(messages.Returned, ids, words)
    | st.builds(messages.Cancel, ids)
    | st.builds(messages.Notice, words)
    | st.builds(messages.Ping, st.integers(0, 2**32 - 1))
    | st.builds(messages.Bye, words)
    | st.builds(messages.Refusal, st.sampled_from(messages.Why), words)
)


def masked_order(mask: np.ndarray, **more: object) -> Order:
    selection = Selection(masks={"w": mask})
    net = NetSpec("pleat.nets.zoo:mlp", {}, bytes(32))
    payload = Payload("model", "raw", b"", selection=selection)
    return Order(OrderId("r", 2, 0), "a", Kind.TRAIN, net, selection, payloads=(payload,), **more)  # type: ignore[arg-type]


def test_masks_that_the_receiver_knows_travel_as_their_digest() -> None:
    mask = np.random.default_rng(0).random((100, 50)) < 0.1
    plain = masked_order(mask)
    digest = plain.selection.masks_digest
    known = masked_order(mask, known=frozenset([digest]))
    assert order_from_bytes(order_to_bytes(plain)) == plain
    came = order_from_bytes(order_to_bytes(known))
    assert came.selection == came.payloads[0].selection == Selection(lent=digest)
    assert order_to_bytes(came) == order_to_bytes(known)  # what was lent may be handed on
    assert len(order_to_bytes(known)) < 200 < len(order_to_bytes(plain)) < 2 * mask.size / 8
    assert order_to_bytes(masked_order(mask, known=frozenset([bytes(32)]))) == order_to_bytes(plain)


def test_parts_personal_tensors_gates_and_adjusters_come_off_the_wire_as_they_went() -> None:
    order = masked_order(
        np.eye(3) > 0,
        work=Work(scaler=True, gate="threshold", adjust="regrow"),
        returns=tuple(Return("update", "raw", part) for part in Part),
        personal=("w", "b"),
    )
    assert order_from_bytes(order_to_bytes(order)) == order


@few
@given(orders)
def test_an_order_comes_off_the_wire_as_it_went_on(order: Order) -> None:
    assert order_from_bytes(order_to_bytes(order)) == order


@few
@given(reports)
def test_a_report_comes_off_the_wire_as_it_went_on(report: Report) -> None:
    assert report_from_bytes(report_to_bytes(report)) == report


@few
@given(orders)
def test_the_parts_of_an_order_are_its_bytes_and_tell_whose_it_is(order: Order) -> None:
    data = order_to_bytes(order)
    assert b"".join(order_to_parts(order)) == data
    assert b"".join(slices(order_to_parts(order))) == data
    assert order_of(data) == str(order.id)
    assert order_id(str(order.id)) == order.id


@few
@given(device_words | both, names)
def test_what_a_device_says_is_what_the_server_hears(said: messages.DeviceSays, run: str) -> None:
    assert parse_device(pack(said, run), run) == said


@few
@given(server_words | both, names)
def test_what_the_server_says_is_what_a_device_hears(said: messages.ServerSays, run: str) -> None:
    assert parse_server(pack(said, run), run) == said


@few
@given(st.binary(max_size=70_000), st.sampled_from((pb.DeviceMessage, pb.ServerMessage)))
def test_a_chunk_is_written_and_read_by_hand_as_protobuf_does(data: bytes, kind: type) -> None:
    assert pack(messages.Chunk(data)) == kind(chunk=data).SerializeToString()
    parse = parse_device if kind is pb.DeviceMessage else parse_server
    heard = parse(kind(chunk=data).SerializeToString())
    assert isinstance(heard, messages.Chunk)
    assert bytes(heard.data) == data


@few
@given(orders)
def test_the_order_of_dictionaries_does_not_change_a_byte(order: Order) -> None:
    turned = Order(
        order.id,
        order.device,
        order.kind,
        NetSpec(order.net.factory, dict(reversed(order.net.arguments.items())), order.net.digest),
        Selection(
            dict(reversed(order.selection.kept.items())),
            order.selection.dropped,
            dict(reversed(order.selection.masks.items())),
        ),
        order.nested,
        Work(**{**vars(order.work), "settings": dict(reversed(order.work.settings.items()))}),
        order.payloads,
        order.returns,
        order.seed,
        order.deadline_s,
        order.memory_bytes,
    )
    assert order_to_bytes(turned) == order_to_bytes(order)


def test_the_run_of_an_order_id_is_left_out_where_it_is_the_sessions_own() -> None:
    own, other = pack(messages.Ack("run-1/3/2"), "run-1"), pack(messages.Ack("run-0/3/2"), "run-1")
    assert b"run-1" not in own
    assert b"run-0" in other
    assert parse_server(own, "run-1") == messages.Ack("run-1/3/2")
    assert parse_server(other, "run-1") == messages.Ack("run-0/3/2")


def test_unknown_facts_stay_unknown_and_known_zeros_stay_zero() -> None:
    for beat in (Heartbeat(), Heartbeat(0.0, 0, 0.0, False, 0.0)):
        heard = parse_device(pack(messages.Beat(beat)))
        assert heard == messages.Beat(beat)
    data = report_to_bytes(Report(OrderId("r", 1, 0), "a", peak_bytes=0))
    assert report_from_bytes(data).peak_bytes == 0


def test_a_report_made_without_numpy_reads_like_any_other() -> None:
    seconds = Seconds(wait=1.0, train=2.5)
    data = refusal_report(
        "run-1/3/2", "kitchen", Outcome.KILLED, "out of memory", seconds=seconds, peak_bytes=7, samples=9
    )
    assert report_from_bytes(data) == Report(
        OrderId("run-1", 3, 2), "kitchen", Outcome.KILLED, "out of memory", samples=9, seconds=seconds, peak_bytes=7
    )


def test_a_report_with_a_number_that_is_none_is_refused_where_it_is_made() -> None:
    with pytest.raises(LocalError, match="loss"):
        report_to_bytes(Report(OrderId("r", 1, 0), "a", metrics={"loss": math.nan}))


def test_a_large_frame_is_shared_and_not_copied_until_it_is_sent() -> None:
    frame = bytes(3 << 20)
    order = Order(
        OrderId("r", 1, 0), "a", Kind.TRAIN, NetSpec("m:f", {}, bytes(32)), payloads=(Payload("m", "raw", frame),)
    )
    parts = order_to_parts(order)
    assert parts[1] is frame
    assert [len(s) for s in slices(parts)][1:] == [1 << 20] * 3
