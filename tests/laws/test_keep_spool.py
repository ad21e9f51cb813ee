"""The spool: nothing acknowledged is lost, nothing comes twice, and what is damaged is never folded."""

from __future__ import annotations

import itertools
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pleat.errors import LocalError, RemoteError
from pleat.exchange.order import OrderId
from pleat_server.keep import spool as spool_module
from pleat_server.keep.spool import Spool
from support.disks import crashes, full_after, tiny_disk  # noqa: F401

FIRST = OrderId("run", 1, 0)


def spooled(spool, order_id, data):
    with spool.writer(order_id, len(data)) as writer:
        writer.write(data)
        return writer.commit()


def files(root):
    return sorted(str(p.relative_to(root)) for p in root.rglob("*") if p.is_file())


@settings(max_examples=30, deadline=None)
@given(st.binary(min_size=1, max_size=5000), st.lists(st.integers(1, 5000), max_size=5))
def test_a_report_in_any_chunks_is_read_back_whole(tmp_path_factory, data, cuts):
    spool = Spool(tmp_path_factory.mktemp("spool"), reserve=0)
    writer = spool.writer(FIRST, len(data))
    edges = sorted({0, len(data), *(c for c in cuts if c < len(data))})
    for start, end in itertools.pairwise(edges):
        writer.write(memoryview(data)[start:end])
    assert not spool.has(FIRST)
    assert writer.close().read_bytes() == writer.data() == data
    assert not spool.has(FIRST)
    assert writer.commit() == spool.path(FIRST)
    assert spool.read(FIRST) == data
    assert spool.path(FIRST).read_bytes() == data


def test_reports_are_listed_in_the_order_of_their_ids(tmp_path):
    spool = Spool(tmp_path)
    for rank in (11, 2, 100, 0):
        spooled(spool, OrderId("a run/with:odd name", 3, rank), b"x")
    spooled(spool, OrderId("a run/with:odd name", 4, 1), b"x")
    spooled(spool, OrderId("other", 3, 1), b"x")
    assert [i.rank for i in spool.ids("a run/with:odd name", 3)] == [0, 2, 11, 100]
    assert spool.rounds("a run/with:odd name") == [3, 4]
    assert spool.ids("unknown", 1) == []
    assert spool.rounds("unknown") == []


@pytest.mark.parametrize("run", ["..", ".", ".hidden", "a/../../b", "a\0b", "ü" * 30])
def test_no_name_of_a_run_leaves_the_spool(tmp_path, run):
    spool = Spool(tmp_path / "spool")
    spooled(spool, OrderId(run, 1, 0), b"x")
    assert spool.read(OrderId(run, 1, 0)) == b"x"
    assert [p.name for p in tmp_path.iterdir()] == ["spool"]
    assert all(f.count("/") == 2 for f in files(tmp_path / "spool"))


@pytest.mark.parametrize("run", ["", "x" * 300])
def test_a_run_without_a_usable_name_is_refused(tmp_path, run):
    with pytest.raises(RemoteError, match="empty or too long"):
        Spool(tmp_path).has(OrderId(run, 1, 0))


def test_a_crash_at_any_operation_leaves_a_whole_report_or_none(tmp_path):
    """And once `commit` has returned ("ack" is printed after it), the report is there."""
    script = """
from pathlib import Path
from pleat.exchange.order import OrderId
from pleat_server.keep import spool as spool_module
from pleat_server.keep.spool import Spool
writer = Spool(Path(sys.argv[2])).writer(OrderId("run", 1, 0), 3000)
for _ in range(3):
    writer.write(b"x" * 1000)
writer.commit()
"""
    seen = []
    for _ in crashes(script, str(tmp_path)):
        spool = Spool(tmp_path)  # as after a restart
        assert [f for f in files(tmp_path) if f.endswith(".tmp")] == []  # what was half-written is swept
        if spool.has(FIRST):
            assert spool.read(FIRST) == b"x" * 3000
            seen.append(True)
            spool.drop("run", 1)
        else:
            seen.append(False)
    assert seen == sorted(seen)
    assert {True, False} == set(seen)


def test_a_report_that_comes_twice_is_stored_once(tmp_path):
    spool = Spool(tmp_path)
    first = spooled(spool, FIRST, b"the first")
    assert spooled(spool, FIRST, b"again, other bytes") == first
    assert spool.read(FIRST) == b"the first"
    assert len(files(tmp_path)) == 1


def test_of_many_streams_with_the_same_report_one_is_stored(tmp_path):
    spool, gate = Spool(tmp_path), threading.Barrier(8)

    def send(k):
        with spool.writer(FIRST, 2) as writer:
            writer.write(b"%02d" % k)
            gate.wait(10)
            writer.commit()

    threads = [threading.Thread(target=send, args=(k,)) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(files(tmp_path)) == 1
    assert spool.ids("run", 1) == [FIRST]
    assert spool._announced == 0


def test_a_writer_left_without_commit_leaves_nothing(tmp_path):
    spool = Spool(tmp_path)
    with spool.writer(FIRST, 10) as writer:
        writer.write(b"12345")
    assert files(tmp_path) == []
    assert spool._announced == 0
    with pytest.raises(LocalError, match="is closed"):
        writer.write(b"6")


def test_a_report_longer_or_shorter_than_announced_is_refused(tmp_path):
    spool = Spool(tmp_path)
    long, short = spool.writer(FIRST, 3), spool.writer(OrderId("run", 1, 1), 3)
    with pytest.raises(RemoteError, match="order run/1/0 is longer than the 3 bytes it announced"):
        long.write(b"1234")
    short.write(b"12")
    with pytest.raises(RemoteError, match="order run/1/1 ended after 2 of the 3 bytes it announced"):
        short.commit()
    for size in (0, -1):
        with pytest.raises(RemoteError, match="a report has at least one"):
            spool.writer(FIRST, size)
    assert files(tmp_path) == []
    assert spool._announced == 0


@pytest.mark.parametrize(
    "damage",
    [lambda b: b[:-1], lambda b: b + b"x", lambda b: b"y" + b[1:], lambda b: b""],
    ids=["cut", "grown", "changed", "empty"],
)
def test_a_damaged_report_is_not_read(tmp_path, damage):
    spool = Spool(tmp_path)
    path = spooled(spool, FIRST, np.random.default_rng(0).bytes(1000))
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(LocalError, match="report of order run/1/0 is damaged"):
        spool.read(FIRST)


def test_a_report_that_is_not_there_is_named(tmp_path):
    with pytest.raises(LocalError, match="no report of order run/1/0"):
        Spool(tmp_path).read(FIRST)


def test_dropping_a_round_forgets_its_reports_and_its_plan_and_nothing_else(tmp_path):
    spool = Spool(tmp_path)
    for number in (1, 2):
        spooled(spool, OrderId("run", number, 0), b"x")
        spool.write_plan("run", number, b"plan %d" % number)
    spool.drop("run", 1)
    spool.drop("run", 1)
    assert spool.ids("run", 1) == []
    assert spool.read_plan("run", 1) is None
    assert (spool.ids("run", 2), spool.read_plan("run", 2)) == ([OrderId("run", 2, 0)], b"plan 2")
    assert not [f for f in files(tmp_path) if "dropped" in f]


def test_a_drop_that_a_crash_interrupted_is_finished_at_the_next_start(tmp_path):
    spool = Spool(tmp_path)
    path = spooled(spool, FIRST, b"x")
    path.parent.rename(path.parent.with_name(".dropped-000001"))
    assert not spool.has(FIRST)
    assert files(Spool(tmp_path).root) == []


def test_discarding_forgets_one_report(tmp_path):
    spool = Spool(tmp_path)
    spooled(spool, FIRST, b"x")
    spooled(spool, OrderId("run", 1, 1), b"x")
    spool.discard(FIRST)
    spool.discard(FIRST)
    assert spool.ids("run", 1) == [OrderId("run", 1, 1)]


def test_a_plan_outlives_a_restart_and_a_damaged_one_is_told(tmp_path):
    Spool(tmp_path).write_plan("run", 7, b"rows")
    assert Spool(tmp_path).read_plan("run", 7) == b"rows"
    path = tmp_path / "run" / "000007" / "plan"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(LocalError, match="plan is damaged"):
        Spool(tmp_path).read_plan("run", 7)


def test_room_is_asked_for_before_a_report_is_taken(tmp_path, monkeypatch):
    """Room that other reports have announced counts as taken; what they leave free again does not."""
    monkeypatch.setattr("pleat_server.keep.spool.free_bytes", lambda folder: 1000)
    spool = Spool(tmp_path, reserve=100)
    first = spool.writer(FIRST, 500)
    with pytest.raises(LocalError, match=r"no room for .* order run/1/1 .*: 1,100 bytes .* 1,000 are free"):
        spool.writer(OrderId("run", 1, 1), 500)
    first.abort()
    first.abort()
    spool.writer(OrderId("run", 1, 1), 900).abort()
    with pytest.raises(LocalError, match="disk full"):
        spool.writer(FIRST, 901)


@pytest.mark.parametrize("room", [0, 10, 1500])
def test_a_disk_that_fills_up_in_mid_report_leaves_nothing_of_it(tmp_path, monkeypatch, room):
    spool = Spool(tmp_path)
    spooled(spool, FIRST, b"kept")
    writer = spool.writer(OrderId("run", 1, 1), 2000)
    full_after(monkeypatch, room)
    with pytest.raises(LocalError, match="disk full while writing report"):  # noqa: PT012
        writer.write(b"x" * 1000)
        writer.write(b"x" * 1000)
    monkeypatch.undo()
    assert spool.ids("run", 1) == [FIRST]
    assert len(files(tmp_path)) == 1
    assert spool._announced == 0
    assert spooled(spool, OrderId("run", 1, 1), b"x" * 2000)  # the device sends it again


def test_a_really_full_file_system_takes_no_report_and_keeps_those_it_has(tiny_disk):  # noqa: F811
    spool = Spool(tiny_disk, reserve=0)
    kept = [OrderId("run", 1, k) for k in range(2)]
    for order_id in kept:
        spooled(spool, order_id, b"x" * 40_000)
    with pytest.raises(LocalError, match="disk full"):
        spool.writer(OrderId("run", 1, 2), 60_000)
    writer = spool.writer(OrderId("run", 1, 2), 10_000)
    (tiny_disk / "other").write_bytes(b"x" * (disk_room(tiny_disk) - 4096))  # someone else was faster
    with pytest.raises(LocalError, match="disk full while writing report"):
        writer.write(b"x" * 10_000)
    assert spool.ids("run", 1) == kept
    assert all(spool.read(k) == b"x" * 40_000 for k in kept)


def disk_room(folder):
    from pleat.disk import free_bytes

    return free_bytes(folder)


def test_reports_committed_at_once_share_one_sync_and_each_waits_for_one_that_covers_it(tmp_path, monkeypatch):
    """The folder is synced after the last rename that somebody waits for, and not again for those it covered."""
    spool = Spool(tmp_path)

    def begun(rank):
        writer = spool.writer(OrderId("run", 1, rank), 1)
        writer.write(b"x")
        return writer

    writers = [begun(rank) for rank in range(3)]
    for writer in writers:
        writer.place()
    seen = []
    real = spool_module.sync_folder
    monkeypatch.setattr(spool_module, "sync_folder", lambda folder: (seen.append(folder), real(folder)))
    for writer in writers:
        spool.sync(writer.order_id)
    assert len(seen) == 1
    late = begun(3)
    late.place()
    spool.sync(late.order_id)
    assert len(seen) == 2
    spool.sync(writers[0].order_id)
    assert len(seen) == 2


def test_reports_are_written_over_those_of_a_dropped_round_whatever_their_length(tmp_path):
    spool = Spool(tmp_path)
    used = spooled(spool, FIRST, bytes(9000)).stat().st_ino
    spool.drop("run", 1)
    short = OrderId("run", 2, 0)
    assert spooled(spool, short, b"short").stat().st_ino == used
    assert spool.read(short) == b"short"
    assert Spool(tmp_path).read(short) == b"short"


def test_only_so_many_files_are_kept_to_be_written_over(tmp_path):
    spool = Spool(tmp_path)
    for rank in range(spool_module.SPARES + 3):
        spooled(spool, OrderId("run", 1, rank), b"x")
    spool.drop("run", 1)
    assert len(files(tmp_path)) == spool_module.SPARES


def test_files_kept_to_be_written_over_give_way_where_the_disk_is_full(tmp_path, monkeypatch):
    spool = Spool(tmp_path, reserve=0)
    spooled(spool, FIRST, bytes(1000))
    spool.drop("run", 1)
    room = iter((10, 2000))  # before and after
    monkeypatch.setattr(spool_module, "free_bytes", lambda folder: next(room))
    spool.writer(OrderId("run", 2, 0), 1500).abort()
    assert files(tmp_path) == []


def test_a_report_brought_twice_leaves_one_file(tmp_path):
    spool = Spool(tmp_path)
    writers = [spool.writer(FIRST, 4) for _ in range(2)]
    for writer in writers:
        writer.write(b"same")
    assert [writer.commit() for writer in writers] == [spool.path(FIRST)] * 2
    assert len(files(tmp_path)) == 1
