"""eLF against FedAvg: rounds to FedAvg's accuracy and bytes a round, IID and by Dirichlet(.5), under each fill.

Devices of four equal classes afford 1, 1/2, 1/4 and 1/8 of the dense model's bytes up a round and, under eLF, get what
the lookup table says; under FedAvg all train the whole model, budgets or not, and under drop-weak those alone that
afford it. The same data, cohorts, epochs and rates for all. A model is scored at the largest size that any device
trained. Proxy samples are drawn from the test data first, and nobody is scored on them. The target is the mean accuracy
of FedAvg's last three scores.

Each finished run is kept in the folder `elf` beside the figures by all that it follows from, so that a benchmark that
was stopped goes on.
"""

from __future__ import annotations

import hashlib
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
from rich import box
from rich.console import Console
from rich.table import Table

from pleat.disk import write_atomic
from pleat.elastic.selection import WHOLE
from pleat.elastic.size import count
from pleat.errors import UseError
from pleat.exchange.report import Budgets
from pleat.nets.build import spec
from pleat.nets.trace import model_map
from pleat.shard import Shard, write
from pleat_server import app
from pleat_server.bench.methods import setting as settings
from pleat_server.config import RunConfig
from pleat_server.evaluate import use_threads
from pleat_server.keep.journal import Journal
from pleat_server.proxy import drawn

VERSION = 2  # counted up where old results no longer are what a run would come to
CLASSES = (1.0, 0.5, 0.25, 0.125)  # of the dense model's bytes up, device by device in turn
HEADROOM = 4096  # bytes up beside the weights
LAST = 3  # scores that are averaged
PROXY = 0.05
FILLS: dict[str, dict[str, Any]] = {
    "zero": {"fill": "zero"},
    "coverage": {"fill": "update", "exponent": 1.0},
    "residual": {"fill": "update", "exponent": 0.0},
}
KNOWN = {"data": "", "model": "", "rounds": "60", "devices": "40", "splits": "iid,dirichlet:0.5", "seeds": "0"}
HEADINGS = (
    "split", "method", "accuracy %", "rounds to FedAvg's", "KiB a round", "fewer x", "FedAvg at these bytes %", "CPU s",
)  # fmt: skip
DROP_WEAK = "drop-weak"
METHODS = ("", DROP_WEAK, *FILLS)
Result = dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """One run: a data file ("" = digits), a net, a split, and FedAvg (""), drop-weak or eLF under a fill."""

    data: str
    model: str
    split: str
    devices: int
    rounds: int
    seed: int
    fill: str

    @property
    def name(self) -> str:
        return f"eLF, {self.fill} fill" if self.fill in FILLS else self.recipe

    @property
    def recipe(self) -> str:
        return "elf" if self.fill in FILLS else self.fill or "fedavg"


def run(options: Mapping[str, str], out: Path) -> dict[str, Any]:
    """All runs, from the cache where they were done; prints the table. Options: `data` (an .npz with x_train ... as
    for methods; the digits without), `model`, `rounds`, `devices`, `splits`, `seeds`. Raises UseError."""
    odd = sorted(options.keys() - KNOWN.keys())
    if odd:
        raise UseError(f"bench elf: unknown option {odd[0]!r}; there are {', '.join(KNOWN)}")
    said = {**KNOWN, **options}
    model = said["model"] or ("resnet6" if said["data"] else "mlp")
    devices, rounds = (settings.numbers("elf", said, name, "", least=1)[0] for name in ("devices", "rounds"))
    plans = [
        Plan(said["data"], model, split, devices, rounds, seed, fill)
        for split in said["splits"].split(",")
        for seed in settings.numbers("elf", said, "seeds", "")
        for fill in METHODS
    ]
    found = [(plan, _cached(plan, out / "elf")) for plan in plans]
    figures = {"model": model, "data": said["data"] or "digits", "runs": compared(found)}
    _show(figures)
    return figures


def _cached(plan: Plan, cache: Path) -> Result:
    data = hashlib.sha256(settings.data_file(plan.data).read_bytes()).hexdigest() if plan.data else "digits"
    what = f"{VERSION} {replace(plan, data=data)!r} {_laid(plan)!r}"
    path = cache / f"{hashlib.sha256(what.encode()).hexdigest()[:16]}.json"
    if not path.is_file():
        begun = time.process_time()
        result = _one(plan, cache) | {"cpu_s": time.process_time() - begun}
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, msgspec.json.format(msgspec.json.encode(result), indent=1))
        told = f"{plan.name}, {plan.split}, seed {plan.seed}: {result['curve'][-1][1]:.1%}, {result['cpu_s']:.0f} s"
        print(told, file=sys.stderr, flush=True)
    known: Result = msgspec.json.decode(path.read_bytes())
    return known


def _laid(plan: Plan) -> dict[str, Any]:
    """What is laid over the recipe; local training is the same for all."""
    laid: dict[str, Any] = {
        "training": {"epochs": 2, "batch": 20, "rate": 0.1, "momentum": 0.0, "clip": 5.0},
        "server": {"cohort": min(1.0, 10 / plan.devices), "scored": max(1, plan.rounds // 10) if plan.data else 1},
        "plan": {"policy": "lookup", "timed": False},
    }
    return laid | {"fold": FILLS[plan.fill]} if plan.fill in FILLS else laid


def _one(plan: Plan, cache: Path) -> Result:
    """Carry one run out, on one thread; the lookup table is kept in `cache`."""
    use_threads(1)
    shared = replace(settings.SETTINGS["s"], split=plan.split, devices=plan.devices, data=plan.data)
    devices, test = settings.shards(shared, plan.seed)
    proxy, rest = drawn(test, sum(map(len, devices)), PROXY, plan.seed)
    rest = Shard(rest.x[:1000], rest.y[:1000])  # every size is scored, several times a run
    classes = 1 + max(int(s.y.max()) for s in (*devices, test))
    net = spec(plan.model, test.input_shape, classes)
    dense = 4 * count(model_map(net), WHOLE) + HEADROOM
    budgets = [Budgets(upload_bytes=int(dense * CLASSES[i % len(CLASSES)])) for i in range(plan.devices)]
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder) / "proxy.npz", proxy)
        config = RunConfig(
            recipe=plan.recipe,
            model=plan.model,
            folder=Path(folder) / "run",
            rounds=plan.rounds,
            seed=plan.seed,
            proxy=Path(folder) / "proxy.npz",
            cache=cache,
            overrides=_laid(plan),
            input_shape=test.input_shape,
            classes=classes,
            carried="simulate",
        )
        virtual = app.virtual_devices(devices, budgets if plan.fill else None)
        if plan.fill == DROP_WEAK:  # the others would stay idle; a cohort drawn of them alone would be waited for
            virtual = virtual[:: len(CLASSES)]
        app.simulate(config, virtual, rest)
        lines = Journal.read(config.folder / "journal.jsonl")
    return summed_up(lines)


def summed_up(lines: Sequence[dict[str, Any]]) -> Result:
    """Accuracy by round at the largest size that any device trained (what none held was left as it began), bytes a
    round both ways, and the sizes that were trained."""
    devices = [d for line in lines for d in line["devices"]]
    trained = [d["size"] for d in devices]
    largest = max(devices, key=lambda d: float(d["density"]))["size"]
    scored = [line for line in lines if line.get("accuracy") is not None]
    return {
        "curve": [[line["round"], line["accuracy_by_size"][largest]] for line in scored],
        "scored_at": largest,
        "bytes_a_round": statistics.fmean(line["bytes_up"] + line["bytes_down"] for line in lines),
        "sizes": {size: trained.count(size) / len(trained) for size in dict.fromkeys(trained)},
    }


def compared(found: Sequence[tuple[Plan, Result]]) -> list[Result]:
    """Each run beside FedAvg of the same split and seed: its rounds to FedAvg's final accuracy (None: never), how many
    times fewer bytes a round it moves, and where FedAvg stood when it had moved as many bytes as this run in all."""
    out = []
    for plan, result in found:
        beside = next(r for p, r in found if (p.split, p.seed, p.fill) == (plan.split, plan.seed, ""))
        final, target = _final(result), _final(beside)
        reached = next((number for number, accuracy in result["curve"] if accuracy >= target - 1e-9), None)
        out.append(
            {
                "method": plan.name,
                "split": plan.split,
                "seed": plan.seed,
                "accuracy": final,
                "target": target,
                "rounds_to_target": reached,
                "bytes_a_round": result["bytes_a_round"],
                "fewer_bytes_a_round": beside["bytes_a_round"] / result["bytes_a_round"],
                "fedavg_at_these_bytes": _at(beside, result["curve"][-1][0] * result["bytes_a_round"]),
                "sizes": result["sizes"],
                "cpu_s": result["cpu_s"],
            }
        )
    return out


def _at(result: Result, nbytes: float) -> float | None:
    """The last accuracy that was scored before so many bytes had moved; None where none was."""
    known = [accuracy for number, accuracy in result["curve"] if number * result["bytes_a_round"] <= nbytes + 0.5]
    return known[-1] if known else None


def _final(result: Result) -> float:
    return statistics.fmean(accuracy for _, accuracy in result["curve"][-LAST:])


def _show(figures: Mapping[str, Any]) -> None:
    console = Console()
    if not console.is_terminal:
        console = Console(width=140)
    table = Table(box=box.SIMPLE_HEAD, title=f"{figures['model']} on {figures['data']}", title_justify="left")
    for heading in HEADINGS:
        table.add_column(heading, justify="left" if heading in ("split", "method") else "right")
    for one in figures["runs"]:
        table.add_row(
            one["split"],
            one["method"],
            f"{100 * one['accuracy']:.1f}",
            "never" if one["rounds_to_target"] is None else str(one["rounds_to_target"]),
            f"{one['bytes_a_round'] / 1024:.0f}",
            f"{one['fewer_bytes_a_round']:.2f}",
            "-" if one["fedavg_at_these_bytes"] is None else f"{100 * one['fedavg_at_these_bytes']:.1f}",
            f"{one['cpu_s']:.0f}",
        )
    console.print(table)
