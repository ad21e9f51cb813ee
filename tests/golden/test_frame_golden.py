"""Golden frames: bytes of proto/FRAME.md as they were when version 2 was fixed. A change here is a new frame version.

Every golden frame must decode to what it decoded to; encoding must give the same bytes again, but where another zstd
than the one that made them may compress otherwise. `frames.json` holds, by coding, the frame and the digest of what it
decodes to, both as hex.
"""

from __future__ import annotations

import hashlib
import json
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import zstandard

from pleat.codec.entropy import ZSTD
from pleat.codec.frame import read_blocks
from pleat.codec.transform import Context
from pleat.elastic.selection import WHOLE, Selection, extract, make
from pleat.modelmap import ModelMap
from pleat.params import Params, digest
from support.coded import decode, encode, model, one_matrix, plain

GOLDEN: dict[str, dict[str, str]] = json.loads(Path(__file__).with_name("frames.json").read_text())
MADE_WITH = (1, 5, 7)


def wave(net: ModelMap) -> Params:
    """Values without a random generator, which may change: multiples of 1/64 within +-0.8."""
    out: Params = {}
    for number, spec in enumerate(net.tensors):
        steps = (np.arange(int(np.prod(spec.shape))) * 37 + number * 11) % 101 - 50
        out[spec.name] = (steps / 64).astype(np.float32).reshape(spec.shape)
    return out


def case(name: str) -> tuple[str, Params, Context]:
    """The coding, value and context of a golden frame: "CODING" or "CODING cut"."""
    text, _, cut = name.partition(" ")
    net = model()
    values = wave(net)
    selection = Selection()
    if cut:
        selection = make(net, {"a": range(0, 12, 2)}, ["block"], {"c.weight": values["c.weight"] > -0.3})
    vars(net)["digest"], vars(selection)["digest"] = b"m" * 32, b"s" * 32  # how they are made is not the frame's matter
    base = {n: np.where(a > 0.5, a + np.float32(0.25), a) for n, a in values.items()}
    if text != "bf16-delta":
        return text, extract(net, selection, values), Context(net, selection, 7, 8, 9)
    return text, extract(net, selection, values), Context(net, selection, 7, 8, 9, extract(net, selection, base))


@pytest.mark.parametrize("name", GOLDEN)
def test_a_golden_frame_decodes_to_what_it_always_did(name: str) -> None:
    text, _, ctx = case(name)
    out = plain(decode(text, bytes.fromhex(GOLDEN[name]["frame"]), ctx))
    assert digest(out).hex() == GOLDEN[name]["decoded"]


@pytest.mark.parametrize("name", GOLDEN)
def test_encoding_gives_the_golden_bytes_again(name: str) -> None:
    text, value, ctx = case(name)
    data, golden = encode(text, value, ctx), bytes.fromhex(GOLDEN[name]["frame"])
    squeezed = any(s.coder == ZSTD for b in read_blocks(golden, 9) for s in b.sections)
    if squeezed and zstandard.ZSTD_VERSION != MADE_WITH:
        out, expected = plain(decode(text, data, ctx)), plain(decode(text, golden, ctx))
        assert digest(out) == digest(expected)
        return
    assert data.hex() == golden.hex()


def test_a_frame_can_be_read_by_hand() -> None:
    net = one_matrix(8, 16)
    value = np.zeros((8, 16), np.float32)
    value[0, 3], value[2, 0], value[7, 15] = 1.5, -2.0, 0.25
    data = encode("topk:0.05/f32", {"w": value}, Context(net, WHOLE, 7, 8, 9))
    known = b"pleat frame 2\0topk:0.05/f32\x007\x008\x009\0" + net.digest + WHOLE.digest
    by_hand = (
        b"PLT\x02"
        + hashlib.sha256(known).digest()[:8]
        + bytes([1, 1])  # float32 values, positions as gaps
        + bytes([3, 1, 0])  # k = 3; floor(log2(128 / 3)) - 4 = 1 low bit; no escapes
        + bytes([2 * 3, 3 >> 1, 28 >> 1, 94 >> 1])  # gaps 3, 32 - 3 - 1 = 28, 127 - 32 - 1 = 94, halved
        + bytes([2 * 1, 0b001])  # their low bits: 1, 0, 0
        + bytes([2 * 12])
        + struct.pack("<3f", 1.5, -2.0, 0.25)
    )
    assert data == by_hand + struct.pack("<I", zlib.crc32(by_hand))


def test_levels_can_be_read_by_hand() -> None:
    net = one_matrix(1, 5)
    value = np.array([[1.0, -1.0, 4.0, -4.0, 1.0]], np.float32)
    data = encode("lloyd:2", {"w": value}, Context(net, WHOLE))
    by_hand = (
        bytes([3, 0])  # levels, all positions
        + bytes([2, 4])  # two levels, four codes a byte
        + bytes([2 * 4, 0x80, 0x3F, 0x80, 0x40])  # 1.0 and 4.0 in bf16
        + bytes([2 * 2, 0b11_10_01_00, 0b00])  # +1 -1 +4 -4, +1
    )
    assert data[12:-4] == by_hand


def test_differences_can_be_read_by_hand() -> None:
    net = one_matrix(1, 5)
    base = {"w": np.array([[1.0, 2.0, 3.0, -4.0, 0.0]], np.float32)}
    value = {"w": np.array([[1.0, 2.0, 3.0, -3.984375, 0.0]], np.float32)}  # 0xC080 -> 0xC07F
    data = encode("bf16-delta", value, Context(net, WHOLE, base=base))
    by_hand = (
        bytes([4, 1])  # differences at gaps
        + bytes([1, 0, 0])  # one of them: floor(log2(5)) - 4 < 0, so no low bits; no escapes
        + bytes([2 * 1, 3])
        + bytes([2 * 0])
        + bytes([2 * 1, 0])  # high byte
        + bytes([2 * 1, 0])  # -1 in zigzag is 1, less 1 is 0
    )
    assert data[12:-4] == by_hand
