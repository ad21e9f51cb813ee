"""The pipe between daemon and trainer child: what goes in comes out, and anything else fails loudly."""

from __future__ import annotations

import io

import pytest

from pleat.errors import LocalError
from pleat_client import pipe

REQUESTS = [
    pipe.Train(b"\x00order", wait_s=0.5, down_s=0.25, daemon_bytes=5, memory_bytes=None, threads=2),
    pipe.Train(b"", memory_bytes=1 << 40),
    pipe.Cancel("run/1/0"),
    pipe.Cancel(),
    pipe.Stop(),
]
ANSWERS = [
    pipe.Ready(10, 1, (1, 8, 8), 10),
    pipe.Started("run/1/0"),
    pipe.Progress("run/1/0", 0.5, None),
    pipe.Progress("run/1/0", 1.0, 2.5),
    pipe.Staged("run", 1, 0, "/state/report", "done"),
    pipe.Staged("run", 1, 0, "/state/report", "refused", "does not fit", 123),
    pipe.Failed("run/1/0", "why"),
]


class Trickle(io.RawIOBase):
    """A stream that gives one byte at a time, as a slow pipe may."""

    def __init__(self, data: bytes) -> None:
        self._data = io.BytesIO(data)

    def read(self, n: int = -1) -> bytes:
        return self._data.read(min(n, 1))


@pytest.mark.parametrize("stream", [io.BytesIO, Trickle])
def test_messages_come_out_as_they_went_in(stream: type) -> None:
    requests = stream(b"".join(pipe.encode(m) for m in REQUESTS))
    answers = stream(b"".join(pipe.encode(m) for m in ANSWERS))
    assert [pipe.read_request(requests) for _ in REQUESTS] == REQUESTS
    assert [pipe.read_answer(answers) for _ in ANSWERS] == ANSWERS
    assert pipe.read_request(requests) is None
    assert pipe.read_answer(answers) is None


@pytest.mark.parametrize("cut", range(1, len(pipe.encode(pipe.Cancel("run/1/0")))))
def test_an_end_inside_a_message_is_an_error(cut: int) -> None:
    with pytest.raises(LocalError, match="ended inside a frame"):
        pipe.read_request(io.BytesIO(pipe.encode(pipe.Cancel("run/1/0"))[:cut]))


@pytest.mark.parametrize("data", [b"\x03\x00\x00\x00abc", b"\x01\x00\x00\x00\x90", pipe.encode(pipe.Started("a"))])
def test_anything_else_on_the_pipe_is_an_error(data: bytes) -> None:
    with pytest.raises(LocalError, match="not a message"):
        pipe.read_request(io.BytesIO(data))


def test_a_stray_print_is_no_huge_read() -> None:
    with pytest.raises(LocalError, match="something else wrote to it"):
        pipe.read_answer(io.BytesIO(b"\xff\xff\xff\xff warning: ..."))
