"""Hostile frames: one per error of proto/FRAME.md, and mutations that no one thought of.

Every attack starts from an honest frame, which decodes (the negative control), changes one thing, and seals the result
with the right checksum where the checksum is not the point.
"""

from __future__ import annotations

import tracemalloc
import zlib
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from pleat.codec.coding import build
from pleat.codec.entropy import RAW, ZSTD, Section, low_bits, squeeze
from pleat.codec.frame import Block, Positions, Values, binding, peek, read_blocks, write
from pleat.codec.transform import Context
from pleat.elastic.selection import WHOLE, make
from pleat.errors import RemoteError
from pleat.params import Params
from support.coded import decode, encode, model, one_matrix, random_params, sealed

NET = one_matrix(100, 20)  # one block of 2000 entries
CTX = Context(NET, WHOLE, round=3, seed=4, version=5)
UPDATE = random_params(NET)
GAPS = np.zeros(100, np.uint8)


def honest(text: str, ctx: Context = CTX, value: Params = UPDATE) -> Block:
    """The one block of an honest frame, its sections as bytes."""
    block = read_blocks(encode(text, value, ctx), 1)[0]
    return replace(block, sections=tuple(Section(s.coder, bytes(s.data)) for s in block.sections))


def reframed(text: str, *blocks: Block, ctx: Context = CTX) -> bytes:
    return write(blocks, binding(text, ctx, text == "bf16-delta"))


def refuse(text: str, data: bytes, message: str, ctx: Context = CTX) -> None:
    with pytest.raises(RemoteError, match=message):
        decode(text, data, ctx)


def swap(block: Block, at: int, section: Section) -> Block:
    return replace(block, sections=(*block.sections[:at], section, *block.sections[at + 1 :]))


def field(block: Block, at: int, value: int) -> Block:
    return replace(block, fields=(*block.fields[:at], value, *block.fields[at + 1 :]))


def kept(
    k: int, gaps: bytes | None = None, escapes: int = 0, low: int | None = None, lows: bytes | None = None
) -> Block:
    """A block of k float32 ones at given gaps."""
    low = low_bits(max(k, 1), 2000) if low is None else low
    lows = bytes(low * ((k + 7) // 8)) if lows is None else lows
    sections = (Section(RAW, bytes(k) if gaps is None else gaps), Section(RAW, lows), ones(k))
    return Block(Values.F32, Positions.GAPS, (k, low, escapes), sections)


def ones(k: int) -> Section:
    return Section(RAW, np.ones(k, np.float32).tobytes())


ALL = ["raw", "bf16", "bf16-delta", "lloyd:3", "topk:0.1/lloyd:4", "topk:0.1/lloyd:3", "topk:0.4/f32", "topk:0.01/bf16"]


@pytest.mark.parametrize("text", ALL)
def test_control_an_honest_block_framed_again_decodes(text: str) -> None:
    data = encode(text, UPDATE, CTX)
    assert reframed(text, honest(text)) == data
    decode(text, data, CTX)


def test_control_the_hand_made_blocks_decode() -> None:
    for block in (kept(100), kept(100, bytes(50) + b"\xff" + bytes(50), escapes=1), kept(3)):
        decode("topk:0.1/f32", reframed("topk:0.1/f32", block), CTX)


# the frame


def test_a_frame_shorter_than_the_least_is_refused() -> None:
    for size in range(16):
        refuse("raw", encode("raw", UPDATE, CTX)[:size], f"frame of {size} bytes is cut short")


def test_a_frame_longer_than_the_submodel_needs_is_refused_before_it_is_read() -> None:
    refuse("bf16", bytes(20_000), "frame of 20000 bytes; this submodel needs at most 9040")


def test_another_magic_is_refused() -> None:
    refuse("raw", b"GET" + encode("raw", UPDATE, CTX)[3:], "frame starts with b'GET', expected b'PLT'")


@pytest.mark.parametrize(("version", "age"), [(1, "older"), (3, "newer")])
def test_another_version_is_refused_and_says_which_side_to_update(version: int, age: str) -> None:
    body = bytearray(encode("raw", UPDATE, CTX)[:-4])
    body[3] = version
    refuse("raw", sealed(bytes(body)), f"frame version {version} is {age} than ours, 2; update the {age} side")


def test_a_flipped_bit_is_refused() -> None:
    data = bytearray(encode("raw", UPDATE, CTX))
    data[77] ^= 4
    refuse("raw", bytes(data), "frame checksum is")


OTHERS: dict[str, tuple[str, Context]] = {
    "a replayed round": ("topk:0.1/f32", replace(CTX, round=2)),
    "a seed of the device's choice": ("topk:0.1/f32", replace(CTX, seed=0)),
    "another version": ("topk:0.1/f32", replace(CTX, version=4)),
    "another selection": ("topk:0.1/f32", replace(CTX, selection=make(NET, masks={"w": UPDATE["w"] > 0}))),
    "another model": ("topk:0.1/f32", replace(CTX, model=one_matrix(20, 100))),
    "another coding": ("topk:0.2/f32", CTX),
}


@pytest.mark.parametrize("what", OTHERS)
def test_a_frame_for_something_else_is_refused_by_its_binding(what: str) -> None:
    text, ctx = OTHERS[what]
    value = {"w": np.ones(next(t.shape for t in ctx.model.tensors), np.float32)}
    refuse("topk:0.1/f32", encode(text, value, ctx), "coded for another model, selection, coding, round")


def test_a_difference_to_a_foreign_base_is_refused() -> None:
    ours, theirs = replace(CTX, base=UPDATE), replace(CTX, base={"w": UPDATE["w"] * 2})
    for other in (theirs, CTX):
        refuse("bf16-delta", encode("bf16-delta", UPDATE, other), "version or base", ours)
    decode("bf16-delta", encode("bf16-delta", UPDATE, ours), ours)


def test_more_or_fewer_blocks_than_segments_are_refused() -> None:
    block = honest("bf16")
    refuse("bf16", reframed("bf16", block, block), "more than the 1 blocks")
    for text in ("bf16", "bf16-delta"):
        refuse(text, reframed(text), "holds 0 blocks, this submodel has 1")


def test_exchanged_blocks_are_refused() -> None:
    ctx = Context(model(), WHOLE)
    blocks = read_blocks(encode("f32", random_params(model()), ctx), 2)
    refuse("f32", reframed("f32", *reversed(blocks), ctx=ctx), "block holds F32 values, this coding has BF16", ctx)


# blocks


def test_a_block_cut_short_is_refused() -> None:
    body = encode("bf16", UPDATE, CTX)[:12] + b"\x02"
    refuse("bf16", sealed(body), "block at byte 12 is cut short")


@pytest.mark.parametrize("tags", [b"\x63\x00", b"\x02\x63"])
def test_an_unknown_tag_is_refused(tags: bytes) -> None:
    refuse("bf16", sealed(encode("bf16", UPDATE, CTX)[:12] + tags), "block at byte 12 has unknown tags")


def test_values_of_another_kind_are_refused() -> None:
    refuse("bf16", reframed("bf16", honest("raw")), "block holds F32 values, this coding has BF16")
    refuse("bf16-delta", reframed("bf16-delta", honest("bf16")), "block holds BF16 values, this coding has DELTA")


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (b"\x80", "number at byte 14 is cut short"),
        (b"", "number at byte 14 is cut short"),
        (b"\x80\x00", "number at byte 14 is longer than it needs"),
        (b"\xff\xff\xff\xff\xff\x01", "number at byte 14 is longer than 5 bytes"),
        (b"\xff\xff\xff\xff\x7f", "section at byte 19 says 17179869183 bytes, 0 are left"),
        (b"\x0a" + b"1234", "section at byte 15 says 5 bytes, 4 are left"),
    ],
)
def test_a_bad_number_or_length_is_refused(number: bytes, message: str) -> None:
    refuse("bf16", sealed(encode("bf16", UPDATE, CTX)[:12] + b"\x02\x00" + number), message)


def test_bytes_after_the_last_block_are_refused() -> None:
    refuse("bf16", sealed(encode("bf16", UPDATE, CTX)[:-4] + b"\0"), "more than the 1 blocks")


def test_entries_left_out_of_a_dense_coding_are_refused() -> None:
    sections = (Section(RAW, bytes(100)), Section(RAW, b""), Section(RAW, bytes(100)), Section(RAW, bytes(100)))
    block = Block(Values.BF16, Positions.GAPS, (100, 0, 0), sections)
    refuse("bf16", reframed("bf16", block), "block leaves entries out")
    refuse("bf16", reframed("bf16", Block(Values.NONE)), "block leaves entries out")


def test_all_entries_in_a_sparse_coding_are_refused() -> None:
    refuse(
        "topk:0.1/f32", reframed("topk:0.1/f32", honest("raw")), "holds all 2000 entries; this coding keeps at most 200"
    )


@pytest.mark.parametrize("text", ["topk:0.1/f32", "bf16-delta"])
def test_an_empty_block_with_positions_is_refused(text: str) -> None:
    block = Block(Values.NONE, Positions.BITMAP, (7,), (Section(RAW, bytes(250)),))
    refuse(text, reframed(text, block), "an empty block has positions")


# positions


@pytest.mark.parametrize("k", [0, 201, 1 << 34])
def test_a_number_of_kept_entries_out_of_bounds_is_refused(k: int) -> None:
    block = field(kept(200), 0, k)
    refuse(
        "topk:0.1/f32", reframed("topk:0.1/f32", block), f"block keeps {k} of 2000 entries; this coding keeps 1 to 200"
    )


def test_more_kept_entries_than_the_segment_has_are_refused() -> None:
    data = reframed("bf16-delta", Block(Values.DELTA, Positions.BITMAP, (2001,), (Section(RAW, b""),) * 3))
    refuse("bf16-delta", data, "block keeps 2001 of 2000 entries")


def test_the_share_holds_over_all_segments_together() -> None:
    net = one_matrix(1 << 12, 1 << 9)
    ctx, text = Context(net, WHOLE), "topk:0.25/f32"
    k = 1 << 18
    block = Block(Values.F32, Positions.GAPS, (k, 0, 0), (Section(RAW, bytes(k)), Section(RAW, b""), ones(k)))
    extra = Block(
        Values.F32, Positions.GAPS, (k + 1, 0, 0), (Section(RAW, bytes(k + 1)), Section(RAW, b""), ones(k + 1))
    )
    decode(text, reframed(text, block, block, ctx=ctx), ctx)
    refuse(
        text,
        reframed(text, block, extra, ctx=ctx),
        f"keeps {k + 1} of {4 * k} entries; this coding keeps 1 to {k}",
        ctx,
    )


def test_gaps_split_at_another_bit_are_refused() -> None:
    refuse("topk:0.1/f32", reframed("topk:0.1/f32", kept(100, low=1)), "gaps split at bit 1, expected 0")


def test_more_escapes_than_there_is_room_for_are_refused() -> None:
    refuse(
        "topk:0.1/f32",
        reframed("topk:0.1/f32", field(kept(100), 2, 8)),
        "8 escapes in the gaps of 2000 entries; at most 7",
    )


def test_an_escape_without_its_rest_is_refused() -> None:
    refuse("topk:0.1/f32", reframed("topk:0.1/f32", kept(100, bytes(99) + b"\xff")), "escape without its rest")
    lone = kept(100, bytes(100) + b"\xff", escapes=1)
    refuse("topk:0.1/f32", reframed("topk:0.1/f32", lone), "the last escape has no rest")


def test_another_number_of_positions_is_refused() -> None:
    refuse(
        "topk:0.1/f32", reframed("topk:0.1/f32", kept(100, bytes(101), escapes=1)), "gaps: 101 positions, expected 100"
    )
    block = Block(Values.F32, Positions.BITMAP, (100,), (Section(RAW, bytes(12) + b"\xff" + bytes(237)), ones(100)))
    refuse("topk:0.1/f32", reframed("topk:0.1/f32", block), "bitmap: 8 positions, expected 100")


def test_a_position_beyond_the_segment_is_refused() -> None:
    block = kept(100, bytes([20]) * 100)
    refuse("topk:0.1/f32", reframed("topk:0.1/f32", block), "last position 2099 lies outside the 2000 entries")
    far = kept(1, b"\x7f", lows=b"\x01" * low_bits(1, 2000))
    refuse("topk:0.1/f32", reframed("topk:0.1/f32", far), r"last position \d+ lies outside the 2000 entries")


def test_filling_bits_are_refused() -> None:
    net = one_matrix(1, 2001)
    ctx = Context(net, WHOLE)
    bitmap = bytes([0xFF] * 25) + bytes(225) + b"\x02"
    block = Block(Values.F32, Positions.BITMAP, (201,), (Section(RAW, bitmap), ones(201)))
    refuse("topk:0.2/f32", reframed("topk:0.2/f32", block, ctx=ctx), "bitmap: bits beyond the 2001-th are set", ctx)
    low = low_bits(3, 2000)
    filled = kept(3, lows=b"\x08" + bytes(low - 1))
    refuse("topk:0.1/f32", reframed("topk:0.1/f32", filled), "gaps: bits beyond the 3-th are set")


def test_compressed_low_bits_are_refused() -> None:
    block = swap(kept(3), 1, Section(ZSTD, b"abc"))
    refuse("topk:0.1/f32", reframed("topk:0.1/f32", block), "low bits of gaps are compressed")


# sections


@pytest.mark.parametrize("text", ALL)
@pytest.mark.parametrize("by", [-1, 1])
def test_a_section_of_another_length_is_refused(text: str, by: int) -> None:
    block = honest(text)
    for at, section in enumerate(block.sections):
        data = section.data[:-1] if by < 0 else bytes(section.data) + b"\0"
        if data == section.data:
            continue  # an empty section has nothing to lose
        refuse(text, reframed(text, swap(block, at, replace(section, data=data))), "raw bytes|corrupt|must be fewer")


def zstd(raw: bytes, **settings: int) -> bytes:
    """One zstd frame without its magic number."""
    fixed = {"compression_level": 1, "write_content_size": 1, "write_checksum": 0} | settings
    made = zstandard.ZstdCompressor(compression_params=zstandard.ZstdCompressionParameters(**fixed)).compress(raw)
    return made[4:]


def streamed(raw: bytes, window_log: int) -> bytes:
    """zstd that does not declare its size, and so has a window of its own."""
    settings = zstandard.ZstdCompressionParameters(window_log=window_log, write_checksum=0)
    stream = zstandard.ZstdCompressor(compression_params=settings).compressobj(size=-1)
    return (stream.compress(raw) + stream.flush())[4:]


def repeated(said: int, real: int) -> bytes:
    """zstd that declares `said` bytes and holds one byte `real` times, in one run-length block."""
    return b"\x60" + (said - 256).to_bytes(2, "little") + (real << 3 | 0b011).to_bytes(3, "little") + b"\x3f"


def test_control_run_length_zstd_decodes() -> None:
    decode("bf16", reframed("bf16", swap(honest("bf16"), 0, Section(ZSTD, repeated(2000, 2000)))), CTX)


ATTACKS: dict[str, tuple[Callable[[], bytes], str]] = {
    "a bomb that declares its size": (
        lambda: zstd(bytes(40_000_000), window_log=27),
        "declares 40000000 bytes, expected 2000",
    ),
    "a bomb that declares none": (lambda: streamed(bytes(50_000_000), 20), "window of its own"),
    "fewer bytes than expected": (lambda: zstd(bytes(1999)), "declares 1999 bytes, expected 2000"),
    "no content size": (lambda: zstd(bytes(2000), write_content_size=0), "window of its own"),
    "a checksum": (lambda: zstd(bytes(2000), write_checksum=1), "asks for a dictionary or a checksum"),
    "reserved bits": (lambda: b"\x28" + bytes(9), "window of its own or reserved bits"),
    "a size cut short": (lambda: b"\xa0\xd0", "declares 208 bytes, expected 2000"),
    "less than it declares": (lambda: repeated(2000, 1999), "corrupt compressed bytes"),
    "more than it declares": (lambda: repeated(2000, 2001), "corrupt compressed bytes"),
    "no header": (lambda: b"", "no zstd header"),
    "a reserved header": (lambda: b"\xff" * 12, "asks for a dictionary"),
    "bytes after the frame": (lambda: zstd(bytes(2000)) + b"\0", "corrupt compressed bytes"),
    "two frames": (lambda: zstd(bytes(2000)) + zstandard.FRAME_HEADER + zstd(bytes(2000)), "corrupt compressed bytes"),
    "a corrupt body": (lambda: zstd(bytes(2000))[:-3] + b"\xff\xff\xff", "corrupt compressed bytes"),
    "a cut body": (lambda: zstd(bytes(2000))[:-2], "corrupt compressed bytes"),
    "no gain": (
        lambda: zstd(np.random.default_rng(0).bytes(2000)),
        "compressed bytes stand for 2000; they must be fewer",
    ),
}


@pytest.mark.parametrize("what", ATTACKS)
def test_hostile_zstd_is_refused_without_taking_memory(what: str) -> None:
    make_it, message = ATTACKS[what]
    block = swap(honest("bf16"), 0, Section(ZSTD, make_it()))
    data = reframed("bf16", block)
    tracemalloc.start()
    try:
        refuse("bf16", data, message)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 100_000


def test_a_large_zstd_window_is_refused() -> None:
    # Descriptor 0x80: content size in four bytes, window byte 0x60: 2^22; then one raw block of nothing.
    header = bytes([0x80, 0x60]) + (2000).to_bytes(4, "little") + b"\x01\x00\x00"
    refuse("bf16", reframed("bf16", swap(honest("bf16"), 0, Section(ZSTD, header))), "has a window of its own")


def test_a_zstd_dictionary_is_refused() -> None:
    # Descriptor 0x61: two bytes of content size (less 256), single segment, one byte of dictionary id.
    header = bytes([0x61, 0x07]) + (2000 - 256).to_bytes(2, "little") + b"\x01\x00\x00"
    refuse("bf16", reframed("bf16", swap(honest("bf16"), 0, Section(ZSTD, header))), "asks for a dictionary")


# values


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_float32_values_that_are_not_finite_are_refused(bad: float) -> None:
    values = UPDATE["w"].copy()
    values[3, 3] = bad
    refuse("raw", reframed("raw", swap(honest("raw"), 0, Section(RAW, values.tobytes()))), "float32 values hold NaN")


@pytest.mark.parametrize("high", [0x7F, 0xFF])
def test_bf16_values_that_are_not_finite_are_refused(high: int) -> None:
    block = swap(swap(honest("bf16"), 0, squeeze(bytes([high]) * 2000)), 1, squeeze(b"\x80" * 2000))
    refuse("bf16", reframed("bf16", block), "bf16 values hold NaN")


def test_a_difference_that_leads_to_infinity_is_refused() -> None:
    words = np.full(2000, 0x7F80, np.uint16) * 2 - 0
    block = Block(Values.DELTA, sections=(squeeze((words >> 8).astype(np.uint8)), squeeze(words.astype(np.uint8))))
    refuse("bf16-delta", reframed("bf16-delta", block), "bf16 differences lead to NaN or infinity")


def codebook(*levels: int) -> Section:
    return Section(RAW, np.array(levels, "<u2").tobytes())


@pytest.mark.parametrize(
    ("levels", "message"),
    [
        ((), "codebook of 0 levels; 3 bits allow 1 to 4"),
        ((1, 2, 3, 4, 5), "codebook of 5 levels; 3 bits allow 1 to 4"),
        ((0x3F80, 0x3F80), "do not increase strictly"),
        ((0x4000, 0x3F80), "do not increase strictly"),
        ((0x3F80, 0xBF80), "negative, infinite or NaN"),
        ((0x3F80, 0x7F80), "negative, infinite or NaN"),
        ((0x3F80, 0x7FC0), "negative, infinite or NaN"),
    ],
)
def test_a_bad_codebook_is_refused(levels: tuple[int, ...], message: str) -> None:
    block = field(swap(honest("lloyd:3"), 0, codebook(*levels)), 0, len(levels))
    refuse("lloyd:3", reframed("lloyd:3", block), message)


def test_a_compressed_codebook_or_compressed_float32_values_are_refused() -> None:
    block = swap(honest("lloyd:8"), 0, squeeze(bytes(256)))
    refuse("lloyd:8", reframed("lloyd:8", block), "codebook is compressed")
    block = swap(honest("raw"), 0, squeeze(bytes(8000)))
    refuse("raw", reframed("raw", block), "float32 values are compressed")


@pytest.mark.parametrize("each", [0, 3, 8, 1 << 30])
def test_an_impossible_number_of_codes_a_byte_is_refused(each: int) -> None:
    refuse("lloyd:3", reframed("lloyd:3", field(honest("lloyd:3"), 1, each)), "codes a byte; 3 bits allow 1 or 2")


def test_a_code_without_a_level_is_refused() -> None:
    two = codebook(0x3F80, 0x4000)
    for each, codes in (
        (1, b"\x03" * 1999 + b"\x04"),
        (2, b"\x1b" * 999 + b"\x23"),
        (1, b"\xff" * 2000),
        (2, b"\x40" * 1000),
    ):
        block = Block(Values.LEVELS, fields=(2, each), sections=(two, squeeze(codes)))
        refuse("lloyd:3", reframed("lloyd:3", block), "a code has no level; the codebook has 2")
    good = Block(Values.LEVELS, fields=(2, 2), sections=(two, squeeze(b"\x1b" * 1000)))
    decode("lloyd:3", reframed("lloyd:3", good), CTX)


def test_filling_bits_of_codes_are_refused() -> None:
    ctx = Context(one_matrix(1, 3), WHOLE)
    for last, ok in ((b"\x01", True), (b"\x09", False)):
        data = reframed(
            "lloyd:3",
            Block(Values.LEVELS, fields=(2, 2), sections=(codebook(1, 2), Section(RAW, b"\0" + last))),
            ctx=ctx,
        )
        if ok:
            decode("lloyd:3", data, ctx)
        else:
            refuse("lloyd:3", data, "bits beyond the 3-th code are set", ctx)


# what no one thought of


@pytest.mark.parametrize("text", ALL)
@given(st.data())
@settings(max_examples=60, deadline=None)
def test_mutated_and_sealed_frames_decode_to_something_finite_or_are_refused(text: str, data: st.DataObject) -> None:
    body = bytearray(encode(text, UPDATE, CTX)[:-4])
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(12, min(len(body) - 1, 12 + data.draw(st.sampled_from([12, 200, 100_000])))))
        if data.draw(st.booleans()):
            body[at] = data.draw(st.integers(0, 255))
        elif len(body) > 40:
            del body[at : at + data.draw(st.integers(1, 3))]
    try:
        out = decode(text, sealed(bytes(body)), CTX)["w"]
    except RemoteError:
        return
    values = out if isinstance(out, np.ndarray) else out.values
    assert np.isfinite(values).all()
    assert out.shape == (100, 20)
    if not isinstance(out, np.ndarray):
        assert (np.diff(out.index) > 0).all()
        assert out.index.size == 0 or 0 <= out.index[0] <= out.index[-1] < 2000


@pytest.mark.parametrize("text", ALL)
def test_every_truncation_is_refused_sealed_or_not(text: str) -> None:
    data = encode(text, UPDATE, CTX)
    for size in {*range(min(len(data), 60)), *range(0, len(data), 97), len(data) - 1}:
        refuse(text, data[:size], "cut short|checksum")
        if 12 <= size < len(data) - 4:
            refuse(text, sealed(data[:size]), ".")


@given(st.binary(max_size=200))
@settings(max_examples=100, deadline=None)
def test_noise_is_refused(noise: bytes) -> None:
    refuse("topk:0.1/lloyd:4", noise, ".")
    if noise != b"\0\0":  # a block that keeps nothing
        refuse("topk:0.1/lloyd:4", sealed(b"PLT\x02" + binding("topk:0.1/lloyd:4", CTX) + noise), ".")


def test_peeking_tells_what_a_frame_holds_and_refuses_what_is_malformed() -> None:
    data = encode("topk:0.1/lloyd:4", UPDATE, CTX)
    info = peek(data)
    assert (info.version, info.length, info.binding) == (2, len(data), data[4:12])
    assert [row[:3] for row in info.blocks] == [("LEVELS", "GAPS", 200)]
    with pytest.raises(RemoteError, match="more than the 16384 blocks"):
        peek(sealed(data[:12] + bytes(40_000)))
    with pytest.raises(RemoteError, match="checksum"):
        peek(data[:-1])


def test_the_checksum_is_that_of_zlib() -> None:
    data = encode("raw", UPDATE, CTX)
    assert int.from_bytes(data[-4:], "little") == zlib.crc32(data[:-4])
    assert build("raw").decode(memoryview(data), CTX)["w"].tobytes() == UPDATE["w"].tobytes()
