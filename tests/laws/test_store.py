"""What a device remembers: nothing is lost and nothing counts twice, in whatever order reports are answered.

The law behind it: what was sent and accepted, plus the residual, is the sum of all updates made.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pleat.elastic.selection import Selection
from pleat.errors import LocalError
from pleat.exchange.order import OrderId
from pleat.params import Sparse
from pleat_client.state import DeviceState, from_bytes, limited, recall, returned, to_bytes
from pleat_client.store import KEPT_S, STALE_S, Store

RUN = "run/1"  # a name that is no file name


def order(number: int) -> OrderId:
    return OrderId(RUN, number, 0)


def make_update(store: Store, number: int, value: float, share: float) -> None:
    """One order: of what the device has to tell, `share` is sent and the rest stays; both staged."""
    state, back = recall(store.past(RUN))
    whole = state.residual.get("w", np.zeros(2, np.float32)) + np.float32(value)
    sent = np.array([whole[0] * share, 0], np.float32)
    after = DeviceState(
        version=number,
        residual={"w": whole - sent},
        sent={"w": Sparse((2,), np.array([0]), sent[:1])},
        absorbed=state.absorbed,
    )
    store.stage(order(number), b"report", to_bytes(after))
    store.forget_returned(back)


def sent_in(store: Store, number: int) -> np.ndarray:
    (state,) = [from_bytes(p.state) for p in store.past(RUN) if p.order_id == order(number)]
    (part,) = state.sent.values()
    assert isinstance(part, Sparse)
    return part.dense()


EVENTS = st.lists(st.tuples(st.sampled_from(["make", "make", "accept", "return", "crash"]), st.integers(0, 3)))


@settings(max_examples=60, deadline=None)
@given(events=EVENTS)
def test_accepted_plus_residual_is_the_sum_of_all_updates(
    tmp_path_factory: pytest.TempPathFactory, events: list
) -> None:
    store = Store(tmp_path_factory.mktemp("store"))
    made, accepted, number = 0.0, np.zeros(2), 0
    for event, pick in events:
        waiting = [order_id.round for order_id, _ in store.staged()]
        if event == "make":
            number += 1
            make_update(store, number, value=number, share=0.25)
            made += number
        elif event == "accept" and waiting:
            chosen = waiting[pick % len(waiting)]
            accepted = accepted + sent_in(store, chosen)
            store.commit(order(chosen))
        elif event == "return" and waiting:
            store.give_back(order(waiting[pick % len(waiting)]))
        elif event == "crash":
            store = Store(store.root)
    for order_id, _ in store.staged():  # whatever is still open comes back
        store.give_back(order_id)
    state, _ = recall(store.past(RUN))
    residual = state.residual.get("w", np.zeros(2, np.float32))
    np.testing.assert_allclose(accepted + residual, [made, made], rtol=1e-4, atol=1e-3)


def test_the_version_held_is_the_acknowledged_one(tmp_path: Path) -> None:
    store = Store(tmp_path)
    make_update(store, 1, 1.0, 0.5)
    assert recall(store.past(RUN))[0].version == -1
    store.commit(order(1))
    assert recall(store.past(RUN))[0].version == 1
    make_update(store, 2, 1.0, 0.5)
    assert recall(store.past(RUN))[0].version == 1
    store.give_back(order(2))
    assert recall(store.past(RUN))[0].version == 1


def test_a_crash_between_staging_and_forgetting_counts_a_returned_update_once(tmp_path: Path) -> None:
    store = Store(tmp_path)
    make_update(store, 1, 4.0, 0.5)
    store.give_back(order(1))
    kept = (tmp_path / "runs/run%2F1/1-0.returned").read_bytes()
    make_update(store, 2, 0.0, 0.5)
    (tmp_path / "runs/run%2F1/1-0.returned").write_bytes(kept)  # as if `forget_returned` had not been reached
    store.commit(order(2))
    assert recall(store.past(RUN))[0].residual["w"].tolist() == [2, 4]


def test_a_report_and_its_state_appear_together_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(LocalError, match="disk full"):
        store.stage(order(1), b"report", b"state")
    monkeypatch.undo()
    assert store.staged() == []
    assert store.past(RUN) == []
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []


def test_a_refusal_is_staged_without_a_state(tmp_path: Path) -> None:
    store = Store(tmp_path)
    path = store.stage(order(1), b"refused")
    assert store.staged() == [(order(1), path)]
    assert path.read_bytes() == b"refused"
    assert store.past(RUN) == []
    store.commit(order(1))
    assert store.staged() == []


def test_staged_reports_come_back_oldest_first_and_survive_a_restart(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for number in (10, 9, 2):
        store.stage(order(number), b"r")
    assert [order_id.round for order_id, _ in Store(tmp_path).staged()] == [2, 9, 10]


def test_a_state_without_its_report_counts_for_nothing_and_is_swept_away(tmp_path: Path) -> None:
    """As a crash between the two renames leaves it."""
    store = Store(tmp_path)
    make_update(store, 1, 1.0, 0.5)
    (tmp_path / "runs/run%2F1/1-0.staged").unlink()
    store.commit(order(1))
    assert (store.past(RUN), store.staged()) == ([], [])
    store.tidy(RUN)
    assert not any(tmp_path.rglob("*.next"))


def test_a_report_whose_answer_was_cut_short_is_sent_and_answered_again(tmp_path: Path) -> None:
    """As a crash between the rename of the state and the end of the report leaves it."""
    store = Store(tmp_path)
    make_update(store, 1, 1.0, 0.5)
    report = store.staged()[0][1]
    data = report.read_bytes()
    store.commit(order(1))
    report.write_bytes(data)
    before = store.past(RUN)
    store.commit(order(1))
    assert store.staged() == []
    assert store.past(RUN) == before != []


def test_a_refusal_takes_no_state_of_an_earlier_try_along(tmp_path: Path) -> None:
    store = Store(tmp_path)
    make_update(store, 1, 1.0, 0.5)
    store.stage(order(1), b"refused")
    store.commit(order(1))
    assert store.past(RUN) == []


def test_what_a_killed_process_left_half_written_is_swept_away_but_not_what_is_being_written(tmp_path: Path) -> None:
    store = Store(tmp_path)
    make_update(store, 1, 1.0, 0.5)
    half = tmp_path / "runs/run%2F1/.2-0.next.0.123-ab.tmp"
    half.write_bytes(b"x")
    store.tidy(RUN)
    assert half.exists()
    Store(tmp_path, clock=lambda: half.stat().st_mtime + STALE_S + 1).tidy(RUN)
    assert not half.exists()
    assert len(store.past(RUN)) == 1


def test_answers_for_unknown_orders_change_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path)
    make_update(store, 1, 1.0, 0.5)
    before = store.past(RUN)
    store.commit(order(7))
    store.give_back(order(7))
    assert store.past(RUN) == before


def test_a_damaged_state_is_set_aside_with_a_line_and_never_used(tmp_path: Path) -> None:
    store = Store(tmp_path)
    make_update(store, 1, 1.0, 0.5)
    store.commit(order(1))
    path = tmp_path / "runs/run%2F1/1-0.acked"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert recall(store.past(RUN))[0].version == -1
    assert store.past(RUN) == []
    (note,) = store.notes
    assert "damaged" in note
    assert "1-0.acked" in note


def test_the_identity_is_made_once_and_is_the_owners_alone(tmp_path: Path) -> None:
    secret = Store(tmp_path / "a").identity()
    assert len(secret) == 32
    assert Store(tmp_path / "a").identity() == secret
    assert Store(tmp_path / "b").identity() != secret
    assert stat.S_IMODE((tmp_path / "a/identity").stat().st_mode) == 0o600


def test_a_damaged_identity_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "identity").write_bytes(b"short")
    with pytest.raises(LocalError, match="5 bytes, expected 32; remove it"):
        Store(tmp_path).identity()


def test_runs_unheard_of_for_two_weeks_are_forgotten_but_never_the_present_one(tmp_path: Path) -> None:
    store = Store(tmp_path)
    make_update(store, 1, 1.0, 0.5)
    (tmp_path / "runs/run%2F1").stat()
    Store(tmp_path).tidy("another")
    assert store.past(RUN)
    later = Store(tmp_path, clock=lambda: (tmp_path / "runs/run%2F1").stat().st_mtime + KEPT_S + 100)
    later.tidy(RUN)
    assert store.past(RUN)
    later.tidy("another")
    assert store.past(RUN) == []
    assert "forgot run run/1" in later.notes[0]


def test_a_state_comes_back_from_its_bytes() -> None:
    state = DeviceState(
        version=3,
        selection=Selection({"g": np.array([0, 2])}, frozenset({"u"}), {"t": np.array([[True, False, True]])}),
        held={"a": np.arange(6, dtype=np.float32).reshape(2, 3), "s": np.array(1, np.float32)},
        residual={"sparse": np.array([0, 0, 0, 5, 0], np.float32), "none": np.zeros((0, 2), np.float32)},
        sent={"a": Sparse((2, 3), np.array([1, 5]), np.array([1, -2], np.float32)), "b": np.ones(2, np.float32)},
        absorbed=("1-0",),
    )
    found = from_bytes(to_bytes(state))
    assert (found.version, found.selection, found.absorbed) == (3, state.selection, ("1-0",))
    for name in ("held", "residual"):
        for tensor, array in getattr(state, name).items():
            assert getattr(found, name)[tensor].tobytes() == array.tobytes()
            assert getattr(found, name)[tensor].shape == array.shape
    sparse, full = found.sent["a"], found.sent["b"]
    assert isinstance(sparse, Sparse)
    assert sparse.dense().tolist() == [[0, 1, 0], [0, 0, -2]]
    assert not isinstance(full, Sparse)
    assert full.tolist() == [1, 1]


@pytest.mark.parametrize("data", [b"", b"\x00", b"\x93\x01\x02", to_bytes(DeviceState())[:-1]])
def test_bytes_that_are_no_state_are_an_error(data: bytes) -> None:
    with pytest.raises(LocalError, match="device state"):
        from_bytes(data)


def test_given_back_updates_add_to_what_is_there() -> None:
    old = DeviceState(residual={"a": np.array([[1, 2]], np.float32)})
    new = returned(old, {"a": Sparse((1, 2), np.array([1]), np.array([5], np.float32)), "b": np.ones(1, np.float32)})
    assert new.residual["a"].tolist() == [[1, 7]]
    assert new.residual["b"].tolist() == [1]
    assert old.residual["a"].tolist() == [[1, 2]]


def test_a_residual_over_its_cap_forgets_its_smallest_entries() -> None:
    state = DeviceState(residual={"a": np.array([5, 0, -1, 3], np.float32), "b": np.array([-4, 2], np.float32)})
    assert limited(state, 8 * 5) is state
    cut = limited(state, 8 * 3)
    assert cut.residual["a"].tolist() == [5, 0, 0, 3]
    assert cut.residual["b"].tolist() == [-4, 0]
    assert all(not a.any() for a in limited(state, 0).residual.values())


def test_a_state_and_a_report_are_written_over_older_ones_whatever_their_length(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for number, size in ((1, 9000), (2, 9000), (3, 10)):
        store.stage(order(number), bytes([number]) * size, bytes(size))
        store.commit(order(number))
    spare = {p.suffix: p.stat().st_ino for p in tmp_path.rglob(".spare*")}
    last = store.stage(order(4), b"last", b"state")
    assert {p.suffix: p.stat().st_ino for p in (last, last.with_suffix(".next"))} == spare
    (past,) = [p for p in store.past(RUN) if p.order_id == order(4)]
    assert past.state == b"state"
    assert last.read_bytes() == b"last"
