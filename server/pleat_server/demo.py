"""The demo: one server in this process, four device daemons as processes of their own, on loopback and real data.

Devices differ by their upload budgets alone. Budgets are set between the predicted bytes of neighbouring widths, so
that each affords just its own; nothing sleeps and nothing is slowed. Whatever ends the demo, its daemons end with it.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np

from pleat.errors import LocalError, UseError
from pleat.exchange.report import Budgets
from pleat.shard import Shard, write
from pleat_server import app
from pleat_server.config import RunConfig
from pleat_server.evaluate import use_threads
from pleat_server.plan.catalogue import Row
from pleat_server.run_recipe import read_recipe
from pleat_server.shards import deal
from pleat_server.sources import digits

Event = dict[str, Any]
Watch = Callable[[Event], None]
WIDTHS = (1.0, 0.5, 0.25, 0.125)  # one device of each
SPLIT, HOLDOUT = "dirichlet:0.3", 0.2
HEADROOM = 1.5  # budget of the widest device, times its predicted upload
STOP_S = 10.0  # a daemon that was asked to stop gets this long

# The kernel ends a daemon when this process dies, even by SIGKILL.
DAEMON = """
import ctypes, signal, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)
from pleat_client.cli import main
sys.exit(main())
"""


@dataclass(frozen=True)
class Demo:
    seed: int
    model: str
    rounds: int
    recipe: str
    policy: str
    fedavg: bool
    folder: Path


@dataclass(frozen=True)
class Member:
    """One device of the demo: its name, its shard's file, and the bytes it may send a round."""

    name: str
    data: Path
    upload: int


def widths(text: str) -> tuple[float, ...]:
    """(1.0, 0.5) of "1,0.5"; () of ""."""
    try:
        return tuple(float(w) for w in text.split(",") if w)
    except ValueError:
        raise UseError(f"{text!r}: expected width rates with commas between, such as 1,0.5,0.25") from None


def offered(config: RunConfig) -> tuple[Row, ...]:
    """The rows that a run of `config` offers to devices."""
    return app.set_up(config, read_recipe(config), config.input_shape, config.classes).rows


def afford(rows: Sequence[Row], wanted: Sequence[float]) -> list[Budgets]:
    """Upload budgets that afford each of `wanted` and nothing wider. Raises UseError for a width not on offer."""
    cheapest: dict[float, int] = {}
    for row in rows:
        cheapest[row.rung.width] = min(row.up_bytes, cheapest.get(row.rung.width, row.up_bytes))
    out = []
    for width in wanted:
        if width not in cheapest:
            raise UseError(f"width {width:g} is not on offer; the recipe's widths are {sorted(cheapest, reverse=True)}")
        wider = min((b for w, b in cheapest.items() if w > width), default=HEADROOM**2 * cheapest[width])
        if wider <= cheapest[width]:
            raise UseError(f"no upload budget separates width {width:g}: a wider one costs no more bytes")
        out.append(Budgets(upload_bytes=int(sqrt(cheapest[width] * wider))))
    return out


def run(demo: Demo, watch: Watch) -> dict[str, Any]:
    """The whole demo; returns the summary, with `fedavg_accuracy` beside it if asked for."""
    shards, test = _dealt(demo.seed)
    config = RunConfig(
        recipe=demo.recipe,
        model=demo.model,
        rounds=demo.rounds,
        seed=demo.seed,
        folder=demo.folder,
        data=demo.folder / "shards" / "test.npz",
        listen="127.0.0.1:0",
        policy=demo.policy,
        least=len(shards),
        input_shape=test.input_shape,
        classes=10,
        carried="demo",
        how={"fedavg": demo.fedavg},
    )
    summary, seconds = _carried(config, shards, test, partial(app.serve, config), watch)
    summary["wall_s"] = seconds
    return summary | _beside(config, shards, test, watch)


def resume(config: RunConfig, watch: Watch) -> dict[str, Any]:
    """Go on with a demo that was stopped, to `config.rounds`: the same shards, budgets and devices' own states."""
    shards, test = _dealt(config.seed)
    go_on = partial(app.resume, config.folder, rounds=config.rounds)
    summary, _ = _carried(config, shards, test, go_on, watch)
    return summary | _beside(config, shards, test, watch)


def _carried(
    config: RunConfig, shards: Sequence[Shard], test: Shard, serve: Callable[[Watch], dict[str, Any]], watch: Watch
) -> tuple[dict[str, Any], float]:
    """`serve`, with the demo's daemons beside it from when it listens to its end; its summary, and its seconds."""
    use_threads(1)  # four trainers share the machine with this process
    members = _members(config, shards, test)
    started = time.monotonic()
    with _fleet(members, config.folder) as fleet:

        def watching(event: Event) -> None:
            if event["event"] == "listening":
                fleet.start(event["address"])
            fleet.check()
            watch(event)

        summary = serve(watching)
    return summary, time.monotonic() - started


def _dealt(seed: int) -> tuple[tuple[Shard, ...], Shard]:
    dealt = deal(digits(), len(WIDTHS), SPLIT, holdout=HOLDOUT, seed=seed)
    assert dealt.test is not None  # HOLDOUT is above 0
    return dealt.devices, dealt.test


def _members(config: RunConfig, shards: Sequence[Shard], test: Shard) -> list[Member]:
    """Write the shards and give each device its budget; which device is which class follows from the seed."""
    folder = config.folder / "shards"
    folder.mkdir(parents=True, exist_ok=True)
    write(folder / "test.npz", test)
    order = np.random.Generator(np.random.PCG64([config.seed, 1])).permutation(len(shards))
    budgets = afford(offered(config), [WIDTHS[i] for i in order])
    members = []
    for number, (shard, budget) in enumerate(zip(shards, budgets, strict=True), 1):
        data = folder / f"device-{number}.npz"
        write(data, shard)
        members.append(Member(data.stem, data, budget.upload_bytes or 0))
    return members


class _Fleet:
    """The daemons: started once the server listens, watched, and stopped by their own process ids."""

    def __init__(self, members: Sequence[Member], folder: Path) -> None:
        self._members, self._folder = members, folder
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, address: str) -> None:
        for member in self._members:
            state = self._folder / "devices" / member.name
            state.mkdir(parents=True, exist_ok=True)
            words = ["run", "--server", address, "--data", str(member.data), "--name", member.name]
            words += ["--upload", str(member.upload), "--state", str(state), "--holdout", "0", "--threads", "1"]
            with self._log(member.name).open("ab") as log:
                self._running[member.name] = subprocess.Popen(
                    [sys.executable, "-c", DAEMON, *words], stdin=subprocess.DEVNULL, stdout=log, stderr=log
                )

    def check(self) -> None:
        """Raises LocalError with a daemon's last words if it has ended by itself."""
        for name, process in self._running.items():
            if process.poll() is not None:
                last = self._log(name).read_text(errors="replace").strip().splitlines()[-1:]
                raise LocalError(f"{name} ended with exit code {process.returncode}: {' '.join(last)}")

    def stop(self) -> None:
        for process in self._running.values():
            if process.poll() is None:
                process.terminate()
        until = time.monotonic() + STOP_S
        for process in self._running.values():
            _wait(process, max(0.1, until - time.monotonic()))

    def _log(self, name: str) -> Path:
        return self._folder / "devices" / f"{name}.log"


def _wait(process: subprocess.Popen[bytes], seconds: float) -> None:
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@contextmanager
def _fleet(members: Sequence[Member], folder: Path) -> Iterator[_Fleet]:
    fleet = _Fleet(members, folder)
    try:
        yield fleet
    finally:
        fleet.stop()


def _beside(config: RunConfig, shards: Sequence[Shard], test: Shard, watch: Watch) -> dict[str, Any]:
    """FedAvg, every device at full size, in this process, if it was asked for: same net, shards, rounds, epochs, batch
    and learning rate."""
    if not config.how["fedavg"]:
        return {}
    training = read_recipe(config).training
    same = {key: getattr(training, key) for key in ("epochs", "batch", "rate", "momentum", "decay")}
    beside = replace(
        config,
        recipe="fedavg",
        policy="",
        folder=config.folder / "fedavg",
        data=None,
        overrides={"training": same},
        carried="beside",
    )
    watch(
        {
            "event": "notice",
            "text": f"FedAvg beside it: {config.rounds} rounds, every device at full size, dense float32",
        }
    )
    summary = app.simulate(beside, app.virtual_devices(shards), test)
    return {
        "fedavg_accuracy": summary["accuracy"],
        "fedavg_s": summary["wall_s"],
        "fedavg_bytes_up": summary["bytes_up"],
        "fedavg_bytes_down": summary["bytes_down"],
    }
