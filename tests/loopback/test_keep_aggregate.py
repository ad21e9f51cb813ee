"""The aggregation benchmark measures what it says: reports through spool, check and fold of a process of its own."""

from __future__ import annotations

import numpy as np
import pytest

from pleat.elastic.fold import Fold
from pleat.elastic.selection import WHOLE
from pleat.errors import RemoteError
from pleat_server.bench import aggregate
from pleat_server.bench.aggregate_server import MODEL, close_round, order, report_bytes
from pleat_server.desk import check_report
from pleat_server.keep.spool import Spool
from pleat_server.state import State


def test_a_server_in_its_own_process_takes_and_folds_reports_and_its_memory_is_seen():
    """At least the fold's float64 sums, which are two models, must show above idle."""
    assert 2 < aggregate.peak_extra_models(aggregate.AT_ONCE) < 20


def test_the_measured_round_moves_the_model_by_the_weighted_mean(tmp_path):
    spool, fold = Spool(tmp_path), Fold(MODEL)
    params = aggregate._update(99)
    for rank in range(2):
        data, update = report_bytes(rank, aggregate._update(rank)), aggregate._update(rank)
        fold.add(update, WHOLE, 100.0 + rank)
        with spool.writer(order(rank).id, len(data)) as writer:
            writer.write(data)
            check_report(MODEL, order(rank), order(rank).device, writer.data())
            writer.commit()
    step = fold.finish(1.0)
    moved = close_round(spool, State("bench", 0, params), 2).params
    for name, old in params.items():
        np.testing.assert_allclose(moved[name], old + step[name], atol=1e-6)


def test_the_measured_check_is_a_real_one():
    """Negative control: a report that answers another order is refused."""
    data = report_bytes(1, aggregate._update(1))
    with pytest.raises(RemoteError):
        check_report(MODEL, order(2), order(2).device, data)
