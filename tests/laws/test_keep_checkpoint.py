"""Checkpoints, journal and history: whole or absent, and the one before where the newest is damaged."""

from __future__ import annotations

import json
import re
import sqlite3

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from pleat.errors import LocalError, UseError
from pleat_server.keep import checkpoint
from pleat_server.keep.history import History
from pleat_server.keep.journal import Journal, plain
from support.disks import crashes, full_after


def arrays_of(seed=0):
    rng = np.random.default_rng(seed)
    return {
        "params": {"a.weight": rng.random((3, 4), np.float32), "a.bias": rng.random(3, np.float32)},
        "published.3": {"a.weight": rng.integers(0, 9, (3, 4)).astype(np.uint16)},
        "extra.odd/name": {"kitchen\npi/x": np.zeros((0, 2), np.float32), "scalar": np.array(1.5, np.float64)},
        "masks": {"bits": rng.random(5) < 0.5},
    }


def same(left, right):
    return left.keys() == right.keys() and all(
        left[g].keys() == right[g].keys()
        and all(
            left[g][n].dtype == right[g][n].dtype
            and left[g][n].shape == right[g][n].shape
            and np.array_equal(left[g][n], right[g][n])
            for n in left[g]
        )
        for g in left
    )


facts = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=25, deadline=None)
@given(st.dictionaries(st.text(max_size=5), facts, max_size=4), st.integers(0, 99999))
def test_a_checkpoint_is_loaded_as_it_was_saved(tmp_path_factory, meta, number):
    folder = tmp_path_factory.mktemp("run") / "checkpoint"
    checkpoint.save(folder, number, arrays_of(), meta)
    found, arrays, loaded, notes = checkpoint.load(folder)
    assert (found, loaded, notes) == (number, meta, [])
    assert same(arrays, arrays_of())


def test_arrays_in_any_memory_order_are_kept_by_value(tmp_path):
    turned = {"g": {"t": np.arange(6, dtype=np.float32).reshape(2, 3).T, "s": np.arange(10, dtype=np.int64)[::3]}}
    checkpoint.save(tmp_path, 1, turned, {})
    assert same(checkpoint.load(tmp_path)[1], turned)


def test_any_safetensors_reader_opens_the_arrays(tmp_path):
    path = checkpoint.save(tmp_path, 12, arrays_of(), {})
    assert path.name == "round-000012.json"
    flat = load_file(tmp_path / "round-000012.safetensors")
    assert np.array_equal(flat["params/a.weight"], arrays_of()["params"]["a.weight"])
    assert "extra.odd%2Fname/scalar" in flat


def test_the_last_three_are_kept(tmp_path):
    for number in range(1, 6):
        checkpoint.save(tmp_path, number, arrays_of(number), {"n": number})
    assert sorted(p.name for p in tmp_path.glob("round-*")) == [
        f"round-{n:06d}.{kind}" for n in (3, 4, 5) for kind in ("json", "safetensors")
    ]
    assert checkpoint.load(tmp_path)[0] == 5


def test_saving_a_round_again_replaces_it(tmp_path):
    checkpoint.save(tmp_path, 1, arrays_of(1), {"try": 1})
    checkpoint.save(tmp_path, 1, arrays_of(2), {"try": 2})
    number, arrays, meta, notes = checkpoint.load(tmp_path)
    assert (number, meta, notes) == (1, {"try": 2}, [])
    assert same(arrays, arrays_of(2))


def test_a_crash_at_any_operation_leaves_the_checkpoint_before_or_the_new_one(tmp_path):
    checkpoint.save(tmp_path, 1, {"g": {"t": np.zeros(3, np.float32)}}, {"n": 1})
    script = """
from pathlib import Path
import numpy as np
from pleat_server.keep import checkpoint
checkpoint.save(Path(sys.argv[2]), 2, {"g": {"t": np.ones(3, np.float32)}}, {"n": 2})
"""
    seen = []
    for _ in crashes(script, str(tmp_path)):
        number, arrays, meta, notes = checkpoint.load(tmp_path)
        assert notes == []
        assert meta == {"n": number}
        assert arrays["g"]["t"].tolist() == [number - 1] * 3
        seen.append(number)
    assert seen == sorted(seen)
    assert set(seen) == {1, 2}


def cut(data):
    return data[: len(data) // 2]


def flipped(data):
    at = len(data) - 3
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


DAMAGE = [
    ("safetensors", cut, "bytes, .* were written"),
    ("safetensors", flipped, "does not have the CRC-32"),
    ("safetensors", lambda data: None, "No such file"),
    ("json", cut, "cannot be read"),
    ("json", lambda data: b"", "cannot be read"),
    ("json", lambda data: b"[1]", "does not have the CRC-32"),
    ("json", lambda data: data.replace(b'"n": 2', b'"n": 3'), "does not have the CRC-32"),
    ("json", lambda data: data.replace(b'"crc32": "', b'"crc32": "0', 1), "does not have the CRC-32"),
    ("json", lambda data: data.replace(b'"format": 1', b'"format": 2'), "does not have the CRC-32"),
]


@pytest.mark.parametrize(("kind", "damage", "message"), DAMAGE)
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before_and_told(tmp_path, kind, damage, message):
    for number in (1, 2):
        checkpoint.save(tmp_path, number, arrays_of(number), {"n": number})
    path = tmp_path / f"round-000002.{kind}"
    data = damage(path.read_bytes())
    path.unlink() if data is None else path.write_bytes(data)
    number, arrays, meta, notes = checkpoint.load(tmp_path)
    assert (number, meta) == (1, {"n": 1})
    assert same(arrays, arrays_of(1))
    assert len(notes) == 2
    assert notes[0].startswith("checkpoint of round 2 passed over: ")
    assert notes[1] == "resuming from the checkpoint of round 1, the newest that is whole"
    assert re.search(message, notes[0])


def signed(path, **changes):
    """The JSON file with other facts under a right digest."""
    body = json.loads(path.read_bytes())
    body.pop("crc32")
    body |= changes
    path.write_text(json.dumps({**body, "crc32": checkpoint._of(body)}))


def test_a_checkpoint_of_a_newer_format_or_under_a_wrong_name_is_not_loaded(tmp_path):
    path = checkpoint.save(tmp_path, 1, arrays_of(), {})
    signed(path, format=2)
    with pytest.raises(LocalError, match=r"no checkpoint in .* is whole: .*has format 2, .* install a newer pleat"):
        checkpoint.load(tmp_path)
    signed(path, format=1, round=7)
    with pytest.raises(LocalError, match="holds round 7"):
        checkpoint.load(tmp_path)
    signed(path, round=1)
    assert checkpoint.load(tmp_path)[0] == 1


def test_a_folder_without_a_checkpoint_is_told_from_one_whose_checkpoints_are_all_damaged(tmp_path):
    assert not checkpoint.present(tmp_path / "nowhere")
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(UseError, match=r"no checkpoint in .*; give the folder of a run"):
            checkpoint.load(folder)
    (tmp_path / "round-000001.safetensors").write_bytes(b"a crash before the first JSON file")
    assert not checkpoint.present(tmp_path)
    checkpoint.save(tmp_path, 1, arrays_of(), {})
    assert checkpoint.present(tmp_path)
    (tmp_path / "round-000001.safetensors").unlink()
    with pytest.raises(LocalError, match=r"no checkpoint in .* is whole"):
        checkpoint.load(tmp_path)


@pytest.mark.parametrize("room", [0, 100, 600])
def test_a_full_disk_leaves_the_checkpoints_as_they_were(tmp_path, monkeypatch, room):
    checkpoint.save(tmp_path, 1, arrays_of(1), {"n": 1})
    full_after(monkeypatch, room)
    with pytest.raises(LocalError, match="disk full while writing file"):
        checkpoint.save(tmp_path, 2, arrays_of(2), {"n": 2})
    monkeypatch.undo()
    assert sorted(p.name for p in tmp_path.glob("round-*")) == ["round-000001.json", "round-000001.safetensors"]
    assert checkpoint.load(tmp_path)[0] == 1


def test_arrays_that_safetensors_cannot_hold_are_refused_before_anything_is_replaced(tmp_path):
    checkpoint.save(tmp_path, 1, arrays_of(), {})
    with pytest.raises(UseError, match="array 'g/t' of type complex128 cannot be kept"):
        checkpoint.save(tmp_path, 1, {"g": {"t": np.zeros(2, complex)}}, {})
    assert checkpoint.load(tmp_path)[3] == []


# --- journal


def test_records_come_back_in_order_and_numbers_json_lacks_become_null(tmp_path):
    journal = Journal(tmp_path / "run" / "journal.jsonl")
    assert Journal.read(journal.path) == []
    journal.append({"round": 1, "loss": float("nan"), "peak": float("inf"), "n": np.int64(3), "x": np.float32(0.5)})
    journal.append({"round": 2, "rows": (np.arange(2), {"k": None}), "ok": np.bool_(True), 5: "five"})
    assert Journal.read(journal.path) == [
        {"round": 1, "loss": None, "peak": None, "n": 3, "x": 0.5},
        {"round": 2, "rows": [[0, 1], {"k": None}], "ok": True, "5": "five"},
    ]
    assert plain(np.array([np.nan, 1])) == [None, 1.0]


@pytest.mark.parametrize("torn", [b"{", b'{"round": 3}', b'{"round": 3, "x": "\xc3', b"x" * 200_000])
def test_a_torn_last_line_is_passed_over_and_cut_off_by_the_next_record(tmp_path, torn):
    journal = Journal(tmp_path / "j")
    journal.append({"round": 1})
    with journal.path.open("ab") as file:
        file.write(torn)
    assert Journal.read(journal.path) == [{"round": 1}]
    journal.append({"round": 2})
    assert Journal.read(journal.path) == [{"round": 1}, {"round": 2}]


def test_a_journal_that_is_nothing_but_a_torn_line_starts_anew(tmp_path):
    (tmp_path / "j").write_bytes(b'{"round":')
    Journal(tmp_path / "j").append({"round": 1})
    assert (tmp_path / "j").read_bytes() == b'{"round":1}\n'


def test_a_crash_at_any_operation_keeps_every_record_that_was_appended(tmp_path):
    path = tmp_path / "j"
    script = """
from pathlib import Path
from pleat_server.keep.journal import Journal
Journal(Path(sys.argv[2])).append({"round": 2})
"""
    for _ in crashes(script, str(path)):
        assert Journal.read(path) in ([], [{"round": 2}])
        path.unlink(missing_ok=True)
        Journal(path).append({"round": 1})
        with path.open("ab") as file:
            file.write(b"torn")
        assert Journal.read(path) == [{"round": 1}]
        path.unlink()


def test_rewinding_forgets_later_rounds_and_keeps_records_without_one(tmp_path):
    journal = Journal(tmp_path / "j")
    for record in ({"event": "start"}, {"round": 1}, {"round": 2}, {"round": 3}):
        journal.append(record)
    assert journal.rewind(2) == []
    assert Journal.read(journal.path) == [{"event": "start"}, {"round": 1}, {"round": 2}]
    before = journal.path.stat().st_mtime_ns
    assert journal.rewind(2) == []
    assert journal.path.stat().st_mtime_ns == before
    assert Journal(tmp_path / "none").rewind(5) == []
    assert not (tmp_path / "none").exists()


def test_a_line_damaged_in_the_middle_is_named_and_rewinding_sets_the_file_aside(tmp_path):
    journal = Journal(tmp_path / "j")
    journal.path.write_bytes(b'{"round":1}\n\xff\xfe garbage\n[3]\n{"round":2}\n')
    with pytest.raises(LocalError, match=r"journal .*j: line 2 is damaged; `pleat resume` sets the file aside"):
        Journal.read(journal.path)
    [note] = journal.rewind(2)
    assert "2 damaged lines, first 2" in note
    assert Journal.read(journal.path) == [{"round": 1}, {"round": 2}]
    assert b"garbage" in (tmp_path / "j.damaged").read_bytes()


@pytest.mark.parametrize("room", [0, 5])
def test_a_full_disk_leaves_the_journal_as_it_was(tmp_path, monkeypatch, room):
    journal = Journal(tmp_path / "j")
    journal.append({"round": 1})
    before = journal.path.read_bytes()
    full_after(monkeypatch, room)
    with pytest.raises(LocalError, match="disk full while writing journal"):
        journal.append({"round": 2})
    monkeypatch.undo()
    assert journal.path.read_bytes() == before


# --- history


def test_devices_are_listed_by_name_with_what_is_known_of_them(tmp_path):
    history = History(tmp_path / "run" / "devices.sqlite")
    history.upsert({"name": "pi", "profile": {"board": "Pi 4"}, "cost": None, "seen": 5.0})
    history.upsert_all([{"name": "attic", "link": [1, 2]}, {"name": "pi", "cost": {"slope": float("nan")}}])
    expected = [
        {"name": "attic", "link": [1, 2]},
        {"name": "pi", "profile": {"board": "Pi 4"}, "cost": {"slope": None}, "seen": 5.0},
    ]
    assert history.rows() == expected
    history.close()
    again = History(tmp_path / "run" / "devices.sqlite")
    assert (again.rows(), again.notes) == (expected, [])
    again.close()


@pytest.mark.parametrize("row", [{}, {"name": ""}, {"name": 3}])
def test_a_row_without_a_name_is_refused(tmp_path, row):
    history = History(tmp_path / "h")
    with pytest.raises(UseError, match="needs the device's name"):
        history.upsert_all([{"name": "good"}, row])
    assert history.rows() == []
    history.close()


def garbage(path):
    path.write_bytes(b"no database at all " * 100)


def half(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def overwritten(path):
    data = bytearray(path.read_bytes())
    data[4096:6000] = b"\xff" * 1904
    path.write_bytes(bytes(data))


def newer(path):
    database = sqlite3.connect(path)
    database.execute("PRAGMA user_version = 99")
    database.close()


def other_tables(path):
    path.unlink()
    database = sqlite3.connect(path)
    database.execute("CREATE TABLE device (name TEXT)")
    database.commit()
    database.close()


@pytest.mark.parametrize("damage", [garbage, half, overwritten, newer, other_tables])
def test_a_history_that_cannot_be_used_is_set_aside_and_made_anew(tmp_path, damage):
    path = tmp_path / "devices.sqlite"
    history = History(path)
    history.upsert_all([{"name": f"device {k}", "x": "y" * 200} for k in range(100)])
    history.close()
    damage(path)
    history = History(path)
    assert len(history.notes) == 1
    assert "kept as devices.sqlite.damaged, a new one is begun" in history.notes[0]
    assert history.rows() == []
    history.upsert({"name": "pi"})
    assert [r["name"] for r in history.rows()] == ["pi"]
    history.close()
    assert (tmp_path / "devices.sqlite.damaged").exists()


def test_a_checkpoint_is_written_over_the_arrays_of_one_no_longer_kept(tmp_path):
    """Also where those are longer: what stands behind is cut off, or its checksum would not hold."""
    long = {"params": {"w": np.arange(10_000.0)}}
    for number in range(1, 5):
        checkpoint.save(tmp_path, number, long, {})
    used = (tmp_path / ".spare").stat().st_ino
    written = checkpoint.save(tmp_path, 5, arrays_of(), {})
    assert written.with_suffix(".safetensors").stat().st_ino == used
    number, arrays, _, notes = checkpoint.load(tmp_path)
    assert (number, notes) == (5, [])
    assert same(arrays, arrays_of())
