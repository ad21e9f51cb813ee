"""The protocol's table, held against what it must say; both ends joined in memory over every row of it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from pleat.errors import LocalError, RemoteError
from pleat.exchange import envelope, messages
from pleat.exchange.messages import Begin, Chunk, Why
from pleat.exchange.report import Profile
from pleat.exchange.session import LINKED, TABLE, Line, Outbox, Said, Side, State, Talk, step
from pleat.exchange.wire import report_from_bytes
from pleat_client import session
from pleat_client.session import Device, Happens, Stand
from support.pair import FIRST, HELLO, ORDER, SAID, WELCOME, ConnectionPair

BODIES = (Said.BEGIN, Said.WHOLE, Said.CHUNK, Said.LAST, Said.STOP)
WORDS = {
    Side.DEVICE: {Said.HELLO, Said.BEAT, Said.PONG, Said.LEAVE, *BODIES},
    Side.SERVER: set(Said) - {Said.HELLO, Said.BEAT, Said.PONG, Said.LEAVE},
}


def pair_in(side: Side, state: State) -> ConnectionPair:
    """Two ends of which `side` is in `state`, reached by legal words."""
    pair = ConnectionPair()
    if state is State.OPEN:
        return pair
    pair.say(Side.DEVICE, HELLO)
    if state is State.GREETED:
        return pair
    pair.say(Side.SERVER, WELCOME)
    if state is State.SENDING:
        pair.say(side, FIRST)
    if state is State.CLOSED:
        pair.say(Side.SERVER, messages.Bye())
    return pair


CASES = [(side, state, said) for side in Side for state in State for said in Said]
LEGAL = [(side, state, said) for side, state, said in CASES if said in TABLE[side][state]]
ILLEGAL = [case for case in CASES if case not in LEGAL]


def name(case: tuple[Side, State, Said]) -> str:
    return f"{case[0].value}-{case[1].value}-{case[2].value}".replace(" ", "_")


@pytest.mark.parametrize("case", LEGAL, ids=name)
def test_what_the_table_allows_passes_and_leads_where_it_says(case: tuple[Side, State, Said]) -> None:
    side, state, said = case
    pair = pair_in(side, state)
    pair.say(side, SAID[said])
    for line in pair.ends.values():
        assert line.talk.of(side) is TABLE[side][state][said]
        if said in LINKED:
            assert line.talk.of(side.peer) is LINKED[said]


@pytest.mark.parametrize("case", ILLEGAL, ids=name)
def test_what_the_table_forbids_is_my_bug_when_i_say_it_and_the_peers_when_i_hear_it(
    case: tuple[Side, State, Said],
) -> None:
    side, state, said = case
    pair = pair_in(side, state)
    speaker, listener = pair.ends[side], pair.ends[side.peer]
    before = (speaker.talk, listener.talk)
    raw = envelope.pack(SAID[said])
    with pytest.raises(LocalError, match=f"the {side.value} may not say .* when {state.value}"):
        speaker.send(SAID[said])
    known = said in WORDS[side]
    expected = f"the {side.value} may not say .* when {state.value}" if known else "says nothing this version knows"
    with pytest.raises(RemoteError, match=expected):
        listener.receive(raw)
    assert (speaker.talk, listener.talk) == before


def test_every_state_of_both_speakers_is_in_the_table() -> None:
    assert all(set(TABLE[side]) == set(State) for side in Side)
    assert set(SAID) == set(Said)


def test_words_of_one_speaker_are_nowhere_in_the_table_of_the_other() -> None:
    for side in Side:
        assert {said for row in TABLE[side].values() for said in row} <= WORDS[side]


def test_nothing_may_be_said_after_the_end() -> None:
    assert all(step(Talk(State.CLOSED, State.CLOSED), side, said) is None for side in Side for said in Said)


def test_small_words_pass_between_the_chunks_of_a_body_and_both_ways_at_once() -> None:
    pair = ConnectionPair().joined()
    pair.say(Side.DEVICE, FIRST)
    pair.say(Side.SERVER, FIRST)
    pair.say(Side.DEVICE, SAID[Said.BEAT])
    pair.say(Side.SERVER, SAID[Said.ACK])
    assert pair.say(Side.SERVER, Chunk(b"456789")) == Chunk(b"456789")
    assert pair.ends[Side.DEVICE].talk == Talk(State.SENDING, State.JOINED)
    pair.say(Side.DEVICE, Chunk(b"456789"))
    assert pair.ends[Side.SERVER].talk == Talk(State.JOINED, State.JOINED)


@pytest.mark.parametrize(
    "chunk", [Chunk(b""), Chunk(b"4567890")], ids=["an empty chunk", "a chunk past the declared size"]
)
def test_a_body_that_lies_about_its_size_is_refused(chunk: Chunk) -> None:
    pair = ConnectionPair().joined()
    pair.say(Side.SERVER, FIRST)
    with pytest.raises(RemoteError, match=f"after 4 of 10 of {ORDER}"):
        pair.ends[Side.DEVICE].receive(envelope.pack(chunk))
    with pytest.raises(LocalError, match="about to send"):
        pair.ends[Side.SERVER].send(chunk)


def test_both_ends_count_the_same_bytes_and_these_are_the_serialised_lengths() -> None:
    pair, sent = ConnectionPair(), {Side.DEVICE: 0, Side.SERVER: 0}
    for side, message in (
        (Side.DEVICE, HELLO),
        (Side.SERVER, WELCOME),
        (Side.SERVER, FIRST),
        (Side.SERVER, SAID[Said.LAST]),
    ):
        pair.say(side, message)
        sent[side] += len(envelope.pack(message, "run-1"))
    for side in Side:
        assert pair.ends[side].bytes_out == sent[side] == pair.ends[side.peer].bytes_in


# ---- the outbox


def said_by(outbox: Outbox) -> list[messages.Message]:
    out = []
    while (message := outbox.next()) is not None:
        out.append(message)
    return out


def test_small_words_overtake_bodies_and_bodies_keep_their_order() -> None:
    outbox = Outbox()
    large = [bytes(1 << 20), bytes(5)]
    outbox.body("r/1/0", (1 << 20) + 5, lambda: iter(large))
    outbox.body("r/1/1", 3, lambda: iter([b"abc"]))
    first = outbox.next()
    outbox.say(SAID[Said.PING])
    assert first == Begin("r/1/0", (1 << 20) + 5)
    assert said_by(outbox) == [SAID[Said.PING], Chunk(large[0]), Chunk(large[1]), Begin("r/1/1", 3, b"abc")]


def test_a_body_that_is_dropped_before_its_turn_is_never_begun() -> None:
    outbox = Outbox()
    outbox.body("r/1/0", 3, lambda: iter([b"abc"]))
    outbox.body("r/1/1", 3, lambda: iter([b"def"]))
    outbox.drop("r/1/0", "returned")
    assert said_by(outbox) == [Begin("r/1/1", 3, b"def")]


def test_a_body_that_is_dropped_half_way_is_stopped_and_the_line_is_free_again() -> None:
    pair, outbox = ConnectionPair().joined(), Outbox()
    outbox.body("r/1/0", 2 << 20, lambda: iter([bytes(1 << 20)] * 2))
    for _ in range(2):
        pair.say(Side.DEVICE, outbox.next())  # type: ignore[arg-type]
    outbox.drop("r/1/0", "returned")
    outbox.body("r/1/1", 3, lambda: iter([b"def"]))
    rest = said_by(outbox)
    for message in rest:
        pair.say(Side.DEVICE, message)
    assert rest == [messages.Stop("returned"), Begin("r/1/1", 3, b"def")]


def test_a_body_that_ends_early_is_my_bug() -> None:
    outbox = Outbox()
    outbox.body("r/1/0", 2 << 20, lambda: iter([bytes(1 << 20)]))
    with pytest.raises(LocalError, match="ends 1048576 bytes early"):
        said_by(outbox)


# ---- the device's life


def test_the_devices_life_has_no_row_without_a_way_out_but_the_end() -> None:
    assert set(session.TABLE) == set(Stand)
    assert all(Happens.STOPPED in row for stand, row in session.TABLE.items() if stand is not Stand.ENDED)
    assert session.TABLE[Stand.ENDED] == {}


@pytest.mark.parametrize(
    ("stand", "happens"),
    [(s, h) for s in Stand for h in Happens if h not in session.TABLE[s]],
    ids=lambda v: v.value.replace(" ", "_"),
)
def test_what_cannot_happen_to_a_device_is_named(stand: Stand, happens: Happens) -> None:
    with pytest.raises(LocalError, match=f"{stand.value} cannot be {happens.value}"):
        session.after(stand, happens)


@pytest.mark.parametrize("why", list(Why), ids=lambda w: w.name.lower())
def test_only_what_a_person_must_mend_ends_a_device(why: Why) -> None:
    (over,) = device().hear(messages.Refusal(why, "text"), 0.0)
    barred = why in (Why.OLDER, Why.NEWER, Why.NAME, Why.CLONE)
    assert over == session.Over(Happens.BARRED if barred else Happens.PUT_OFF, "text")


def device(held: tuple[str, ...] = (), largest: int = 1000) -> Device:
    return Device("kitchen", bytes(32), bytes(16), lambda: held, largest)


def test_the_secret_itself_is_not_in_the_hello() -> None:
    secret = bytes(range(32))
    owner = Device("kitchen", secret, bytes(16), lambda: ())
    assert secret not in envelope.pack(owner.hello(Profile()))


def test_each_welcome_sends_every_unacknowledged_report_again_and_an_ack_ends_that() -> None:
    owner = device()
    owner.report("r/1/0", b"one")
    owner.report("r/2/0", b"two")
    sends = [session.Send("r/1/0", b"one"), session.Send("r/2/0", b"two")]
    for _ in range(2):
        assert owner.hear(WELCOME, 0.0) == [session.Joined("run-1"), *sends]
    assert owner.hear(messages.Ack("r/1/0"), 0.0) == [session.Acked("r/1/0")]
    assert owner.hear(messages.Ack("r/1/0"), 0.0) == []
    assert owner.hear(WELCOME, 0.0) == [session.Joined("run-1"), sends[1]]
    assert owner.hello(Profile()).held == ("r/2/0",)


def test_a_returned_report_is_given_back_once_and_no_longer_sent() -> None:
    owner = device()
    owner.report("r/1/0", b"one")
    said = messages.Returned("r/1/0", "late")
    assert owner.hear(said, 0.0) == [session.Forget("r/1/0"), session.GivenBack("r/1/0", "late")]
    assert owner.hear(said, 0.0) == []


def test_an_order_too_large_is_refused_with_the_numbers_and_dropped_as_it_comes() -> None:
    owner = device(largest=100)
    (send,) = owner.hear(Begin("r/1/0", 101), 0.0)
    assert isinstance(send, session.Send)
    assert isinstance(send.report, bytes)
    told = report_from_bytes(send.report)
    assert (told.outcome.value, told.reason) == ("refused", "order of 101 bytes, this device takes at most 100")
    assert owner.hear(Chunk(bytes(101)), 0.0) == []


def test_an_order_that_is_being_done_is_not_done_twice() -> None:
    owner = device(held=("r/1/0",))
    assert owner.hear(Begin("r/1/0", 3, b"abc"), 0.0) == []


def test_what_a_broken_connection_left_half_done_is_forgotten_at_the_next_hello() -> None:
    owner = device()
    owner.hear(Begin("r/1/0", 10, b"0123"), 0.0)
    owner.hello(Profile())
    assert owner.hear(Chunk(b"456789"), 0.0) == []


def test_the_devices_end_of_the_link_loads_neither_numpy_nor_torch() -> None:
    code = "import sys, pleat_client.link; print(sorted({'numpy', 'torch', 'flwr'} & set(sys.modules)))"
    paths = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=paths)
    assert done.stdout.strip() == "[]"


def test_a_line_learns_its_run_from_the_welcome() -> None:
    line = Line(Side.SERVER)
    line.receive(envelope.pack(HELLO))
    line.send(WELCOME)
    assert len(line.send(messages.Ack("run-1/3/2"))) < len(line.send(messages.Ack("run-0/3/2")))
