"""Memory of a device that trains the 1.7 M CNN at batch 32: pleat's daemon and child, a bare torch script, Flower's
processes; and what pleat's process tree holds and burns when idle.

Memory is the resident size summed over the process tree, polled every 10 ms from outside: the programs reset their own
high-water marks. All three do the same training: SGD with momentum by hand, the same shard, as many threads as cores.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from pleat.errors import LocalError
from pleat.nets.build import initial, spec
from pleat.nets.trace import model_map
from pleat.recipes import load as recipes
from pleat_client.probe import memory
from pleat_server import app
from pleat_server.bench import bare_torch, flower_device
from pleat_server.desk import OrderBook
from pleat_server.fleet import Fleet
from pleat_server.keep.history import History
from pleat_server.keep.journal import Journal
from pleat_server.keep.run import Keep
from pleat_server.keep.spool import Spool
from pleat_server.link.servicer import GrpcCarrier
from pleat_server.loop import Loop
from pleat_server.plan.catalogue import catalogue
from pleat_server.reopening import reopen
from pleat_server.round import Setup

POLL_S = 0.01
SAMPLES, EPOCHS, ROUNDS = 640, 1, 3
TURNS = 3  # of pleat and of the bare script, in turn
IDLE_AFTER_S, IDLE_FOR_S = 60.0, 20.0
FLOWER_S = 300.0  # a Flower run of two rounds that takes longer is an error
MIB = 2**20
_APP = Path(__file__).with_name("flower_trains.py")


def run() -> dict[str, Any]:
    """train_peak_rss_mib, bare_peak_rss_mib, flower_peak_rss_mib, idle_rss_mib, idle_cpu_percent, and two ratios."""
    ours: list[float] = []
    bare: list[float] = []
    with tempfile.TemporaryDirectory(prefix="pleat-memory-") as temporary:
        folder = Path(temporary)
        shard = _shard(folder / "shard.npz")
        for turn in range(TURNS):
            bare.append(_bare(shard))
            peak, idle = _pleat(folder / f"pleat-{turn}", shard, last=turn == TURNS - 1)
            ours.append(peak)
        flower = _flower(folder)
    trained, script = statistics.median(ours), statistics.median(bare)
    return {
        "train_peak_rss_mib": trained,
        "bare_peak_rss_mib": script,
        "flower_peak_rss_mib": flower,
        "over_bare": trained / script,
        "below_flower_percent": 100 * (1 - trained / flower),
        **idle,
        "n": TURNS,
        "n_flower": 1,
    }


class Peak:
    """The highest summed resident size of a process and all its descendants, polled while the context lasts."""

    def __init__(self, pid: int) -> None:
        self.mib = 0.0
        self._pid, self._ended = pid, threading.Event()
        self._thread = threading.Thread(target=self._poll, daemon=True)

    def __enter__(self) -> Peak:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()

    def _poll(self) -> None:
        while not self._ended.wait(POLL_S):
            self.mib = max(self.mib, (memory.tree_rss_bytes(self._pid) or 0) / MIB)


def _shard(path: Path) -> Path:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(SAMPLES, 1, bare_torch.SIDE, bare_torch.SIDE)).astype(np.float32)
    np.savez(path, x=x, y=np.arange(SAMPLES) % bare_torch.CLASSES)
    return path


def _bare(shard: Path) -> float:
    words = [sys.executable, "-m", "pleat_server.bench.bare_torch", str(shard), str(EPOCHS * ROUNDS)]
    with subprocess.Popen(words, stdout=subprocess.DEVNULL) as script, Peak(script.pid) as peak:
        if script.wait():
            raise LocalError("the bare torch script failed; see its lines above")
    return peak.mib


def _pleat(folder: Path, shard: Path, last: bool) -> tuple[float, dict[str, float]]:
    """Peak of daemon and child over some rounds with the default codec; if it is the `last`, its idle figures too."""
    with ExitStack() as stack:
        loop, address = stack.enter_context(_server(folder))
        device = stack.enter_context(_device(address, shard, folder / "state"))
        with Peak(device.pid) as peak:
            for _ in range(ROUNDS):
                loop.one()
        return peak.mib, _idle(device.pid) if last else {}


def _idle(pid: int) -> dict[str, float]:
    """What the tree holds and burns a minute after its last order, still connected."""
    time.sleep(IDLE_AFTER_S)
    before, began = _cpu_s(pid), time.monotonic()
    time.sleep(IDLE_FOR_S)
    spent = (_cpu_s(pid) - before) / (time.monotonic() - began)
    return {"idle_rss_mib": (memory.tree_rss_bytes(pid) or 0) / MIB, "idle_cpu_percent": 100 * spent}


def _cpu_s(pid: int) -> float:
    """Processor seconds that the tree has used, user and system."""
    ticks = 0
    for member in memory.tree(pid):
        with contextlib.suppress(OSError):
            ticks += sum(map(int, Path(f"/proc/{member}/stat").read_text().rpartition(")")[2].split()[11:13]))
    return ticks / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def _server(folder: Path) -> Iterator[tuple[Loop, str]]:
    """A run of the default recipe's codec at full size, plain cross-entropy, on loopback."""
    net = spec("caldas", (1, bare_torch.SIDE, bare_torch.SIDE), bare_torch.CLASSES)
    recipe = recipes.load(
        "elastic",
        overrides={
            "holds": {"widths": [1.0]},
            "objective": {"name": "cross_entropy", "nested": False, "settings": {}},
            "training": {"epochs": EPOCHS, "batch": bare_torch.BATCH},
            "server": {"least": 1},
            "plan": {"policy": "lookup"},
        },
    )
    setup = Setup(model_map(net), net, recipe, catalogue(model_map(net), recipe, 0, initial(net, 0)))
    spool = Spool(folder / "spool")
    book, state = OrderBook("memory", spool.has), app.begin(setup, "memory", 0)
    keep = Keep(folder, spool, Journal(folder / "journal.jsonl"))
    reopen(setup, state, keep, book)
    carrier, fleet = GrpcCarrier("127.0.0.1:0", spool, book, "memory"), Fleet(setup, History(folder / "devices.sqlite"))
    try:
        address = carrier.start()
        yield Loop(setup, fleet, carrier, book, keep, state), address
    finally:
        carrier.close()
        fleet.close()


@contextlib.contextmanager
def _device(address: str, shard: Path, state: Path) -> Iterator[subprocess.Popen[bytes]]:
    words = ["run", "--server", address, "--data", str(shard), "--name", "device", "--state", str(state), "--quiet"]
    device = subprocess.Popen([sys.executable, "-m", "pleat_client.cli", *words], stdin=subprocess.DEVNULL)
    try:
        yield device
    finally:
        device.terminate()
        device.wait()


def _flower(folder: Path) -> float:
    """Peak of SuperNode, superexec and ClientApp together over two rounds."""
    told = {"PLEAT_BENCH": str(folder), "PLEAT_BENCH_EPOCHS": str(EPOCHS), "PLEAT_BENCH_ROUNDS": "2"}
    os.environ.update(told)  # the ClientApp inherits it from the SuperNode
    try:
        app_folder = flower_device.write_app(folder, _APP.read_text())
        with (
            flower_device.superlink(folder) as port,
            flower_device.supernode(folder, port, "node") as node,
            Peak(node.pid) as peak,
        ):
            flower_device.submit(folder, app_folder).wait()
            end = time.monotonic() + FLOWER_S
            while not (folder / "done").exists():
                if time.monotonic() > end:
                    raise LocalError(f"Flower's run did not end within {FLOWER_S:.0f} s; see {folder}/superlink.log")
                time.sleep(0.2)
        return peak.mib
    finally:
        for key in told:
            del os.environ[key]
