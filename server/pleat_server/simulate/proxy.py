"""Training on proxy data before a run, with the devices' own trainer: pruning by cycles, and what each row is worth.

A job's digest is a function of all that its result depends on. In the cache folder

    DIGEST.imp          the pruning after its last full cycle: arrays, under a checksum
    DIGEST-TUNE.json    what each row that was trained for so many epochs scored

are replaced as a whole after every cycle and every row: what was stopped goes on from there and comes to the same bits
as if it had not been, and what was done is not done again. A damaged file is set aside and made anew.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load as from_safetensors

from pleat.disk import make_folder, read_versioned, set_aside, write_atomic, write_versioned
from pleat.elastic.pruning import Pruning, advance, begin, scores
from pleat.elastic.selection import WHOLE, Selection, extract, make
from pleat.errors import LocalError
from pleat.exchange.order import NetSpec, Work
from pleat.modelmap import ModelMap
from pleat.nets.build import initial
from pleat.params import Params
from pleat.recipes.recipe import Proxy
from pleat.shard import Shard
from pleat.tensorfile import pieces
from pleat_client.batches import batches, steps_an_epoch
from pleat_client.trainer import Tick, gradient, score, train
from pleat_server.plan.catalogue import Worth
from pleat_server.proxy import Parts, parted
from pleat_server.round import seed_of

Watch = Callable[[dict[str, Any]], None]
FORMAT = 1  # of the cache; counted up too when the same job would come to another result


@dataclass(frozen=True, eq=False)
class Job:
    """All that pruning depends on. `work`: how batches are trained, with the objective of the net alone; its number of
    epochs counts for nothing."""

    net: NetSpec
    model: ModelMap
    proxy: Shard
    settings: Proxy
    work: Work
    seed: int

    @cached_property
    def digest(self) -> str:
        """32 hex digits that two jobs share exactly when they prune alike."""
        s = self.settings
        facts = {
            "format": FORMAT,
            "net": [self.net.factory, sorted(self.net.arguments.items()), self.model.digest.hex()],
            "schedule": [s.cycles, s.prune, s.epochs, s.steps, s.rewind, s.across],
            "work": asdict(replace(self.work, epochs=0)),
            "seed": self.seed,
            "samples": [list(self.proxy.x.shape), str(self.proxy.x.dtype), str(self.proxy.y.dtype)],
        }
        h = hashlib.sha256(msgspec.json.encode(facts, order="sorted"))
        for array in (self.proxy.x, self.proxy.y):
            h.update(np.ascontiguousarray(array).tobytes())
        return h.hexdigest()[:32]


def prune(job: Job, cache: Path, watch: Watch = lambda event: None) -> Pruning:
    """The job's pruning after all its cycles, from where `cache` has it. Raises Diverged where the training does.

    `watch` is told {"event": "proxy", "doing", "number", "of", "done" (share of it), "text"}; it may raise.
    """
    make_folder(cache)
    path, s = cache / f"{job.digest}.imp", job.settings
    state = _restored(path, job, watch) or begin(job.model, initial(job.net, job.seed))
    train_part = parted(job.proxy).train
    while state.cycle < s.cycles:
        trained, early = _cycle(job, state, train_part, watch)
        state = advance(state, s.prune, s.across, trained, early)
        write_versioned(path, FORMAT, _packed(state))
        text = f"{state.density:.1%} of the weights are left"
        watch(_told("pruning", state.cycle, s.cycles, 1.0, text))
    return state


def _cycle(job: Job, state: Pruning, shard: Shard, watch: Watch) -> tuple[Params, Params | None]:
    """The weights after the cycle's training, and, in the first, those to go back to from then on."""
    s, number, early = job.settings, state.cycle + 1, list[Params]()

    def tick(done: float, loss: float | None) -> None:
        loss_text = "" if loss is None else f", loss {loss:.3f}"
        watch(_told("pruning", number, s.cycles, 0.999 * done, f"{state.density:.1%} of the weights{loss_text}"))

    def ended(epoch: int, params: Callable[[], Params]) -> None:
        if number == 1 and epoch == s.rewind:
            early.append(params())

    selection = make(job.model, masks=state.masks)
    first = extract(job.model, selection, state.last if s.rewind < 0 else state.start)
    work, seed = _work(job, s.epochs, shard), seed_of(job.seed, "imp", number)
    trained, _ = train(job.net, job.model, selection, first, (), work, shard, seed, tick, epoch_ended=ended)
    return trained, early[0] if early else None


def worths(
    job: Job, state: Pruning, rows: Iterable[tuple[str, Selection]], cache: Path, watch: Watch = lambda event: None
) -> dict[Selection, Worth]:
    """What each of the named submodels scores on the samples held out, after `tune` epochs from the weights that
    survivors go back to. Each distinct submodel is trained once, and never again while `cache` has it."""
    make_folder(cache)
    path, parts = cache / f"{job.digest}-{job.settings.tune}.json", parted(job.proxy)
    known, names = _known(path, watch), {selection: name for name, selection in rows}
    todo = {s: n for s, n in names.items() if s.digest.hex() not in known}
    if len(todo) < len(names):
        watch({"event": "notice", "text": f"{len(names) - len(todo)} of {len(names)} sizes are scored already"})
    for number, (selection, name) in enumerate(todo.items(), 1):
        told = partial(_told, "scoring", number, len(todo))

        def tick(done: float, loss: float | None, told: Callable[..., Any] = told, name: str = name) -> None:
            watch(told(0.999 * done, f"size {name}"))

        worth = _worth(job, state, selection, parts, tick)
        known[selection.digest.hex()] = asdict(worth)
        write_atomic(path, msgspec.json.format(msgspec.json.encode(known, order="sorted"), indent=1))
        watch(told(1.0, f"size {name}: accuracy {worth.accuracy:.1%} on {worth.samples} samples"))
    return {selection: Worth(**known[selection.digest.hex()]) for selection in names}


def _worth(job: Job, state: Pruning, selection: Selection, parts: Parts, tick: Tick) -> Worth:
    params = extract(job.model, selection, state.start)
    if job.settings.tune:
        work, seed = _work(job, job.settings.tune, parts.train), seed_of(job.seed, "tune")
        params, _ = train(job.net, job.model, selection, params, (), work, parts.train, seed, tick)
    right, samples, loss = score(job.net, job.model, selection, params, parts.held)
    return Worth(right / samples, loss / samples, samples)


def _work(job: Job, epochs: int, shard: Shard) -> Work:
    """So many epochs, or more: of few samples an epoch is a step or two, and would teach nothing."""
    return replace(job.work, epochs=epochs_made(job, epochs, shard))


def epochs_made(job: Job, epochs: int, shard: Shard) -> int:
    """Epochs of a training that is to have so many, or as many as make the job's number of steps."""
    return max(epochs, -(-job.settings.steps // steps_an_epoch(len(shard), job.work.batch)))


def _told(doing: str, number: int, of: int, done: float, text: str) -> dict[str, Any]:
    return {"event": "proxy", "doing": doing, "number": number, "of": of, "done": done, "text": text}


def mean_squares(net: NetSpec, model: ModelMap, work: Work, shard: Shard, seed: int) -> Params:
    """At the net's first weights, the mean over the batches of one epoch of their gradients' squares; 0 in tensors that
    are not trained."""
    params = initial(net, seed)
    total = {name: np.zeros_like(array) for name, array in params.items()}
    parts = list(batches(len(shard), work.batch, 1, seed_of(seed, "squares")))
    for rows in parts:
        one = replace(work, batch=len(rows))
        found = gradient(net, model, WHOLE, params, one, Shard(shard.x[rows], shard.y[rows]), seed)
        for name, array in found.items():
            total[name] += np.square(array) / len(parts)
    return total


def _packed(state: Pruning) -> bytes:
    groups: dict[str, Mapping[str, NDArray[Any]]] = {"places": state.places, "start": state.start, "last": state.last}
    flat = {
        f"{group}/{name}": np.ascontiguousarray(a) for group, arrays in groups.items() for name, a in arrays.items()
    }
    return b"".join(pieces({**flat, "cycle": np.array([state.cycle], np.int64)}))


def _restored(path: Path, job: Job, watch: Watch) -> Pruning | None:
    """The pruning that the cache has, if it has any that is whole."""
    try:
        flat = from_safetensors(read_versioned(path, FORMAT)[1])
    except FileNotFoundError:
        return None
    except LocalError as error:
        _lay_aside(path, str(error), watch)
        return None
    cycle = int(flat.pop("cycle")[0])
    groups: dict[str, dict[str, Any]] = {}
    for key, array in sorted(flat.items()):
        group, _, name = key.partition("/")
        groups.setdefault(group, {})[name] = array
    text = f"pruning: {cycle} of {job.settings.cycles} cycles are there already, in {path}"
    watch({"event": "notice", "text": text})
    return Pruning(cycle, groups["places"], groups["start"], groups["last"])


def _known(path: Path, watch: Watch) -> dict[str, dict[str, Any]]:
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, dict[str, Any]])
    except FileNotFoundError:
        return {}
    except msgspec.DecodeError as error:
        _lay_aside(path, f"{path} is damaged: {error}", watch)
        return {}


def _lay_aside(path: Path, why: str, watch: Watch) -> None:
    watch({"event": "notice", "text": f"{why}; it is made anew, the old one is {set_aside(path)}"})


def scores_of(job: Job, state: Pruning) -> Params:
    """The score of every entry that may be pruned."""
    return scores(state, job.settings.across)
