"""Wiring: from a configuration to a running, resumable run; the one place that knows every part by name.

A run's folder holds run.json, recipe.json, journal.jsonl, checkpoint/, spool/, and at the end model.safetensors (the
evaluated copy), summary.json and plot.png. Whatever stops a run, the folder is enough to go on.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from pleat import shard as shards
from pleat.disk import write_atomic
from pleat.elastic.importance import START, importance
from pleat.elastic.selection import WHOLE
from pleat.elastic.start import scaled_start
from pleat.errors import UseError
from pleat.exchange.report import Budgets
from pleat.nets import exported
from pleat.nets.build import initial, spec
from pleat.nets.trace import model_map
from pleat.recipes.recipe import Recipe
from pleat.shard import Shard
from pleat_server import prepare
from pleat_server.carrier import Carrier, Rejected
from pleat_server.config import RunConfig
from pleat_server.deeper import check_pairs
from pleat_server.desk import OrderBook
from pleat_server.evaluate import Evaluator
from pleat_server.fleet import Fleet
from pleat_server.heap import share_arenas
from pleat_server.keep import checkpoint
from pleat_server.keep.history import History
from pleat_server.keep.journal import Journal
from pleat_server.keep.run import Keep
from pleat_server.keep.spool import Spool
from pleat_server.link.servicer import GrpcCarrier
from pleat_server.link.tls import server_tls
from pleat_server.loop import Loop, Watch
from pleat_server.plan.catalogue import catalogue
from pleat_server.plan.offers import laid_on
from pleat_server.reopening import reopen
from pleat_server.round import Setup
from pleat_server.run_recipe import checked, keep_recipe, read_recipe
from pleat_server.simulate.grid import InProcess, VirtualDevice
from pleat_server.state import State, from_checkpoint
from pleat_server.summary import summarise


def set_up(config: RunConfig, recipe: Recipe, input_shape: tuple[int, ...], classes: int) -> Setup:
    """Net, map and catalogue of a run, with what was prepared for it in its folder. Raises UseError for an unknown net
    or a recipe that does not fit it."""
    net = spec(config.model, input_shape, classes, recipe.holds.exits)
    model = model_map(net)
    if recipe.fold.momentum:
        check_pairs(recipe.name, model)
    kept, table = prepare.read(config.folder, recipe if _has_run(config.folder) else None)
    ranks = importance(recipe.rule.score, initial(net, config.seed), kept)
    return Setup(model, net, recipe, laid_on(catalogue(model, recipe, config.seed, ranks, kept), table), kept)


def evaluator(setup: Setup, test: Shard, where: str = "test data") -> Evaluator:
    """Scores the run's model on `test` as its recipe says. Raises UseError where the samples do not fit the net."""
    return Evaluator(setup.net, setup.model, test, where=where, ensemble=setup.recipe.objective.ensemble)


def serve(config: RunConfig, watch: Watch = lambda event: None) -> dict[str, Any]:
    """A new run over the gRPC link, to its end; returns the summary. Raises UseError if the folder holds a run."""
    if _has_run(config.folder):
        raise UseError(
            f"{config.folder} holds a run already; go on with `pleat resume {config.folder}`, or name another"
        )
    recipe = checked(config)
    prepare.check_there_are(config, recipe, config.data is not None)
    test = shards.read(config.data) if config.data else None
    with begun(config.folder):
        return _serve(config, recipe, test, watch)


@contextlib.contextmanager
def begun(folder: Path) -> Iterator[None]:
    """The folder of a run, made where there is none; what could not begin (UseError), or was stopped before it did,
    leaves nothing behind."""
    ours = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException as error:
        begun_once = checkpoint.present(folder / "checkpoint") if isinstance(error, UseError) else _has_run(folder)
        if ours and not begun_once:
            shutil.rmtree(folder, ignore_errors=True)
        raise


def _has_run(folder: Path) -> bool:
    return (folder / "run.json").exists()


def resume(folder: Path, watch: Watch = lambda event: None, rounds: int = 0) -> dict[str, Any]:
    """Go on with the run in `folder` from its last good checkpoint, at the address it had; `rounds`: a new total."""
    config = RunConfig.load(folder)
    config = replace(config, rounds=rounds or config.rounds)
    test = shards.read(config.data) if config.data else None
    return _serve(config, read_recipe(config), test, watch)


def _serve(config: RunConfig, recipe: Recipe, test: Shard | None, watch: Watch) -> dict[str, Any]:
    share_arenas()
    run = config.folder.name
    spool = Spool(config.folder / "spool")
    book = OrderBook(run, spool.has)
    tls = server_tls(config.cert, config.key, config.ca)
    known = config.input_shape or test or config.proxy
    prepared = _prepare(config, recipe, test, spool, book, watch) if known else None
    carrier = GrpcCarrier(config.listen, spool, book, run, tls=tls, insecure=config.insecure)
    address = carrier.start()
    try:
        watch({"event": "listening", "address": address, "folder": str(config.folder)})
        if prepared is None:
            shape, classes = ask_devices(carrier, recipe.server.least, watch)
            config = replace(config, input_shape=shape, classes=classes)
            prepared = _prepare(config, recipe, test, spool, book, watch)
        loop = prepared(carrier)
        carrier.smallest = min(row.memory_bytes for row in loop.setup.rows)
        return _finish(config, loop, watch)
    finally:
        carrier.close()


def _prepare(
    config: RunConfig, recipe: Recipe, test: Shard | None, spool: Spool, book: OrderBook, watch: Watch, samples: int = 0
) -> Callable[[Carrier], Loop]:
    """Everything of a run but its carrier. Orders of an interrupted round are open before a device can connect.
    `samples`: how many there are to train on, as far as is known."""
    own = test or (shards.read(config.proxy) if config.proxy else None)
    shape = config.input_shape or (own.input_shape if own else ())
    classes = config.classes or (own.classes if own else 0)
    test = prepare.prepare(config, recipe, shape, classes, test, samples, watch)
    setup = set_up(config, recipe, shape, classes)
    scorer = evaluator(setup, test, str(config.data)) if test else None
    if not _has_run(config.folder):
        keep_recipe(config, recipe)
        replace(config, input_shape=shape, classes=classes).save()
    keep = Keep(config.folder, spool, Journal(config.folder / "journal.jsonl"))
    state = restore(setup, config, keep, watch)
    fleet = Fleet(setup, History(config.folder / "devices.sqlite"))
    reopen(setup, state, keep, book)
    return lambda carrier: Loop(setup, fleet, carrier, book, keep, state, scorer, watch)


def ask_devices(carrier: Carrier, least: int, watch: Watch) -> tuple[tuple[int, ...], int]:
    """Sample shape and number of classes from the hellos of the first `least` devices (and of any already there)."""
    watch({"event": "notice", "text": f"no --data: waiting for {least} device(s) to tell the shape of their samples"})
    while len(carrier.devices()) < least:
        for event in carrier.poll(0.5):
            if isinstance(event, Rejected):
                watch({"event": "notice", "text": f"{event.device}: {event.reason}"})
    profiles = [d.profile for d in carrier.devices().values()]
    shapes = {p.input_shape for p in profiles}
    if len(shapes) != 1:
        raise UseError(f"devices hold samples of different shapes {sorted(shapes)}; give --input-shape and --classes")
    return shapes.pop(), max(p.classes for p in profiles)


def restore(setup: Setup, config: RunConfig, keep: Keep, watch: Watch) -> State:
    """The state of the newest good checkpoint, the journal brought to the same round; a new state if there is none."""
    run = config.folder.name
    if not checkpoint.present(keep.checkpoints):
        return begin(setup, run, config.seed)
    number, arrays, facts, notes = checkpoint.load(keep.checkpoints)
    for note in notes:
        watch({"event": "notice", "text": note})
    check_same_net(facts, setup, config, keep.checkpoints)
    state = from_checkpoint(arrays, facts, setup.model)
    keep.journal.rewind(number)
    lines = Journal.read(keep.journal.path)
    if facts.get("line") and (not lines or lines[-1]["round"] < number):
        keep.journal.append(facts["line"])
    for closed in keep.spool.rounds(run):
        if 0 < closed <= number:
            keep.spool.drop(run, closed)
    watch({"event": "resumed", "round": number})
    return state


def check_same_net(facts: Mapping[str, Any], setup: Setup, config: RunConfig, where: Path) -> None:
    """Raises UseError unless a checkpoint's facts are of the net that the run's configuration builds now."""
    if facts["model"] != setup.model.digest.hex():
        raise UseError(f"checkpoint {facts['round']} in {where} is of another net than {config.model!r}")


def begin(setup: Setup, run: str, seed: int) -> State:
    """The state before the first round."""
    params = initial(setup.net, seed)
    if setup.recipe.holds.scaled_start:
        params = scaled_start(setup.model, params, setup.sizes.values())
    average = params if setup.recipe.server.average else None
    extras = {START: params} if setup.recipe.rule.score == "change" else {}
    return State(run=run, seed=seed, params=params, average=average, extras=extras)


def simulate(
    config: RunConfig,
    devices: Sequence[VirtualDevice],
    test: Shard | None,
    watch: Watch = lambda event: None,
    step: Callable[[str], None] = lambda name: None,
) -> dict[str, Any]:
    """The same strategy and device task in one process, no virtual clock; goes on where the folder's run stopped."""
    recipe = checked(config)
    if not config.input_shape:
        shape = tuple(devices[0].shard.x.shape[1:])
        classes = 1 + max(int(d.shard.y.max()) for d in devices)
        config = replace(config, input_shape=shape, classes=max(classes, int(test.y.max()) + 1 if test else 0))
    if config.carried == "grpc":
        config = replace(config, carried="simulate")
    with begun(config.folder):
        spool = Spool(config.folder / "spool")
        book = OrderBook(config.folder.name, spool.has)
        samples = sum(len(d.shard) for d in devices)
        start = _prepare(config, recipe, test, spool, book, watch, samples)
        loop = start(InProcess(devices, spool, book, step))
    loop.step, loop.deadlines = step, False
    return _finish(config, loop, watch)


def virtual_devices(
    shards_: Iterable[Shard], budgets: Iterable[Budgets] | None = None, holdout: float = 0.0, seed: int = 0
) -> list[VirtualDevice]:
    """Simulated devices, one a shard, named device-000 and on; `holdout`: share each keeps back to score models on."""
    limits = list(budgets or [])
    out = []
    for number, part in enumerate(shards_):
        train, held = shards.split_holdout(part, holdout, seed + number) if holdout else (part, None)
        limit = limits[number] if number < len(limits) else Budgets()
        out.append(VirtualDevice(f"device-{number:03d}", train, held, limit))
    return out


def _finish(config: RunConfig, loop: Loop, watch: Watch) -> dict[str, Any]:
    try:
        state = loop.run(config.rounds)
    finally:
        loop.fleet.close()
    return conclude(config, loop.setup, state, watch)


def conclude(config: RunConfig, setup: Setup, state: State, watch: Watch) -> dict[str, Any]:
    """Write the model and the summary of a run that has come to its end; returns the summary."""
    export(setup, state, config.folder)
    summary = summarise(config, setup.recipe.plan.policy, state, Journal.read(config.folder / "journal.jsonl"))
    write_atomic(config.folder / "summary.json", msgspec.json.format(msgspec.json.encode(summary), indent=2))
    watch({"event": "done", **summary})
    return summary


def export(setup: Setup, state: State, folder: Path) -> Path:
    """Write the evaluated copy as model.safetensors, which `nets/exported.py` makes a module of."""
    about = {"recipe": setup.recipe.name, "round": str(state.round)}
    path = folder / "model.safetensors"
    write_atomic(path, exported.pieces(setup.net, WHOLE, dict(state.evaluated), about))
    return path
