"""Election of the first mask: devices' losses decide, under statistics that are each candidate's own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from pleat.elastic.selection import extract
from pleat.exchange.order import Kind, Order, OrderId
from pleat.exchange.report import Budgets, Profile, Report
from pleat.exchange.wire import order_from_bytes, order_to_bytes, report_to_bytes
from pleat.nets.build import initial
from pleat.params import Params
from pleat.shard import Shard
from pleat_client.statistics import running_statistics
from pleat_client.task import DeviceState, run
from pleat_client.trainer import score
from pleat_server import app
from pleat_server.config import RunConfig
from pleat_server.desk import check_report
from pleat_server.election import FIRST, affords, candidates, elected, mean_loss, pending
from pleat_server.plan.devices import Table
from pleat_server.round import Decisions, Setup
from pleat_server.run_recipe import read_recipe
from pleat_server.state import State
from support.digits import digit_shards
from support.methods import FAST, away, simulate

torch.set_num_threads(1)

NET = "support.bnnet:build"
PARTS, TEST = digit_shards(3)


def setup_of(net: str = NET, **laid: Any) -> Setup:
    config = RunConfig("fedtiny", net, Path("unused"), overrides={"holds": {"widths": [0.3]}, **laid})
    return app.set_up(config, read_recipe(config), (1, 8, 8), 10)


def begun(setup: Setup) -> State:
    return State("r", 0, initial(setup.net, 0))


DECISIONS = Decisions(1, {f"d{i}": 0 for i in range(3)}, {}, {}, None, {})


class Fleet:
    """Three devices that answer, each with its own data; `asked`: everything that was."""

    def __init__(self, setup: Setup, parts: list[Shard], silent: str = "") -> None:
        self.setup, self.parts, self.silent = setup, {f"d{i}": p for i, p in enumerate(parts)}, silent
        self.asked: list[list[Order]] = []
        self.said: list[str] = []

    def __call__(self, decisions: Decisions, orders: list[Order]) -> dict[OrderId, Report]:
        self.asked.append(orders)
        told = {}
        for order in (o for o in orders if o.device != self.silent):
            report, _ = run(order_from_bytes(order_to_bytes(order)), DeviceState(), self.parts[order.device])
            told[order.id] = check_report(self.setup.model, order, order.device, report_to_bytes(report))
        return told

    def elect(self, state: State) -> State:
        return elected(self.setup, state, DECISIONS, self, self.said.append)


def by_hand(setup: Setup, params: Params) -> tuple[dict[str, float], dict[str, Params]]:
    """Each candidate's loss over all samples, under its statistics over all devices."""
    losses, statistics = {}, {}
    samples = [len(p) for p in PARTS]
    for name, selection in candidates(setup, State("r", 0, params)).items():
        part = extract(setup.model, selection, params)
        found = [running_statistics(setup.net, setup.model, selection, part, p, 32) for p in PARTS]
        mean = {n: np.average([f[n] for f in found], axis=0, weights=samples).astype(np.float32) for n in found[0]}
        statistics[name] = mean
        seen = [score(setup.net, setup.model, selection, {**part, **mean}, p)[2] for p in PARTS]
        losses[name] = sum(seen) / sum(samples)
    return losses, statistics


def test_the_candidate_of_least_loss_under_its_own_statistics_is_the_first_mask() -> None:
    setup = setup_of()
    fleet, state = Fleet(setup, PARTS), begun(setup)
    losses, statistics = by_hand(setup, state.params)
    after = fleet.elect(state)
    best = min(losses, key=lambda n: losses[n])
    masks = candidates(setup, state)[best].masks
    assert {n: (m != 0).tolist() for n, m in after.extras["mask"].items()} == {n: m.tolist() for n, m in masks.items()}
    for name, values in statistics[best].items():
        np.testing.assert_allclose(after.params[name], values, rtol=1e-5, atol=1e-6)
    assert [len(orders) for orders in fleet.asked] == [9, 9]  # three candidates, three devices, twice
    assert all(o.kind is Kind.EVALUATE and o.id.rank >= FIRST for orders in fleet.asked for o in orders)
    assert len({o.id for orders in fleet.asked for o in orders}) == 18
    assert fleet.said == ["first mask: loss " + ", ".join(f"{losses[n]:.4g} of {n}" for n in losses)]
    assert fleet.elect(after) is after  # once
    assert fleet.elect(replace(state, round=1)) == replace(state, round=1)


def test_statistics_of_another_net_would_have_told_other_losses() -> None:
    """The control: under the statistics that the model begins with, the losses are others."""
    setup = setup_of()
    state = begun(setup)
    losses, _ = by_hand(setup, state.params)
    for name, selection in candidates(setup, state).items():
        part = extract(setup.model, selection, state.params)
        seen = sum(score(setup.net, setup.model, selection, part, p)[2] for p in PARTS) / sum(map(len, PARTS))
        assert abs(seen - losses[name]) > 1e-3


def test_a_net_without_batch_norms_is_asked_once_and_one_candidate_not_at_all() -> None:
    plain = setup_of("mlp")
    fleet = Fleet(plain, PARTS)
    after = fleet.elect(begun(plain))
    assert [len(orders) for orders in fleet.asked] == [9]
    assert {tuple(r.name for r in o.returns) for o in fleet.asked[0]} == {()}
    assert after.params is not None
    assert after.extras["mask"].keys() == {"first.weight", "second.weight", "head.weight"}
    whole = Fleet(setup_of(holds={"widths": [1.0]}), PARTS)
    assert whole.elect(begun(whole.setup)).extras["mask"] == {}  # all candidates are the whole model
    assert whole.asked == []
    none = setup_of(rule={"pool": []})
    assert not pending(none, begun(none))


def test_devices_that_say_nothing_or_cannot_afford_it_are_left_out_and_the_first_candidate_is_the_last_resort() -> None:
    setup = setup_of()
    fleet = Fleet(setup, PARTS, silent="d2")
    assert "mask" in fleet.elect(begun(setup)).extras
    row = setup.rows[0]
    state = begun(setup)
    for limit, good in ((7 * row.down_bytes, True), (7 * row.down_bytes - 1, False)):
        profile = Profile(samples=9, budgets=Budgets(download_bytes=limit))
        table = Table()
        for device in DECISIONS.rows:
            table = table.join(device, device, profile)
        assert affords(setup, replace(state, table=table), DECISIONS, "d0") is good
    poor = replace(state, table=table)
    nobody = Fleet(setup, PARTS)
    first = nobody.elect(poor)
    assert [len(orders) for orders in nobody.asked] == [0, 0]
    expected = next(iter(candidates(setup, state).values())).masks
    assert all(np.array_equal(first.extras["mask"][n] != 0, m) for n, m in expected.items())
    assert nobody.said == ["first mask: loss not told by anybody"]


def test_a_mean_loss_counts_samples() -> None:
    orders = [Order(OrderId("r", 1, n), "d", Kind.EVALUATE, setup_of().net) for n in range(3)]
    told = {
        orders[0].id: Report(orders[0].id, "d", metrics={"scored": 1.0, "scored_loss": 4.0}),
        orders[1].id: Report(orders[1].id, "d", metrics={"scored": 3.0, "scored_loss": 2.0}),
        orders[2].id: Report(orders[2].id, "d"),
    }
    assert mean_loss(orders, told) == 2.5
    assert mean_loss(orders[2:], told) is None


@pytest.mark.parametrize("net", [NET, "mlp"])
def test_a_run_begins_with_an_election_and_trains_under_the_elected_mask(net: str, tmp_path: Path) -> None:
    ran = simulate(tmp_path / "run", "fedtiny", 1, model=net, holds={"widths": [0.3]})
    setup = setup_of(net)
    mask = Fleet(setup, PARTS).elect(begun(setup)).extras["mask"]
    for device in ran.devices:
        (sent, *_) = device.state.masks.values()
        assert all(np.array_equal(sent[n], mask[n] != 0) for n in mask)
    assert all(not ran.params[n][m == 0].any() for n, m in mask.items())
    asked = 3 * (1 + (net == NET))
    assert [d.trained for d in ran.devices] == [1 + asked + 1] * 3  # timed, asked, trained


@pytest.mark.parametrize("at", [5, 9, 14, 17])
def test_a_crash_during_an_election_or_after_it_changes_nothing(at: int, tmp_path: Path) -> None:
    more = {"holds": {"widths": [0.3]}, "rule": {"reconfigure": 2}}
    undisturbed = simulate(tmp_path / "whole", "fedtiny", 2, model="mlp", **more)
    config = RunConfig(
        "fedtiny", "mlp", tmp_path / "run", 2, input_shape=(1, 8, 8), classes=10, overrides={**FAST, **more}
    )
    devices, left = app.virtual_devices(PARTS), [at]

    def stop(step: str) -> None:
        left[0] -= step == "spool"
        if step == "spool" and left[0] == 0:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        app.simulate(config, devices, TEST, step=stop)
    app.simulate(config, devices, TEST)
    assert away(load_file(tmp_path / "run" / "model.safetensors"), undisturbed.params) == 0
