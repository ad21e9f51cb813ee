"""The trainer child as a process: real orders over a real pipe, staged before they are answered, cancelled, stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from pleat.codec.coding import build as coding
from pleat.codec.transform import Context
from pleat.elastic.selection import WHOLE
from pleat.exchange.order import Kind, Order, OrderId, Payload, Return, Work
from pleat.exchange.report import Outcome, Report
from pleat.exchange.wire import order_to_bytes, report_from_bytes
from pleat.nets.build import initial, spec
from pleat.nets.trace import model_map
from pleat.shard import Shard, write
from pleat_client import pipe
from pleat_client.state import recall
from pleat_client.store import Store

ROOT = Path(__file__).resolve().parents[2]
NET = spec("mlp", (1, 4, 4), 3, first=16, second=8)


class Child:
    """A trainer child and the test's end of its pipe."""

    def __init__(self, folder: Path, data: Path) -> None:
        self.store = Store(folder / "state")
        words = ["--store", str(self.store.root), "--data", str(data), "--holdout", "0.25"]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "pleat_client.worker", *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": "common:client"},
        )

    def tell(self, *requests: pipe.Message) -> None:
        assert self.process.stdin
        self.process.stdin.write(b"".join(pipe.encode(r) for r in requests))
        self.process.stdin.flush()

    def hear(self) -> pipe.Answer | None:
        assert self.process.stdout
        return pipe.read_answer(self.process.stdout)  # type: ignore[arg-type]

    def result(self) -> pipe.Staged | pipe.Failed:
        while True:
            answer = self.hear()
            assert answer is not None, self.errors()
            if isinstance(answer, (pipe.Staged, pipe.Failed)):
                return answer

    def do(self, order: Order) -> tuple[pipe.Staged, Report]:
        self.tell(pipe.Train(order_to_bytes(order), wait_s=1.5, down_s=0.5, daemon_bytes=7 << 20, threads=1))
        answer = self.result()
        assert isinstance(answer, pipe.Staged), answer
        return answer, report_from_bytes(Path(answer.path).read_bytes())

    def errors(self) -> str:
        self.process.kill()
        return self.process.communicate()[1].decode()

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()


def order(number: int, **changes: object) -> Order:
    model = model_map(NET)
    context, transform = Context(model, WHOLE, number, 0, number - 1), coding("bf16-delta")
    frame, _ = transform.encode(initial(NET, 0), transform.init(context), context)
    fields: dict = {
        "work": Work(epochs=2, batch=8),
        "payloads": (Payload("model", "bf16-delta", frame, version=number - 1),),
        "returns": (Return("update", "topk:0.1/lloyd:4"),),
        "seed": number,
        **changes,
    }
    return Order(OrderId("run", number, 0), "kitchen", Kind.TRAIN, NET, **fields)


LONG = Work(epochs=100_000, batch=1)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("data") / "shard.npz"
    write(path, Shard(rng.normal(size=(40, 1, 4, 4)).astype(np.float32), rng.integers(0, 3, 40)))
    return path


@pytest.fixture
def child(tmp_path: Path, data: Path) -> Iterator[Child]:
    one = Child(tmp_path, data)
    assert one.hear() == pipe.Ready(30, 10, (1, 4, 4), 3)
    yield one
    one.end()


def test_orders_are_staged_with_their_states_and_the_child_leaves_when_told(child: Child) -> None:
    staged, report = child.do(order(1))
    assert (staged.run, staged.round, staged.rank, staged.outcome) == ("run", 1, 0, "done")
    assert child.store.staged() == [(OrderId("run", 1, 0), Path(staged.path))]
    assert (report.outcome, report.samples, report.metrics["scored"]) == (Outcome.DONE, 30, 10)
    s = report.seconds
    assert (s.wait, s.down, s.up) == (1.5, 0.5, 0)
    assert min(s.build, s.train, s.encode) > 0
    assert report.peak_bytes is None or report.peak_bytes > (7 << 20) + 50e6  # torch alone is more
    assert staged.width == 1.0
    left = recall(child.store.past("run"))[0].residual
    entries, norm = sum(np.count_nonzero(a) for a in left.values()), np.sqrt(sum(np.sum(a**2) for a in left.values()))
    assert staged.residual is not None
    assert (staged.residual.entries, staged.residual.norm) == (entries, pytest.approx(norm, rel=1e-5))
    assert entries > 0
    assert staged.residual.state_bytes == len(child.store.past("run")[0].state)
    # The next order builds on it: the same order again is answered from what is staged, not trained again.
    again, same = child.do(order(1))
    assert (again.path, again.reason, same) == (staged.path, "staged before", report)
    child.store.commit(OrderId("run", 1, 0))
    assert recall(child.store.past("run"))[0].version == 0
    # A refusal is staged too, and changes no state.
    refused, _ = child.do(order(2, payloads=()))
    assert (refused.outcome, "carries no model" in refused.reason) == ("refused", True)
    assert (refused.width, refused.residual) == (None, None)
    assert recall(child.store.past("run"))[0].version == 0
    # Bytes that are no order are told, and the child lives on.
    child.tell(pipe.Train(b"nonsense"))
    assert isinstance(child.result(), pipe.Failed)
    child.tell(pipe.Stop())
    assert child.process.wait(20) == 0


def test_a_cancelled_order_ends_within_a_step_and_the_next_one_is_done(child: Child) -> None:
    child.tell(pipe.Train(order_to_bytes(order(1, work=LONG)), threads=1))
    assert child.hear() == pipe.Started("run/1/0")
    progress = child.hear()
    assert isinstance(progress, pipe.Progress)
    assert 0 < progress.done < 1
    child.tell(pipe.Cancel("run/9/9"))  # another order: nothing happens
    assert isinstance(child.hear(), pipe.Progress)
    child.tell(pipe.Cancel("run/1/0"))
    answer = child.result()
    assert isinstance(answer, pipe.Staged)
    assert answer.outcome == "aborted"
    assert child.do(order(2))[0].outcome == "done"


@pytest.mark.parametrize(("how", "staged"), [("stop", 1), ("the daemon is gone", 0)])
def test_the_child_leaves_in_the_middle_of_an_order_and_aborts_it_only_when_told(
    child: Child, how: str, staged: int
) -> None:
    child.tell(pipe.Train(order_to_bytes(order(1, work=LONG)), threads=1))
    assert child.hear() == pipe.Started("run/1/0")
    assert child.process.stdin
    if how == "stop":
        child.tell(pipe.Stop())
    else:
        child.process.stdin.close()
        child.process.stdin = None
    assert child.process.wait(20) == 0
    reports = [report_from_bytes(path.read_bytes()) for _, path in child.store.staged()]
    assert [report.outcome for report in reports] == [Outcome.ABORTED] * staged


def test_a_child_killed_in_the_middle_leaves_the_order_undone(child: Child) -> None:
    child.tell(pipe.Train(order_to_bytes(order(1, work=LONG)), threads=1))
    assert child.hear() == pipe.Started("run/1/0")
    child.process.send_signal(signal.SIGKILL)
    child.process.wait(20)
    assert child.store.staged() == []
    assert child.store.past("run") == []


def test_a_broken_shard_is_told_before_anything_else(tmp_path: Path) -> None:
    np.savez(tmp_path / "bad.npz", x=np.zeros((4, 2)))
    child = Child(tmp_path, tmp_path / "bad.npz")
    try:
        answer = child.hear()
        assert isinstance(answer, pipe.Failed)
        assert "no labels" in answer.reason
        assert child.process.wait(20) == 2
    finally:
        child.end()
