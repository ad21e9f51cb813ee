"""Runs: one contender at one seed, in a process of its own; what came of it is kept, so that no run is done twice.

A result's file is named by a digest of all that it follows from; a benchmark that was stopped goes on with the runs
that are missing. Runs of one seed deal the same data to the same devices and draw the same cohorts.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from pleat.disk import write_atomic
from pleat.errors import PleatError
from pleat.exchange.order import NetSpec
from pleat.exchange.report import Budgets
from pleat.nets.build import initial, spec
from pleat.nets.trace import model_map
from pleat.recipes import load as recipes
from pleat.recipes.recipe import Recipe
from pleat.shard import Shard
from pleat_server import app
from pleat_server.bench.methods.contenders import Contender, overrides
from pleat_server.bench.methods.setting import Setting, digest
from pleat_server.config import RunConfig
from pleat_server.evaluate import use_threads
from pleat_server.keep.journal import Journal
from pleat_server.round import Setup
from pleat_server.run_recipe import checked

VERSION = 1  # of what a run does; a change that alters outcomes makes old results count for nothing
HOLDOUT = 0.2  # of a device's shard, where a method's models are scored on the devices
NOTHING = Budgets(upload_bytes=1)  # a device that may not take part

Result = dict[str, Any]


def results(
    setting: Setting, chosen: Sequence[Contender], seeds: Sequence[int], jobs: int, cache: Path
) -> dict[str, list[Result]]:
    """Contender -> its results, in the order of the seeds; what failed at any is told of and left out."""
    data, folder = digest(setting), cache / setting.name
    paths = {(c.name, seed): folder / f"{_stem(c, seed, data, setting.model)}.json" for c in chosen for seed in seeds}
    missing = [(c, seed) for seed in seeds for c in chosen if not paths[c.name, seed].is_file()]
    print(f"{len(paths) - len(missing)} of {len(paths)} runs are in {folder}", file=sys.stderr)
    failed: list[str] = []
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), max_tasks_per_child=1) as pool:
        asked: dict[Future[Result], tuple[Contender, int]] = {
            pool.submit(one, setting, contender, seed): (contender, seed) for contender, seed in missing
        }
        for number, done in enumerate(as_completed(asked), 1):
            contender, seed = asked[done]
            try:
                result = done.result()
            except PleatError as error:
                failed.append(contender.name)
                print(f"[{number}/{len(missing)}] {contender.name}, seed {seed}: failed: {error}", file=sys.stderr)
                continue
            folder.mkdir(parents=True, exist_ok=True)
            write_atomic(paths[contender.name, seed], msgspec.json.format(msgspec.json.encode(result), indent=1))
            print(
                f"[{number}/{len(missing)}] {contender.name}, seed {seed}: {_told(result['full'])} at full size, "
                f"{_told(result['smallest'])} at the smallest, {result['cpu_s']:.0f} s",
                file=sys.stderr,
                flush=True,
            )
    done_ones = [c for c in chosen if c.name not in failed]
    return {c.name: [msgspec.json.decode(paths[c.name, s].read_bytes()) for s in seeds] for c in done_ones}


def _told(accuracy: float | None) -> str:
    return "unknown" if accuracy is None else f"{accuracy:.1%}"


def _stem(contender: Contender, seed: int, data: str, model: str) -> str:
    plain = "".join(ch if ch.isalnum() else "-" for ch in contender.name)
    recipe = recipes.load(contender.recipe, model=model, overrides=contender.laid)
    what = f"{VERSION} {data} {contender.told} {told(recipe)}"
    return f"{plain}-{seed}-{hashlib.sha256(what.encode()).hexdigest()[:12]}"


def told(recipe: Recipe) -> str:
    """What a recipe says that is not a default, so that a key which is new to all recipes changes no result's name."""
    plain, usual = msgspec.to_builtins(recipe), msgspec.to_builtins(Recipe())
    chosen = {
        table: {k: v for k, v in values.items() if v != usual[table][k]} if isinstance(usual[table], dict) else values
        for table, values in plain.items()
        if table not in ("summary", "paper", "saves", "costs", "models") and values != usual[table]
    }
    return json.dumps(chosen, sort_keys=True)


def one(setting: Setting, contender: Contender, seed: int) -> Result:
    """Carry one run out, on one thread."""
    use_threads(1)
    devices, test = setting.shards(seed)
    classes = 1 + max(int(s.y.max()) for s in (*devices, test))
    net = net_of(setting, contender, test.input_shape, classes)
    laid = overrides(setting, contender, model_map(net), initial(net, seed))
    with tempfile.TemporaryDirectory() as folder:
        config = RunConfig(
            recipe=contender.recipe,
            model=setting.model,
            folder=Path(folder) / "run",
            rounds=setting.rounds,
            seed=seed,
            overrides=laid,
            input_shape=test.input_shape,
            classes=classes,
            carried="simulate",
        )
        recipe = checked(config)
        out = [contender.level is not None and setting.class_of(d) > contender.level for d in range(setting.devices)]
        budgets = [NOTHING if away else Budgets() for away in out]
        own = bool(recipe.personal.tensors)
        virtual = app.virtual_devices(devices, budgets, HOLDOUT if own and not setting.common else 0.0, seed)
        if own and setting.common:
            for device, part in zip(virtual, _drawn(test, setting.common, seed, len(virtual)), strict=True):
                device.holdout = part
        begun = time.process_time()
        app.simulate(config, virtual, test)
        cpu_s = time.process_time() - begun
        lines = Journal.read(config.folder / "journal.jsonl")
    setup = app.set_up(config, recipe, config.input_shape, config.classes)
    return summed_up(setting, setup, lines) | {"seed": seed, "cpu_s": cpu_s}


def _drawn(test: Shard, count: int, seed: int, devices: int) -> list[Shard]:
    """For each device `count` of the test samples."""
    rng = np.random.default_rng([seed, 11])
    rows = [np.sort(rng.permutation(len(test))[:count]) for _ in range(devices)]
    return [Shard(test.x[r], test.y[r]) for r in rows]


def net_of(setting: Setting, contender: Contender, input_shape: tuple[int, ...], classes: int) -> NetSpec:
    """The setting's net, with the exits that the contender's recipe asks for."""
    exits = recipes.load(contender.recipe, model=setting.model, overrides=contender.laid).holds.exits
    return spec(setting.model, input_shape, classes, exits)


def summed_up(setting: Setting, setup: Setup, lines: Sequence[dict[str, Any]]) -> Result:
    """What a run's journal says: accuracies as means of the last scores, bytes, multiply-adds of all training."""
    scored = [line for line in lines if line.get("accuracy") is not None]
    last, sizes = scored[-setting.last :], dict.fromkeys(s for line in scored for s in line.get("accuracy_by_size", {}))
    by_size = {s: statistics.fmean(line["accuracy_by_size"][s] for line in last) for s in sizes}
    done = [device for line in lines for device in line["devices"] if device["outcome"] == "done"]
    return {
        "full": statistics.fmean(line["accuracy"] for line in last) if last else None,
        "smallest": list(by_size.values())[-1] if by_size else None,
        "by_size": by_size,
        "curve": [[line["round"], line["accuracy"]] for line in scored],
        "bytes_up": sum(line["bytes_up"] for line in lines),
        "bytes_down": sum(line["bytes_down"] for line in lines),
        "macs": sum(setup.rows[d["row"]].macs * d["samples"] for d in done) * setup.recipe.training.epochs,
        "reports": len(done),
    }
