"""Texts from a file to shards of token ids: words, vocabulary, what a file may say, and who gets what."""

from __future__ import annotations

import json
import lzma
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pleat.errors import UseError
from pleat.shard import read
from pleat_server import texts
from pleat_server.cli import main
from pleat_server.shards import Source, deal
from pleat_server.sources import open_source
from pleat_server.texts import FIRST, PAD, START, UNKNOWN, read_texts

ROWS: list[list[Any]] = [
    ["Turn ON the light, turn it up!", "light", "home"],
    ["what's the time", "time", "clock"],
    ["turn the light off", "light", "home"],
    ["set a 7am alarm_clock", "alarm", "clock"],
]


def written(folder: Path, found: Any, name: str = "texts.json") -> Path:
    path, data = folder / name, json.dumps(found).encode()
    path.write_bytes(lzma.compress(data) if name.endswith("xz") else data)
    return path


def said(ids: np.ndarray, words: tuple[str, ...]) -> list[str]:
    marks = {PAD: ".", UNKNOWN: "?", START: "^"}
    return [" ".join(marks.get(int(i)) or words[int(i) - FIRST] for i in row) for row in ids]


@pytest.mark.parametrize("name", ["texts.json", "texts.json.xz"])
def test_words_are_lower_case_runs_that_are_cut_and_padded(name: str, tmp_path: Path) -> None:
    found = read_texts(written(tmp_path, ROWS, name), length=6)
    assert said(found.shard.x, found.words.words) == [
        "^ turn on the light turn",
        "^ what's the time . .",
        "^ turn the light off .",
        "^ set a 7am alarm clock",
    ]
    assert found.shard.y.tolist() == [1, 2, 1, 0]  # names in the order of the alphabet
    assert found.clients is not None
    assert found.clients.tolist() == [1, 0, 1, 0]
    assert found.test is None


def test_the_vocabulary_is_of_the_training_part_alone_most_frequent_first_and_capped() -> None:
    found = texts.Words(("b", "a", "c", "d"), 6)
    x = np.array([[2, 3, 4, 5], [2, 5, 3, 4], [2, 6, 6, 6]], np.float32)  # ^ b a c / ^ c b a / ^ d d d
    ids, words = found.fitted(x, np.array([0, 1]))
    assert words == ("a", "b", "c")  # equal counts: by the alphabet; d is in the third alone
    assert said(ids, words) == ["^ b a c", "^ c b a", "^ ? ? ?"]
    ids, words = found.fitted(x, np.array([1, 2]))
    assert words == ("d", "a", "b")
    assert said(ids, words) == ["^ b a ?", "^ ? b a", "^ d d d"]  # c is beyond six ids


def test_a_deal_settles_ids_by_what_is_not_held_out(tmp_path: Path) -> None:
    rows = [[f"word{i} same", i % 2] for i in range(40)]
    dealt = deal(open_source(str(written(tmp_path, rows)), words=3), 2, "iid", holdout=0.25, seed=3)
    assert dealt.test is not None
    assert (len(dealt.test), len(dealt.words)) == (10, 31)
    assert dealt.words[0] == "same"
    assert (dealt.test.x[:, 1] == UNKNOWN).all()  # every first word is of that row alone
    assert (dealt.test.x[:, 2] == FIRST).all()
    seen = np.concatenate([s.x[:, 1] for s in dealt.devices])
    assert sorted(seen) == list(range(FIRST + 1, FIRST + 31))


def test_a_file_that_sets_rows_aside_is_held_out_there(tmp_path: Path) -> None:
    train = [[f"text {i}", i % 2] for i in range(20)]
    path = written(tmp_path, {"train": train, "test": [["text unheard", 1], ["5 text", 0]]})
    dealt = deal(open_source(str(path), words=3), 2, "iid", seed=0)
    assert dealt.test is not None
    assert said(dealt.test.x, dealt.words) == ["^ text ?", "^ 5 text"]
    assert dealt.test.y.tolist() == [1, 0]
    assert sum(len(d) for d in dealt.devices) == 20
    assert deal(open_source(str(path)), 2, "iid", holdout=0).test is None


def domains(count: int, each: int) -> list[list[Any]]:
    return [[f"text of {d}", i % 3, f"domain{d}"] for i in range(each) for d in range(count)]


@pytest.mark.parametrize(("devices", "sizes"), [(2, [80, 40]), (3, [40] * 3), (5, [20, 20, 40, 20, 20])])
def test_a_domain_goes_to_one_device_or_is_shared_by_some(devices: int, sizes: list[int], tmp_path: Path) -> None:
    source = open_source(str(written(tmp_path, domains(3, 40))))
    dealt = deal(source, devices, "domain", holdout=0)
    assert [len(d) for d in dealt.devices] == sizes
    of = [{int(row[3]) for row in shard.x} for shard in dealt.devices]  # the word that names the domain
    assert [len(names) for names in of] == ([2, 1] if devices == 2 else [1] * devices)
    assert devices < 5 or (of[0] == of[3] and of[1] == of[4] and of[0] != of[1])
    everywhere = deal(source, devices, "domain", holdout=0.25, seed=1).test
    assert everywhere is not None
    assert len({int(row[3]) for row in everywhere.x}) == 3  # the server tests on samples of all of them


def test_too_many_devices_for_the_domains_and_none_named_are_refused(tmp_path: Path) -> None:
    rows = [["a text", 0, "much"]] * 90 + [["a text", 1, "little"]] * 10
    source = open_source(str(written(tmp_path, rows)))
    with pytest.raises(UseError, match="leaves some of 4 devices under 8 samples"):
        deal(source, 4, "domain", holdout=0)
    with pytest.raises(UseError, match=r"does not say who wrote what; .* a .json in a third entry"):
        deal(Source(source.shard), 2, "domain")


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ({"rows": []}, "no rows of texts: expected"),
        ({"train": 3}, "no rows of texts: expected"),
        ("a text", "no rows of texts: expected"),
        ([["alone", 0]], r"1 row\(s\) to train on"),
        ([["a", 0], "b"], r"row 1: expected \[text, label\], got b"),
        ([["a", 0], ["b"]], r"row 1: expected \[text, label\]"),
        ([["a", 0], [3, 0]], r"row 1: expected \[text, label\]"),
        ([["a", 0], ["b", "zero"]], "row 1: label must be a number or a name, of one kind in all rows, got 'zero'"),
        ([["a", 0], ["b", 1.5]], "row 1: label must be a number or a name"),
        ([["a", True], ["b", True]], "row 0: label must be a number or a name"),
        ([["a", 0], ["b", -1]], "row 1: label must count from 0, got -1"),
        ([["a", 0, "x"], ["b", 1]], "row 1: expected 3 entries as in the first row, got 2"),
        ([["a", 0, "x"], ["b", 1, None]], "row 1: third entry must be a number or a name"),
        ({"train": [["a", 0], ["b", 1]], "test": [["c", 0], ["d"]]}, "test row 1: expected"),
    ],
)
def test_a_file_that_is_none_of_texts_is_refused_by_row(found: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(UseError, match=f"texts.json: {message}"):
        read_texts(written(tmp_path, found))


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("t.json", b"{", "cannot be read as a JSON file"),
        ("t.json", b"\xff\xfe", "cannot be read as a JSON file"),
        ("t.json", b"[" * 100_000, "cannot be read as a JSON file"),
        ("t.json.xz", b"[]", "cannot be read as an xz-packed JSON file"),
        ("t.json.xz", lzma.compress(b"[[]]")[:-9], "cannot be read as an xz-packed JSON file"),
    ],
)
def test_a_broken_file_is_named(name: str, data: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UseError, match=message):
        read_texts(tmp_path / name)


def test_a_missing_file_bad_sizes_noise_and_a_shape_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UseError, match=r"no file .*gone.json; expected \[\[text, label\]"):
        open_source(str(tmp_path / "gone.json"))
    path = str(written(tmp_path, domains(3, 40)))
    with pytest.raises(UseError, match="got 1 and 4096"):
        open_source(path, words=1)
    with pytest.raises(UseError, match="--noise blurs"):
        deal(open_source(path), 2, "iid", noise=0.1)
    with pytest.raises(UseError, match="leave --shape out"):
        open_source(path, shape=(1, 32))


def test_shards_of_texts_are_written_with_their_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    written(tmp_path, domains(3, 40))
    assert main(["shards", "texts.json", "--devices", "3", "--split", "domain", "--words", "5"]) == 0
    assert read(tmp_path / "shards" / "device-0.npz").input_shape == (5,)
    lines = (tmp_path / "shards" / "words.txt").read_text().split("\n")
    row = read(tmp_path / "shards" / "test.npz").x[0]
    assert [lines[int(i)] for i in row[:3]] == ["<start>", "text", "of"]
    assert main(["shards", "digits", "--devices", "3"]) == 2
    assert "words.txt of another deal" in capsys.readouterr().err


def test_a_simulation_on_texts_learns_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    topics = [["bake", "cake"], ["rain", "wind"], ["drive", "car"]]
    rng = np.random.default_rng(0)
    rows = [[f"how does one {topics[i % 3][rng.integers(2)]} it {rng.integers(9)}", i % 3] for i in range(240)]
    written(tmp_path, rows, "t.json.xz")
    words = ["--source", "t.json.xz", "--devices", "3", "--rounds", "6", "--split", "iid", "--json", "out.json"]
    assert main(["simulate", "--recipe", "fedavg", "--model", "transformer", "--folder", "run", *words]) == 0
    assert json.loads((tmp_path / "out.json").read_text())["accuracy"] > 0.9
    assert main(["resume", "run", "--rounds", "7"]) == 0
