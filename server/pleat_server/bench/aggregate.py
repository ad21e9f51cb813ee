"""Aggregation: how fast updates are folded, and what a server's memory does while reports arrive and are folded.

Speeds are CPU seconds of one core on 1 M parameters, beside `acc = acc + w * u` (dense) and `np.add.at` (sparse) in
the same run. Memory is that of a child process (`aggregate_server.py`) that takes dense reports of 1 M parameters, four
at a time, through spool, check and fold; it is polled from outside, in float32 models above what it was when idle.
"""

from __future__ import annotations

import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from pleat.elastic.fold import Fold
from pleat.elastic.selection import WHOLE
from pleat.errors import LocalError
from pleat.params import Params, Sparse, Update
from pleat_server.bench.aggregate_server import AT_ONCE, MODEL, MODEL_BYTES, report_bytes, send_report

PARAMETERS = MODEL_BYTES // 4
ROUNDS = 9
DIFFERENT = 16  # updates folded in turn, 64 MB together: none is still in a cache when its turn comes
POLL_S = 0.001


def run() -> dict[str, Any]:
    """The figures of aggregate.json."""
    updates = [_update(k) for k in range(DIFFERENT)]
    dense, naive = _alternating(_fold_all(updates), _add_all(updates))
    sparse_updates = [_sparse(u) for u in updates]
    sparse, scattered = _alternating(_fold_all(sparse_updates), _scatter_all(sparse_updates))
    nbytes = DIFFERENT * MODEL_BYTES
    return {
        "dense_gb_per_s": nbytes / dense / 1e9,
        "naive_gb_per_s": nbytes / naive / 1e9,
        "sparse_ms": sparse / DIFFERENT * 1e3,
        "sparse_naive_ms": scattered / DIFFERENT * 1e3,
        "peak_extra_models_100": peak_extra_models(100),
        "peak_extra_models_200": peak_extra_models(200),
        "parameters": PARAMETERS,
        "n": ROUNDS,
    }


def _update(seed: int) -> Params:
    rng = np.random.default_rng(seed)
    return {t.name: rng.standard_normal(t.shape, dtype=np.float32) for t in MODEL.tensors}


def _sparse(update: Params) -> Update:
    """The largest tenth of every tensor."""
    out = {}
    for name, array in update.items():
        flat = array.reshape(-1)
        index = np.sort(np.argpartition(-np.abs(flat), flat.size // 10)[: flat.size // 10])
        out[name] = Sparse(array.shape, index.astype(np.int64), flat[index])
    return out


def _alternating(*works: Callable[[], None]) -> tuple[float, ...]:
    """Median CPU seconds of each, taken in turn so that all meet the same machine."""
    seconds: list[list[float]] = [[] for _ in works]
    for work in works:
        work()  # first touch of its memory
    for _ in range(ROUNDS):
        for work, taken in zip(works, seconds, strict=True):
            before = time.thread_time()
            work()
            taken.append(time.thread_time() - before)
    return tuple(statistics.median(taken) for taken in seconds)


def _fold_all(updates: list[Any]) -> Callable[[], None]:
    fold = Fold(MODEL)

    def work() -> None:
        for k, update in enumerate(updates):
            fold.add(update, WHOLE, 100.0 + k)

    return work


def _add_all(updates: list[Params]) -> Callable[[], None]:
    sums = {name: np.zeros(a.shape) for name, a in updates[0].items()}

    def work() -> None:
        for k, update in enumerate(updates):
            for name, array in update.items():
                sums[name] = sums[name] + (100.0 + k) * array

    return work


def _scatter_all(updates: list[Any]) -> Callable[[], None]:
    sums = {name: np.zeros(int(np.prod(t.shape))) for name, t in updates[0].items()}

    def work() -> None:
        for k, update in enumerate(updates):
            for name, tensor in update.items():
                np.add.at(sums[name], tensor.index, (100.0 + k) * tensor.values)

    return work


def peak_extra_models(reports: int) -> float:
    """Peak resident memory above idle, in float32 models, of a server that takes and folds so many dense reports."""
    with TemporaryDirectory(prefix="pleat-aggregate-") as folder, socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        words = [sys.executable, "-m", "pleat_server.bench.aggregate_server", str(port), str(reports), folder]
        with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
            try:
                return _watched(server, listener, reports)
            finally:
                server.kill()


def _watched(server: subprocess.Popen[str], listener: socket.socket, reports: int) -> float:
    listener.settimeout(60)
    lines = [listener.accept()[0] for _ in range(AT_ONCE)]
    _expect(server, "idle")
    idle, high_idle = _resident(server.pid)
    poll = _Poll(server.pid)
    _tell(server)
    with ThreadPoolExecutor(AT_ONCE) as devices:
        for done in [devices.submit(_device, line, range(k, reports, AT_ONCE)) for k, line in enumerate(lines)]:
            done.result()
    _expect(server, "folded")
    high = _resident(server.pid)[1]
    peak = max(poll.stop(), high if high > high_idle else 0)  # a mark that rose since is this interval's, exactly
    _tell(server)
    for line in lines:
        line.close()
    return (peak - idle) / MODEL_BYTES


def _device(line: socket.socket, ranks: range) -> None:
    for rank in ranks:
        send_report(line, rank, report_bytes(rank, _update(rank)))


def _expect(server: subprocess.Popen[str], word: str) -> None:
    assert server.stdout is not None  # opened as a pipe
    found = server.stdout.readline().strip()
    if found != word:
        raise LocalError(f"the measured server said {found!r} instead of {word!r}; its error stands above")


def _tell(server: subprocess.Popen[str]) -> None:
    assert server.stdin is not None  # opened as a pipe
    server.stdin.write("go\n")
    server.stdin.flush()


def _resident(pid: int) -> tuple[int, int]:
    """Resident bytes now, and at most so far."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    found = {
        key: int(value.split()[0]) * 1024
        for key, _, value in (x.partition(":") for x in lines)
        if key[:3] == "VmR" or key == "VmHWM"
    }
    return found["VmRSS"], found["VmHWM"]


class _Poll:
    """The largest resident size seen while it runs."""

    def __init__(self, pid: int) -> None:
        self._pid, self._peak, self._over = pid, 0, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._over.wait(POLL_S):
            self._peak = max(self._peak, _resident(self._pid)[0])

    def stop(self) -> int:
        self._over.set()
        self._thread.join()
        return self._peak
