"""Static batch norm: running statistics are those of the model itself, per size, and never a mean with zeros."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.app import ConfigRecord
from msgspec import structs

from pleat.codec.coding import build as coding
from pleat.codec.transform import Context
from pleat.elastic.choosers import Rung
from pleat.elastic.selection import WHOLE, extract
from pleat.errors import RemoteError
from pleat.exchange.order import Kind, Order, OrderId, Return
from pleat.exchange.report import Outcome
from pleat.exchange.returned import returned_part, size_of
from pleat.exchange.wire import order_from_bytes, order_to_bytes, report_to_bytes
from pleat.nets.build import initial, spec
from pleat.nets.trace import model_map
from pleat.params import Params
from pleat.shard import Shard
from pleat_client.batches import in_order
from pleat_client.statistics import running_statistics
from pleat_client.task import DeviceState, run
from pleat_server import app
from pleat_server.config import RunConfig
from pleat_server.desk import check_report
from pleat_server.exported import opened, score_run
from pleat_server.keep import checkpoint
from pleat_server.plan.catalogue import catalogue
from pleat_server.round import Decisions, Setup, orders
from pleat_server.run_recipe import read_recipe
from pleat_server.state import State, name_of, seen_at
from pleat_server.statistics import BESIDE, answered, questions, unasked
from support.digits import digit_shards
from support.methods import away, simulate

torch.set_num_threads(1)

ONE = spec("support.bnnet:one_norm", (1, 1, 1), 2)
MEAN, VAR = "0.running_mean", "0.running_var"
NET = "support.bnnet:build"


def shard(*values: float) -> Shard:
    x = np.array(values, np.float32).reshape(-1, 1, 1, 1)
    return Shard(x, np.arange(len(values)) % 2)


FIRST, SECOND = shard(1, 3, 5, 7), shard(10, 14)


def setup_of(
    net: str, recipe: str = "heterofl", shape: tuple[int, ...] = (1, 1, 1), classes: int = 2, **laid: object
) -> Setup:
    more = {"training": {"batch": 2}, "holds": {"widths": [1.0]}, **laid}
    config = RunConfig(recipe, net, Path("unused"), overrides=more)
    return app.set_up(config, read_recipe(config), shape, classes)


def decided(setup: Setup, *rows: int) -> Decisions:
    return Decisions(1, {f"d{i}": row for i, row in enumerate(rows)}, {}, {}, None, {})


def test_a_device_s_statistics_are_the_plain_mean_over_batches_of_the_model_it_was_sent() -> None:
    """Batches (1, 3) and (5, 7): means 2 and 6, variances (n - 1) 2 and 2."""
    model, params = model_map(ONE), initial(ONE, 0)
    found = running_statistics(ONE, model, WHOLE, params, FIRST, 2)
    assert {n: a.tolist() for n, a in found.items()} == {MEAN: [4.0], VAR: [2.0]}
    assert running_statistics(ONE, model, WHOLE, params, FIRST, 4)[VAR][0] == pytest.approx(20 / 3)
    assert [i.tolist() for i in in_order(5, 2)] == [[0, 1], [2, 3, 4]]  # no batch of one sample


def test_devices_count_by_their_samples_and_training_leaves_other_averages() -> None:
    """Device 0: mean 4, variance 2, 4 samples; device 1: mean 12, variance 8, 2 samples. Together 40 / 6 and 24 / 6."""
    setup = setup_of("support.bnnet:one_norm")
    state = State("r", 0, initial(setup.net, 0), round=1)
    asked = questions(setup, state, decided(setup, 0, 0), ["d0", "d1"])
    assert [(o.kind, o.device, o.id.rank - BESIDE) for o in asked] == [
        (Kind.EVALUATE, "d0", 0),
        (Kind.EVALUATE, "d1", 1),
    ]
    told = {}
    for order, data in zip(asked, (FIRST, SECOND), strict=True):
        report, after = run(order_from_bytes(order_to_bytes(order)), DeviceState(), data)
        told[order.id] = check_report(setup.model, order, order.device, report_to_bytes(report))
        assert (report.outcome, after.residual, after.version) == (Outcome.DONE, {}, -1)
    both = answered(setup, state, asked, told)
    assert both.params[MEAN][0] == pytest.approx(40 / 6)
    assert both.params[VAR][0] == pytest.approx(4)
    assert all(np.array_equal(both.params[n], a) for n, a in state.params.items() if n not in (MEAN, VAR))
    late = answered(setup, state, asked, {asked[1].id: told[asked[1].id]})
    assert late.params[MEAN][0] == 12
    nobody = answered(setup, state, asked, {})
    assert nobody is state
    # the control: what passing through training leaves is neither
    trained = replace(asked[0], kind=Kind.TRAIN, returns=(Return("arrays", "raw"),), nested=())
    report, _ = run(trained, DeviceState(), FIRST)
    from pleat_server.desk import decode_payload

    passed = decode_payload(setup.model, trained, report.payloads[0])
    assert abs(passed[MEAN][0] - 4) > 0.5  # type: ignore[index]
    assert passed[VAR][0] != 2  # type: ignore[index]


def test_nothing_is_asked_of_a_net_without_batch_norms_nor_where_the_recipe_does_not_say_so() -> None:
    plain = setup_of("mlp", shape=(1, 8, 8), classes=10)
    assert plain.recipe.objective.statistics == 1
    assert questions(plain, State("r", 0, initial(plain.net, 0), round=1), decided(plain, 0), ["d0"]) == []
    assert plain.kept_back == ()
    assert {(r.beside_up, r.beside_down) for r in plain.rows} == {(0, 0)}
    norms = setup_of("support.bnnet:one_norm")
    assert norms.kept_back == (MEAN, VAR)
    quiet = unasked(norms)
    assert quiet.kept_back == ()
    assert questions(quiet, State("r", 0, initial(norms.net, 0), round=1), decided(norms, 0), ["d0"]) == []
    assert questions(norms, State("r", 0, initial(norms.net, 0), round=1), decided(norms, 0), []) == []


def test_rows_are_planned_with_what_is_asked_beside_the_training() -> None:
    setup = setup_of(NET, shape=(1, 8, 8), classes=10, holds={"widths": [1.0, 0.5]})
    row = setup.rows[0]
    assert row.beside_down == pytest.approx(row.down_bytes, rel=0.01)
    assert 4 * 2 * 32 < row.beside_up < 2 * 4 * 2 * 32 + 200
    silent = catalogue(setup.model, unasked(setup).recipe, 0, initial(setup.net, 0))[0]
    assert silent.up_bytes == row.up_bytes + 4 * 2 * 32  # two norms of 16 channels, a mean and a variance each


def test_a_report_may_bring_the_sizes_that_were_asked_for_and_no_others() -> None:
    setup = setup_of(NET, shape=(1, 8, 8), classes=10, holds={"widths": [1.0, 0.5]})
    assert [size_of(n) for n in ("statistics", "statistics-2", "update", "statistics-x", "statistics-")] == [
        0,
        2,
        None,
        None,
        None,
    ]
    state = State("r", 0, initial(setup.net, 0), round=1)
    (asked,) = questions(setup, state, decided(setup, 0), ["d0"])
    assert [r.name for r in asked.returns] == ["statistics", "statistics-1"]
    with pytest.raises(RemoteError, match="asks for 'statistics-2' and has 1 nested sizes"):
        returned_part(setup.model, asked, Return("statistics-2", "raw"))
    odd = replace(asked, returns=(Return("update", "raw"),))
    report, _ = run(odd, DeviceState(), digit_shards(3)[0][0])
    assert (report.outcome, "asks an evaluation for 'update'" in report.reason) == (Outcome.REFUSED, True)


def test_a_device_of_one_sample_refuses_rather_than_send_a_variance_of_0() -> None:
    setup = setup_of("support.bnnet:one_norm")
    state = State("r", 0, initial(setup.net, 0), round=1)
    (asked,) = questions(setup, state, decided(setup, 0), ["d0"])
    report, _ = run(asked, DeviceState(), shard(1))
    assert (report.outcome, "at least 2 samples" in report.reason) == (Outcome.REFUSED, True)
    assert answered(setup, state, [asked], {asked.id: report}) is state


def expected(setup: Setup, params: Params, parts: list[Shard], rung: Rung) -> Params:
    """Over all devices, by samples, at one size."""
    selection = setup.sizes[rung]
    part = extract(setup.model, selection, params)
    found = [running_statistics(setup.net, setup.model, selection, part, p, 32) for p in parts]
    total = sum(map(len, parts))
    return {n: sum((len(p) / total * f[n] for p, f in zip(parts, found, strict=True)), np.zeros(())) for n in found[0]}


def test_a_run_scores_every_size_with_that_size_s_own_statistics_of_the_last_model(tmp_path: Path) -> None:
    more = {"holds": {"widths": [1.0, 0.5]}, "plan": {"policy": "lookup"}}
    ran = simulate(tmp_path / "run", "heterofl", 2, model=NET, **more)
    parts, test = digit_shards(3)
    config = RunConfig.load(tmp_path / "run")
    setup = app.set_up(config, read_recipe(config), (1, 8, 8), 10)
    _, arrays, _, _ = checkpoint.load(tmp_path / "run" / "checkpoint")
    for rung in setup.sizes:
        known = seen_at(dict(arrays["params"]), {n[6:]: dict(a) for n, a in arrays.items() if n[:6] == "extra."}, rung)
        for name, values in expected(setup, ran.params, parts, rung).items():
            np.testing.assert_allclose(known[name][: values.size], values, rtol=2e-4, atol=1e-5)
    assert name_of(Rung(0.5)) == "statistics 0.5"
    small = extract(setup.model, setup.sizes[Rung(0.5)], ran.params)["4.running_mean"]
    assert np.abs(arrays["extra.statistics 0.5"]["4.running_mean"][: small.size] - small).max() > 1e-3
    np.savez(tmp_path / "test.npz", x=test.x, y=test.y)
    for rung in setup.sizes:
        found = score_run(tmp_path / "run", tmp_path / "test.npz", rung.label)["accuracy"]
        assert found == ran.summary["accuracy_by_size"][rung.label]
    assert ran.lines[1]["bytes_down"] == pytest.approx(2 * ran.lines[1]["bytes_up"], rel=0.03)


def test_the_model_learns_the_same_whether_statistics_travel_or_are_asked_for(tmp_path: Path) -> None:
    """They matter to scores alone; asked every other round, they come every other round."""
    asked, sent, seldom = (
        simulate(
            tmp_path / str(every), "heterofl", 2, model=NET, holds={"widths": [1.0]}, objective={"statistics": every}
        )
        for every in (1, 0, 2)
    )
    trained = [n for n in asked.params if "running" not in n]
    assert all(np.array_equal(asked.params[n], sent.params[n]) for n in trained)
    buffers = sorted(asked.params.keys() - set(trained))
    assert all(np.array_equal(asked.params[n], seldom.params[n]) for n in buffers)
    assert away({n: asked.params[n] for n in buffers}, sent.params) > 1e-2
    down = [line["bytes_down"] for line in seldom.lines]
    assert down[1] > 1.9 * down[0]
    assert asked.summary["accuracy"] >= sent.summary["accuracy"]


def test_the_small_sizes_of_elastic_are_scored_by_statistics_of_their_own(tmp_path: Path) -> None:
    """The control: by those of the whole model, cut to them, they know far less than they have learnt. Which sizes are
    trained does not follow from measured times here."""
    simulate(tmp_path / "run", "elastic", 12, model=NET, plan={"policy": "fixed", "timed": False})
    run, (_, test) = opened(tmp_path / "run"), digit_shards(3)
    scored = app.evaluator(run.setup, test)
    for size in ("0.5", "0.25", "0.125"):
        selection = run.submodel(size)
        own, control = (scored.score(p, selection).loss for p in (run.params(size), run.state.evaluated))
        assert own < 0.85 * control, size


def test_where_nobody_holds_the_whole_model_its_statistics_come_from_the_sizes_that_are_held(tmp_path: Path) -> None:
    ran = simulate(tmp_path / "run", "fedrolex", 2, model=NET, holds={"widths": [0.5]})
    for name in (n for n in ran.params if "running_var" in n):
        assert ran.params[name].min() > 0
        moved = ran.params[name] != 1  # as it was before anybody answered
        assert moved.mean() == pytest.approx(9 / 16)  # a window of half, twice, moved on by one


@pytest.mark.parametrize("step", ["spool", "acknowledge", "checkpoint"])
def test_a_crash_while_devices_are_asked_changes_nothing(step: str, tmp_path: Path) -> None:
    more = {"holds": {"widths": [1.0, 0.5]}}
    undisturbed = simulate(tmp_path / "whole", "heterofl", 2, model=NET, **more)
    times = 1 if step == "checkpoint" else 3 + 3 + 2
    broken = simulate(tmp_path / "run", "heterofl", 2, model=NET, broken=(step, times), **more)
    assert away(broken.params, undisturbed.params) == 0


def test_an_order_of_statistics_survives_the_wire() -> None:
    order = Order(OrderId("r", 1, BESIDE + 3), "d", Kind.EVALUATE, ONE, returns=(Return("statistics", "raw"),))
    assert order_from_bytes(order_to_bytes(order)) == order


def test_whoever_drives_rounds_by_hand_gets_statistics_with_the_updates(tmp_path: Path) -> None:
    """Nobody asks devices there: what does not come with the updates would never come."""
    from pleat_server.link.grid import FleetGrid, to_arrays
    from pleat_server.strategy import ElasticStrategy

    strategy = ElasticStrategy("heterofl", NET, input_shape=(1, 8, 8), classes=10, folder=tmp_path)
    assert strategy.setup.kept_back != ()
    with FleetGrid.listen("127.0.0.1:0", tmp_path, strategy.setup.net) as grid:
        assert list(strategy.configure_train(1, to_arrays(strategy.state.params), ConfigRecord(), grid)) == []
    assert strategy.setup.kept_back == ()


def test_a_device_is_sent_its_size_with_that_size_s_own_statistics(tmp_path: Path) -> None:
    setup = setup_of(NET, shape=(1, 8, 8), classes=10, holds={"widths": [1.0, 0.5]})
    params = initial(setup.net, 0)
    own = {n: np.full_like(params[n], 7) for n in params if "running" in n}
    state = State("r", 0, params, round=1, extras={name_of(Rung(0.5)): own})
    whole, half = orders(setup, state, decided(setup, 0, 1))
    for order, value in ((whole, 0), (half, 7)):
        payload = order.payloads[0]
        context = Context(setup.model, order.selection, 1, 0, 1)
        sent = coding("raw").decode(payload.frame, context)
        assert (sent["1.running_mean"] == value).all()
        assert np.array_equal(sent["0.weight"], params["0.weight"][: len(sent["0.weight"])])
    moving = replace(setup, recipe=structs.replace(setup.recipe, rule=structs.replace(setup.recipe.rule, redraw=True)))
    _, drawn = orders(moving, state, decided(setup, 0, 1))
    assert drawn.payloads[0].frame != half.payloads[0].frame  # of channels drawn before, nothing is known
