"""The benchmark of a round that trains nothing, at one round each: real processes, all the server's keepers."""

from __future__ import annotations

from pathlib import Path

import pytest

from pleat_server.bench import round as bench
from pleat_server.evaluate import use_threads
from pleat_server.keep.journal import Journal


def test_a_null_round_counts_every_device_and_moves_what_its_coding_says(tmp_path: Path) -> None:
    use_threads(1)
    with bench._ours(tmp_path, "elastic") as loop:
        (seconds,) = bench._times(loop, 1)
        (line,) = Journal.read(loop.keep.journal.path)
    assert seconds > 0
    assert [d["outcome"] for d in line["devices"]] == ["done"] * bench.DEVICES
    assert line["bytes_up"] == pytest.approx(bench.DEVICES * 60_000, rel=0.3)  # 5 % of a million, 4 bits and positions
    assert not list(loop.keep.spool.root.rglob("*.report"))


def test_the_figures_are_medians_and_flowers_over_ours() -> None:
    told = bench._figures([0.1, 0.2, 0.9], [0.05, 0.1, 0.2], [9.0, 10.0, 11.0], 1)
    assert (told["null_round_ms"], told["null_round_codec_ms"], told["flower_null_round_ms"]) == (200.0, 100.0, 1e4)
    assert (told["ratio"], told["ratio_codec"], told["n"], told["n_flower"]) == (50.0, 100.0, 3, 3)
