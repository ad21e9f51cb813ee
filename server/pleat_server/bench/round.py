"""A round that trains nothing: four devices, a million parameters, loopback; spool, checkpoint, journal and fsync on.

Ours is the real server loop (plan, orders, spool, fold, data value, checkpoint, journal) with four device processes on
the real link, which decode the model, add a fixed random update, code it and stage it durably; only the trainer child
is left out. Once with dense float32 both ways, once with the default codec. Flower's is its own SuperLink and four
SuperNodes whose client adds 1 to the model. Rounds take turns, so that all see the same machine.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from pleat.errors import LocalError
from pleat.nets.build import initial, spec
from pleat.nets.trace import model_map
from pleat.params import count
from pleat.recipes import load as recipes
from pleat_server import app
from pleat_server.bench import flower_device
from pleat_server.desk import OrderBook
from pleat_server.evaluate import use_threads
from pleat_server.fleet import Fleet
from pleat_server.heap import share_arenas
from pleat_server.keep.history import History
from pleat_server.keep.journal import Journal
from pleat_server.keep.run import Keep
from pleat_server.keep.spool import Spool
from pleat_server.link.servicer import GrpcCarrier
from pleat_server.loop import Loop
from pleat_server.plan.catalogue import catalogue
from pleat_server.reopening import reopen
from pleat_server.round import Setup

DEVICES = 4
LAYERS = {"first": 1320, "second": 686}  # of an MLP on 64 inputs and 10 classes: 998,876 parameters
TURNS = 5  # of each; Flower has one round a turn
OURS = 8  # rounds of ours a turn
WARM = 3  # first rounds, not counted
FLOWER_ROUND_S = 120.0  # a Flower round that takes longer is an error


def run() -> dict[str, Any]:
    """null_round_ms, null_round_codec_ms, flower_null_round_ms: medians; the ratios of Flower's to ours."""
    use_threads(1)
    share_arenas()  # as `pleat serve` does
    dense: list[float] = []
    coded: list[float] = []
    theirs: list[float] = []
    with tempfile.TemporaryDirectory(prefix="pleat-round-") as temporary, ExitStack() as stack:
        folder = Path(temporary)
        flower = stack.enter_context(_flower(folder / "flower", TURNS))
        loops = [
            (times, stack.enter_context(_ours(folder / r, r))) for times, r in ((dense, "fedavg"), (coded, "elastic"))
        ]
        for _, loop in loops:
            _times(loop, WARM)
        for turn in range(1, TURNS + 1):
            theirs.append(flower(turn))
            for times, loop in loops:
                times += _times(loop, OURS)
        parameters = count(loops[0][1].state.params)
    return _figures(dense, coded, theirs, parameters)


def _figures(dense: list[float], coded: list[float], theirs: list[float], parameters: int) -> dict[str, Any]:
    ours, codec, flower = (statistics.median(times) * 1e3 for times in (dense, coded, theirs))
    return {
        "null_round_ms": ours,
        "null_round_codec_ms": codec,
        "flower_null_round_ms": flower,
        "ratio": flower / ours,
        "ratio_codec": flower / codec,
        "null_round_best_ms": min(dense) * 1e3,
        "parameters": parameters,
        "devices": DEVICES,
        "n": len(dense),
        "n_flower": len(theirs),
    }


def _times(loop: Loop, rounds: int) -> list[float]:
    """Seconds of each round, from deciding to the dropped spool."""
    out = []
    for _ in range(rounds):
        started = time.perf_counter()
        loop.one()
        out.append(time.perf_counter() - started)
    loop.settle()
    return out


@contextmanager
def _ours(folder: Path, recipe: str) -> Iterator[Loop]:
    """A run of `recipe` at full size, with its devices connected."""
    net = spec("mlp", (1, 8, 8), 10, **LAYERS)
    own = recipes.load(
        recipe,
        model="mlp",
        overrides={"holds": {"widths": [1.0]}, "server": {"least": DEVICES}, "plan": {"policy": "lookup"}},
    )
    setup = Setup(model_map(net), net, own, catalogue(model_map(net), own, 0, initial(net, 0)))
    spool = Spool(folder / "spool")
    book = OrderBook(recipe, spool.has)
    keep = Keep(folder, spool, Journal(folder / "journal.jsonl"))
    state = app.begin(setup, recipe, 0)
    reopen(setup, state, keep, book)
    carrier = GrpcCarrier("127.0.0.1:0", spool, book, recipe)
    fleet = Fleet(setup, History(folder / "devices.sqlite"))
    processes = []
    try:
        address = carrier.start()
        processes = [_device(address, f"device-{n}", folder / f"state-{n}") for n in range(DEVICES)]
        yield Loop(setup, fleet, carrier, book, keep, state)
    finally:
        for process in processes:
            process.terminate()
        carrier.close()
        fleet.close()
        for process in processes:
            process.wait()


def _device(address: str, name: str, state: Path) -> subprocess.Popen[bytes]:
    words = [sys.executable, "-m", "pleat_server.bench.null_device", address, name, str(state)]
    return subprocess.Popen(words, env={**os.environ, "OMP_NUM_THREADS": "1"})


@contextmanager
def _flower(folder: Path, rounds: int) -> Iterator[Callable[[int], float]]:
    """Flower's stack with the null app submitted; calling it with 1, 2, ... does that round and tells its seconds."""
    folder.mkdir(parents=True)
    told = {"PLEAT_BENCH": str(folder), "PLEAT_BENCH_ROUNDS": str(rounds), "PLEAT_BENCH_DEVICES": str(DEVICES)}
    before = {key: os.environ.get(key) for key in told}
    os.environ.update(told)
    try:
        with ExitStack() as stack:
            port = stack.enter_context(flower_device.superlink(folder))
            for n in range(DEVICES):
                stack.enter_context(flower_device.supernode(folder, port, f"node-{n}"))
            code = Path(__file__).with_name("flower_null.py").read_text(encoding="utf-8")
            flower_device.submit(folder, flower_device.write_app(folder, code)).wait()
            yield lambda number: _flower_round(folder, number)
    finally:
        for key, value in before.items():
            if value is None:
                del os.environ[key]
            else:
                os.environ[key] = value


def _flower_round(folder: Path, number: int) -> float:
    (folder / f"go-{number}").touch()
    done, end = folder / f"done-{number}", time.monotonic() + FLOWER_ROUND_S
    while not done.exists():
        if time.monotonic() > end:
            raise LocalError(f"Flower's round {number} did not end within {FLOWER_ROUND_S:.0f} s; see {folder}/*.log")
        time.sleep(0.02)
    return float(done.read_text())
