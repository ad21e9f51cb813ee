"""Questions and answers: their bytes, what a stranger may send in their place, and how much an answer may cost."""

from __future__ import annotations

import pytest

from pleat import __version__
from pleat.errors import RemoteError
from pleat.exchange import limits
from pleat.exchange.pb import fleet_pb2 as pb
from pleat.exchange.question import Answer, answer, question, reply


def test_an_answer_says_what_the_server_is_and_what_its_smallest_submodel_takes() -> None:
    assert answer(reply(question(), "run-1", 3 << 20)) == Answer(1, __version__, "run-1", 3 << 20)
    assert answer(reply(question(), "run-1", None)).smallest is None
    assert answer(reply(question(), "run-1", 0)).smallest == 0, "nothing is not unknown"


def test_golden_bytes_of_a_question_and_an_answer() -> None:
    asked = pb.Question(protocol=1, software="0.1.0", padding=b"ab", wanted=3)
    said = pb.Answer(protocol=1, software="0.1.0", run="run-1", smallest=7, padding=bytes(3))
    assert asked.SerializeToString(deterministic=True).hex() == "08011205302e312e301a0261622003"
    assert said.SerializeToString(deterministic=True).hex() == "08011205302e312e301a0572756e2d3120072a03000000"


@pytest.mark.parametrize(("up", "down"), [(0, 0), (1, 0), (0, 1), (limits.CHUNK, limits.CHUNK)])
def test_padding_travels_both_ways_up_to_a_chunk(up: int, down: int) -> None:
    asked = question(up, down)
    assert up <= len(asked) < up + 40
    assert down <= len(reply(asked, "run-1", None)) < down + 40


@pytest.mark.parametrize(
    ("raw", "names"),
    [
        (question(down=limits.CHUNK + 1), "padding wanted is 1048577"),
        (question(up=limits.CHUNK + 1), "padding of a question is 1048577"),
        (question(up=limits.MESSAGE), "message of"),
        (b"\xff\xff", "is not a pleat.v1.Question"),
    ],
)
def test_a_question_that_breaks_a_limit_is_refused_before_memory_is_taken(raw: bytes, names: str) -> None:
    with pytest.raises(RemoteError, match=names):
        reply(raw, "run-1", None)


@pytest.mark.parametrize(
    ("said", "names"),
    [
        (pb.Answer(protocol=1, run="a/b"), "run name"),
        (pb.Answer(protocol=1), "run name"),
        (pb.Answer(protocol=1, run="r", smallest=1 << 51), "smallest submodel"),
    ],
)
def test_an_answer_that_breaks_a_limit_is_refused(said: pb.Answer, names: str) -> None:
    with pytest.raises(RemoteError, match=names):
        answer(said.SerializeToString())
    with pytest.raises(RemoteError, match=r"is not a pleat.v1.Answer"):
        answer(b"\xff")


def test_of_a_server_of_another_version_only_its_version_is_read() -> None:
    said = pb.Answer(protocol=7, software="9.0\n" + "x" * 50, run="a/b", smallest=1 << 60)
    assert answer(said.SerializeToString()) == Answer(7, ("9.0 " + "x" * 50)[:32])
