"""Files survive crashes at any disk operation, full disks and damage; each guard has a file that trips it."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from pleat import disk
from pleat.disk import clean, make_folder, read_versioned, set_aside, write_atomic, write_together, write_versioned
from pleat.errors import LocalError
from support.disks import crashes, full_after, tiny_disk  # noqa: F401


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_what_was_written_is_read_back(tmp_path):
    write_versioned(tmp_path / "a", 3, b"payload")
    assert read_versioned(tmp_path / "a") == (3, b"payload")
    write_versioned(tmp_path / "a", 4, b"")
    assert read_versioned(tmp_path / "a", newest=4) == (4, b"")
    assert names(tmp_path) == ["a"]


def test_chunks_of_any_kind_become_one_file(tmp_path):
    write_atomic(tmp_path / "a", (memoryview(struct.pack("<2d", 1, 2)).cast("d"), bytearray(b"x"), b""))
    assert (tmp_path / "a").read_bytes() == struct.pack("<2d", 1, 2) + b"x"


def test_a_secret_is_never_readable_by_others(tmp_path):
    write_atomic(tmp_path / "secret", b"x", mode=0o600)
    assert (tmp_path / "secret").stat().st_mode & 0o077 == 0


def test_a_crash_at_any_operation_leaves_the_old_file_or_the_new_one(tmp_path):
    path = tmp_path / "state"
    script = "from pathlib import Path\nfrom pleat.disk import write_versioned\n" + (
        "write_versioned(Path(sys.argv[2]), 1, b'new' * 1000)\n"
    )
    seen = set()
    for _ in crashes(script, str(path)):
        now = read_versioned(path)[1] if path.exists() else b""
        seen.add(now)
        assert now in (b"", b"new" * 1000)
    assert len(seen) == 2
    assert len(names(tmp_path)) > 1  # what crashed writers left ...
    clean(tmp_path)
    assert names(tmp_path) == ["state"]  # ... is swept, and nothing else


def test_a_writer_that_is_not_atomic_is_caught_by_the_same_test(tmp_path):
    path = tmp_path / "state"
    script = """
file = os.open(sys.argv[2], os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
os.write(file, b"new")
os.write(file, b"new")
"""
    seen = {path.read_bytes() if path.exists() else None for _ in crashes(script, str(path))}
    assert seen == {b"", b"new", b"newnew"}


def test_sweeping_leaves_the_files_of_this_process_alone(tmp_path):
    mine = disk.temporary_beside(tmp_path / "a")
    mine.write_bytes(b"half")
    (tmp_path / ".b.0.1-00000000.tmp").write_bytes(b"stale")
    clean(tmp_path)
    assert names(tmp_path) == [mine.name]


@pytest.mark.parametrize("room", [0, 1, 60, 4000])
def test_a_full_disk_leaves_everything_as_it_was_and_says_what_is_missing(tmp_path, monkeypatch, room):
    path = tmp_path / "state"
    write_versioned(path, 1, b"old")
    full_after(monkeypatch, room)
    with pytest.raises(LocalError, match=r"disk full while writing file .*state: .*[\d,]+ are free; make room"):
        write_versioned(path, 1, b"x" * 5000)
    monkeypatch.undo()
    assert read_versioned(path) == (1, b"old")
    assert names(tmp_path) == ["state"]
    write_versioned(path, 1, b"x" * 5000)  # with room again, all is well


def test_a_file_system_that_is_really_full(tiny_disk):  # noqa: F811
    path = tiny_disk / "state"
    write_versioned(path, 1, b"old")
    with pytest.raises(LocalError, match=r"disk full while writing file .* 500,000 bytes are needed"):
        write_atomic(path, b"x" * 500_000)
    assert read_versioned(path) == (1, b"old")
    assert names(tiny_disk) == ["state"]


def test_of_files_written_together_none_is_replaced_if_one_cannot_be(tmp_path, monkeypatch):
    write_together([(tmp_path / "a", b"old"), (tmp_path / "b", b"old")])
    full_after(monkeypatch, 5)
    with pytest.raises(LocalError, match="disk full"):
        write_together([(tmp_path / "a", b"new"), (tmp_path / "b", b"new")])
    assert [(tmp_path / n).read_bytes() for n in names(tmp_path)] == [b"old", b"old"]
    assert names(tmp_path) == ["a", "b"]


def test_an_error_while_the_content_is_made_leaves_nothing(tmp_path):
    def content():
        yield b"half"
        raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        write_atomic(tmp_path / "a", content())
    assert names(tmp_path) == []


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(LocalError, match=r"cannot write file .*file/a: Not a directory; check the folder's owner"):
        write_atomic(tmp_path / "file" / "a", b"x")
    with pytest.raises(LocalError, match=r"cannot write folder .*file/b"):
        make_folder(tmp_path / "file" / "b")


def damaged(data: bytes) -> list[tuple[bytes, str]]:
    """One damaged file for every way of being damaged, and what is said of it."""
    head = disk._HEAD.size
    return [
        (b"", "0 bytes, a header alone has"),
        (data[: head - 1], "a header alone has"),
        (data[:-1], "20 bytes of payload announced, 19 found"),
        (data + b"x", "20 bytes of payload announced, 21 found"),
        (b"X" + data[1:], "it starts with b'XLEATFIL'"),
        (data[:-1] + b"!", "does not have the CRC-32"),
        (data[:8] + b"\x02" + data[9:], "does not have the CRC-32"),  # the version is digested too
        (data[: head - 1] + b"!" + data[head:], "does not have the CRC-32"),
        (data[:12] + b"\x15" + data[13:], "21 bytes of payload announced, 20 found"),
    ]


@pytest.mark.parametrize("case", range(9))
def test_a_damaged_file_is_refused_and_told(tmp_path, case):
    path = tmp_path / "state"
    write_versioned(path, 1, b"payload of twenty by")
    data, message = damaged(path.read_bytes())[case]
    path.write_bytes(data)
    with pytest.raises(LocalError, match=message):
        read_versioned(path)
    assert path.read_bytes() == data


def test_every_single_flipped_byte_is_noticed(tmp_path):
    path = tmp_path / "state"
    write_versioned(path, 1, b"payload")
    good = path.read_bytes()
    for i in range(len(good)):
        path.write_bytes(good[:i] + bytes([good[i] ^ 0x10]) + good[i + 1 :])
        with pytest.raises(LocalError, match="damaged"):
            read_versioned(path)


def test_a_file_of_a_newer_format_is_refused(tmp_path):
    write_versioned(tmp_path / "a", 9, b"")
    with pytest.raises(LocalError, match="has format 9, this pleat reads up to 8; install a newer pleat"):
        read_versioned(tmp_path / "a", newest=8)


def test_a_missing_file_is_told_from_a_damaged_one(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_versioned(tmp_path / "nothing")
    with pytest.raises(LocalError, match=r"cannot read .*: Is a directory"):
        read_versioned(tmp_path)


def test_damaged_files_are_set_aside_under_names_of_their_own(tmp_path):
    for number in range(3):
        (tmp_path / "a").write_bytes(bytes([number]))
        set_aside(tmp_path / "a")
    assert names(tmp_path) == ["a.damaged", "a.damaged-1", "a.damaged-2"]
    assert (tmp_path / "a.damaged-1").read_bytes() == b"\1"
