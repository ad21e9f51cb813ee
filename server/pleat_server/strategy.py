"""Flower's face: `ElasticStrategy`, a `flwr.serverapp.strategy.Strategy` whose rounds are pleat's.

    strategy = ElasticStrategy("elastic", "mlp", input_shape=(1, 8, 8), classes=10, folder=Path("runs/mine"))
    strategy.start(grid, num_rounds=30)

`start` runs pleat's own loop: checkpoints, resuming, deadlines, spool. It takes a `FleetGrid`, or any other grid of
Flower's whose nodes run `pleat_client.flower_app`. `configure_train` and `aggregate_train` are the same round functions
for whoever drives a strategy by hand, on a `FleetGrid` (`FleetGrid.over` makes one of any other).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy

from pleat.errors import LocalError, UseError
from pleat.exchange.flower import RECORD
from pleat.exchange.order import Order
from pleat.exchange.wire import order_to_bytes
from pleat.shard import Shard
from pleat_server import round as rounds
from pleat_server.app import begin, evaluator, restore, set_up
from pleat_server.closing import advance
from pleat_server.config import RunConfig
from pleat_server.fleet import Fleet
from pleat_server.folding import Read, fold
from pleat_server.keep.history import History
from pleat_server.keep.journal import Journal
from pleat_server.keep.run import Keep
from pleat_server.link.flower_carrier import LEAST_S, FlowerCarrier
from pleat_server.link.grid import FleetGrid, from_arrays, node_id_of, to_arrays
from pleat_server.loop import DEADLINE_LEAST_S, Loop, Watch
from pleat_server.prepare import prepare
from pleat_server.reopening import reopen
from pleat_server.run_recipe import read_recipe
from pleat_server.state import State
from pleat_server.statistics import unasked


class ElasticStrategy(Strategy):
    """pleat's method as a Flower strategy. `recipe` to `overrides` as in `RunConfig`; `test`: the server's own data;
    `proxy`: a file of samples to prune by, else some of these, for recipes that do.

    Raises UseError for an unknown recipe, net or key.
    """

    def __init__(
        self,
        recipe: str,
        model: str,
        *,
        input_shape: tuple[int, ...],
        classes: int,
        folder: Path,
        seed: int = 0,
        overrides: dict[str, Any] | None = None,
        test: Shard | None = None,
        proxy: Path | None = None,
        watch: Watch = lambda event: None,
    ) -> None:
        self.config = config = RunConfig(
            recipe, model, folder, seed=seed, overrides=overrides or {}, input_shape=input_shape, classes=classes
        )
        chosen = read_recipe(config)
        folder.mkdir(parents=True, exist_ok=True)
        test = prepare(replace(config, proxy=proxy), chosen, input_shape, classes, test, 0, watch)
        self.setup = set_up(config, chosen, input_shape, classes)
        self._evaluate = evaluator(self.setup, test) if test else None
        self._watch = watch
        self._fleet = Fleet(self.setup, History(folder / "devices.sqlite"))
        self.state: State = begin(self.setup, folder.name, seed)
        self._asked: list[Order] = []
        self._decided: rounds.Decisions | None = None
        self._read: Read | None = None

    def start(
        self,
        grid: Grid,
        initial_arrays: ArrayRecord | None = None,
        num_rounds: int = 3,
        timeout: float = 3600,
        train_config: ConfigRecord | None = None,
        evaluate_config: ConfigRecord | None = None,
        evaluate_fn: Callable[[int, ArrayRecord], MetricRecord | None] | None = None,
    ) -> Result:
        """Run, or go on, until `num_rounds` rounds are closed.

        `timeout`: seconds a round may take. `initial_arrays` replace the seeded initial model of a fresh run. What
        Flower's own loop would send to clients or ask of `evaluate_fn` is the recipe's business here.
        """
        fleet = grid if isinstance(grid, FleetGrid) else FleetGrid.over(grid, self.config.folder, self.setup.net)
        keep = Keep(self.config.folder, fleet.spool, Journal(self.config.folder / "journal.jsonl"))
        state = restore(self.setup, self.config, keep, self._watch)
        if state.round == 0 and initial_arrays is not None:
            state = replace(state, params=from_arrays(initial_arrays))
        reopen(self.setup, state, keep, fleet.book)
        loop = Loop(self.setup, self._fleet, fleet.carrier, fleet.book, keep, state, self._evaluate, self._watch)
        loop.span_s = (LEAST_S if isinstance(fleet.carrier, FlowerCarrier) else DEADLINE_LEAST_S, timeout)
        self.state = loop.run(num_rounds)
        result = Result()
        result.arrays = to_arrays(self.state.evaluated)
        for line in Journal.read(keep.journal.path):
            scores = {k: line[k] for k in ("accuracy", "loss") if line.get(k) is not None}
            result.evaluate_metrics_serverapp[line["round"]] = MetricRecord(scores)
            if line.get("train_loss") is not None:
                result.train_metrics_clientapp[line["round"]] = MetricRecord({"train_loss": line["train_loss"]})
        return result

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Orders of the round as messages. `arrays` become the model if they are not what the last round returned.

        Nothing is asked beside the training here, so that statistics of batch norms come with the updates.
        """
        if not isinstance(grid, FleetGrid):
            raise UseError(
                "ElasticStrategy plans from device profiles, which only a pleat FleetGrid knows; make one: "
                "FleetGrid.over(grid, strategy.config.folder, strategy.setup.net)"
            )
        self.setup = unasked(self.setup)
        for joined in grid.carrier.devices().values():
            self.state = self._fleet.heard(self.state, joined)
        self.state = replace(self.state, params=from_arrays(arrays), round=server_round - 1)
        here = sorted(grid.carrier.devices())
        self._decided = self._fleet.draw(self.setup, self.state, server_round, here)
        self.state = rounds.publication(self.setup, self.state)
        self._asked = rounds.orders(self.setup, self.state, self._decided)
        self._read = grid.spool.read
        return [
            Message(
                RecordDict({RECORD: ConfigRecord({"order": order_to_bytes(o)})}),
                dst_node_id=node_id_of(o.device),
                message_type="train",
                group_id=str(server_round),
            )
            for o in self._asked
        ]

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Fold the replies; (None, None) where none was accepted, so that the model stays as it is."""
        if self._decided is None or self._read is None:
            raise LocalError("aggregate_train was called before configure_train of the same round")
        known = {str(o.id): o.id for o in self._asked}
        handles = [str(m.content[RECORD]["report"]) for m in replies if not m.has_error()]
        folded = fold(self.setup, self.state, self._asked, self._read, [known[h] for h in handles])
        closed = advance(self.setup, self.state, folded)
        self.state = self._fleet.learn(self.setup, closed, self._decided, folded, None)
        if not folded.accepted:
            return None, None
        losses = [r.metrics["loss"] for _, r in folded.accepted if "loss" in r.metrics]
        metrics = MetricRecord({"accepted": len(folded.accepted), "train_loss": sum(losses) / max(1, len(losses))})
        return to_arrays(self.state.params), metrics

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Nothing is sent: devices score the submodel they receive before they train (down once, up once)."""
        return []

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        return None

    def summary(self) -> None:
        """Tell the watcher what is about to run."""
        recipe = self.setup.recipe
        self._watch(
            {"event": "notice", "text": f"{recipe.name}: {len(self.setup.rows)} rows, policy {recipe.plan.policy}"}
        )
