"""The bytes of protocol 1, written down: a change here is a change of the protocol. And the generated code."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import numpy as np
import pytest
from google.protobuf import descriptor_pb2

from pleat.elastic.selection import Selection
from pleat.exchange import messages
from pleat.exchange.envelope import pack, parse_device, parse_server
from pleat.exchange.order import Kind, NetSpec, Order, OrderId, Payload, Return, Work
from pleat.exchange.pb import fleet_pb2 as pb
from pleat.exchange.report import Budgets, Heartbeat, Profile, Report, Seconds
from pleat.exchange.session import Side
from pleat.exchange.wire import order_from_bytes, order_to_bytes, report_from_bytes, report_to_bytes

ROOT = Path(__file__).parents[2]
PROTO = ROOT / "proto/pleat/v1/fleet.proto"
GENERATED = ROOT / "common/pleat/exchange/pb/fleet_pb2.py"

MESSAGES: dict[str, tuple[Side, messages.Message, str]] = {
    "hello": (
        Side.DEVICE,
        messages.Hello(
            "kitchen",
            bytes(range(32)),
            bytes(range(16)),
            Profile(
                board="Pi 4",
                cores=4.0,
                samples=360,
                input_shape=(1, 8, 8),
                classes=10,
                budgets=Budgets(upload_bytes=2_000_000),
            ),
            ("run-1/3/2",),
            software="0.1.0",
        ),
        "0a6d08011205302e312e301a076b69746368656e2220000102030405060708090a0b0c0d0e0f101112131415161718191a1b"
        "1c1d1e1f2a10000102030405060708090a0b0c0d0e0f321f0a045069203431000000000000104048e8025203010808580a6a"
        "041880897a3a0410031802",
    ),
    "begin": (
        Side.DEVICE,
        messages.Begin("run-1/3/2", 300_000),
        "120a0a041003180210e0a712",
    ),
    "whole": (
        Side.SERVER,
        messages.Begin("run-1/3/2", 3, b"abc"),
        "120d0a041003180210031a03616263",
    ),
    "other run": (
        Side.DEVICE,
        messages.Begin("run-0/3/2", 3, b"abc"),
        "12140a0b0a0572756e2d301003180210031a03616263",
    ),
    "chunk": (
        Side.DEVICE,
        messages.Chunk(bytes(range(200))),
        "1ac801000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f202122232425262728292a2b2c2d2e"
        "2f303132333435363738393a3b3c3d3e3f404142434445464748494a4b4c4d4e4f505152535455565758595a5b5c5d5e5f60"
        "6162636465666768696a6b6c6d6e6f707172737475767778797a7b7c7d7e7f808182838485868788898a8b8c8d8e8f909192"
        "939495969798999a9b9c9d9e9fa0a1a2a3a4a5a6a7a8a9aaabacadaeafb0b1b2b3b4b5b6b7b8b9babbbcbdbebfc0c1c2c3c4"
        "c5c6c7",
    ),
    "stop": (
        Side.DEVICE,
        messages.Stop("returned"),
        "220a0a0872657475726e6564",
    ),
    "beat": (
        Side.DEVICE,
        messages.Beat(Heartbeat(0.5, 1 << 30, 61.5, False, 1.5e9, "training")),
        "2a250d0000003f1080808080041d00007642200029000000c00b5ad6413208747261696e696e67",
    ),
    "pong": (
        Side.DEVICE,
        messages.Pong(7),
        "32050d07000000",
    ),
    "leave": (
        Side.DEVICE,
        messages.Leave("stopped"),
        "3a090a0773746f70706564",
    ),
    "welcome": (
        Side.SERVER,
        messages.Welcome("run-1", software="0.1.0"),
        "421008011205302e312e301a0572756e2d31",
    ),
    "ack": (
        Side.SERVER,
        messages.Ack("run-1/3/2"),
        "4a0410031802",
    ),
    "returned": (
        Side.SERVER,
        messages.Returned("run-1/3/2", "late"),
        "520c0a041003180212046c617465",
    ),
    "cancel": (
        Side.SERVER,
        messages.Cancel("run-1/3/2"),
        "5a0410031802",
    ),
    "notice": (
        Side.SERVER,
        messages.Notice("idle"),
        "62060a0469646c65",
    ),
    "ping": (
        Side.SERVER,
        messages.Ping(7),
        "6a050d07000000",
    ),
    "bye": (
        Side.SERVER,
        messages.Bye("done"),
        "72060a04646f6e65",
    ),
    "refusal": (
        Side.SERVER,
        messages.Refusal(messages.Why.OLDER, "older"),
        "7a09080112056f6c646572",
    ),
}
ORDER = Order(
    OrderId("run-1", 3, 2),
    "kitchen",
    Kind.TRAIN,
    NetSpec("pleat.nets.zoo:mlp", {"classes": 10, "input_shape": "1x8x8"}, bytes(range(32))),
    Selection({"hidden": np.arange(64), "rolled": np.array([1, 3])}, frozenset({"block2"}), {"w": np.eye(3) > 0}),
    (Selection({"hidden": np.arange(32)}),),
    Work("joint", {"weight": 0.5}, epochs=2, batch=32, rate=0.05, momentum=0.9, clip=5.0),
    (Payload("model", "bf16-delta", b"\x01\x02\x03", version=2, base=1),),
    (Return("update", "topk:0.05/lloyd:4"),),
    seed=7,
    deadline_s=30.0,
    memory_bytes=1 << 20,
)
REPORT = Report(
    OrderId("run-1", 3, 2),
    "kitchen",
    payloads=(Payload("update", "topk:0.05/lloyd:4", b"\x04\x05", version=2),),
    samples=360,
    labels=(0, 3, 9),
    metrics={"loss": 0.25},
    seconds=Seconds(train=1.5),
    peak_bytes=300 << 20,
)
ORDER_HEX = (
    "3b0100000a0b0a0572756e2d311003180212076b69746368656e225d0a12706c6561742e6e6574732e7a6f6f3a6d6c70120d"
    "0a07636c61737365731202081412160a0b696e7075745f736861706512071a0531783878381a20000102030405060708090a"
    "0b0c0d0e0f101112131415161718191a1b1c1d1e1f2a0668696464656e2a06726f6c6c65642a06626c6f636b322a0177321a"
    "0a0200401205080112010a1a0102220a0803120203031a0211013a040a02002042390a056a6f696e7412110a067765696768"
    "7411000000000000e03f18022020299a9999999999a93f31cdccccccccccec3f4100000000000014404a190a056d6f64656c"
    "120a626631362d64656c7461180320042802521b0a067570646174651211746f706b3a302e30352f6c6c6f79643a34590700"
    "000000000000610000000000003e4068808040010203"
)
REPORT_HEX = (
    "5d0000000a0b0a0572756e2d311003180212076b69746368656e321f0a067570646174651211746f706b3a302e30352f6c6c"
    "6f79643a341802200438e80242030003094a0f0a046c6f737311000000000000d03f5205250000c03f5880808096010405"
)


@pytest.mark.parametrize("name", MESSAGES)
def test_a_message_is_these_bytes_and_these_bytes_are_the_message(name: str) -> None:
    side, message, golden = MESSAGES[name]
    assert pack(message, "run-1").hex() == golden
    parse = parse_device if side is Side.DEVICE else parse_server
    assert parse(bytes.fromhex(golden), "run-1") == message


def test_an_order_is_these_bytes_and_these_bytes_are_the_order() -> None:
    assert order_to_bytes(ORDER).hex() == ORDER_HEX
    assert order_from_bytes(bytes.fromhex(ORDER_HEX)) == ORDER


def test_a_report_is_these_bytes_and_these_bytes_are_the_report() -> None:
    assert report_to_bytes(REPORT).hex() == REPORT_HEX
    assert report_from_bytes(bytes.fromhex(REPORT_HEX)) == REPORT


def test_the_small_words_of_a_round_take_tens_of_bytes() -> None:
    assert sum(len(bytes.fromhex(MESSAGES[name][2])) for name in ("begin", "ack", "cancel", "notice")) < 50
    assert len(bytes.fromhex(REPORT_HEX)) < 120


def test_no_number_means_one_thing_up_and_another_down() -> None:
    up = {f.number: f.name for f in pb.DeviceMessage.DESCRIPTOR.fields}
    down = {f.number: f.name for f in pb.ServerMessage.DESCRIPTOR.fields}
    assert {n: (up[n], down[n]) for n in up.keys() & down.keys()} == {
        2: ("begin", "begin"),
        3: ("chunk", "chunk"),
        4: ("stop", "stop"),
    }


def test_the_generated_code_is_the_proto_file(tmp_path: Path) -> None:
    pytest.importorskip("grpc_tools", reason="grpcio-tools is not installed")
    protoc = importlib.import_module("grpc_tools.protoc")
    out = tmp_path / "fleet.binpb"
    status = protoc.main(["protoc", f"-I{ROOT / 'proto'}", f"--descriptor_set_out={out}", str(PROTO)])
    assert status == 0
    (fresh,) = descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes()).file
    fresh.ClearField("source_code_info")
    for message in (m for top in fresh.message_type for m in (top, *top.nested_type)):
        for field in message.field:  # protoc writes these to files, and leaves them out of the code
            field.ClearField("json_name")
    checked_in = descriptor_pb2.FileDescriptorProto.FromString(pb.DESCRIPTOR.serialized_pb)
    assert checked_in == fresh, f"run the command in {GENERATED.with_name('__init__.py')}"


def test_the_generated_code_asks_for_no_newer_protobuf_than_flower_does() -> None:
    source = GENERATED.read_text()
    assert "ValidateProtobufRuntimeVersion" not in source, f"see {GENERATED.with_name('__init__.py')}"
    assert "Protobuf Python Version: 4.25" in source


def test_every_field_of_the_proto_has_a_comment() -> None:
    fields = [line for line in PROTO.read_text().splitlines() if re.match(r" +[\w<>, ]+ = \d+;", line)]
    assert len(fields) > 100
    assert [line.strip() for line in fields if "//" not in line] == []
