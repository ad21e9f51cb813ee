"""Laws of the device's task: what an order and a state lead to, on real training, without sockets or disk."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch

from pleat.codec.coding import build as coding
from pleat.codec.transform import Context
from pleat.elastic.choosers import Draw, choose
from pleat.elastic.selection import WHOLE, Selection, embed, extract
from pleat.exchange.order import Kind, Order, OrderId, Payload, Return, Work
from pleat.exchange.report import Budgets, Outcome, Report, Seconds
from pleat.nets.build import initial, spec
from pleat.nets.trace import model_map
from pleat.params import Params, dense, digest, subtract
from pleat.shard import Shard
from pleat_client.task import Cancelled, DeviceState, Sensors, estimated_bytes, give_back, run
from pleat_client.trainer import train

torch.set_num_threads(1)

NET = spec("mlp", (1, 4, 4), 3, first=16, second=8)
MODEL = model_map(NET)
UP, DOWN = "topk:0.1/lloyd:4", "bf16-delta"
RNG = np.random.default_rng(0)
SHARD = Shard(RNG.normal(size=(40, 1, 4, 4)).astype(np.float32), RNG.integers(0, 3, 40))
HELD = Shard(SHARD.x[:8], SHARD.y[:8])


def cut(rate: float) -> Selection:
    return choose("prefix", MODEL, rate, Draw(0, 0, "d", None))


def model_payload(
    number: int, selection: Selection, params: Params, base: tuple[int, Params] | None = None, down: str = DOWN
) -> Payload:
    """The model as the server sends it: `params` in global shapes, coded against `base` (version, global params)."""
    held = None if base is None else extract(MODEL, selection, base[1])
    context = Context(MODEL, selection, number, 0, number - 1, held)
    transform = coding(down)
    frame, _ = transform.encode(extract(MODEL, selection, params), transform.init(context), context)
    return Payload("model", down, frame, version=number - 1, base=-1 if base is None else base[0])


def order(number: int = 1, selection: Selection = WHOLE, payload: Payload | None = None, **changes: object) -> Order:
    payload = payload or model_payload(number, selection, initial(NET, 0))
    plain = Order(
        OrderId("run", number, 0),
        "kitchen",
        Kind.TRAIN,
        NET,
        selection,
        work=Work(epochs=1),
        payloads=(payload,),
        returns=(Return("update", UP),),
        seed=number,
    )
    return replace(plain, **changes)  # type: ignore[arg-type]


def update_of(asked: Order, report: Report, place: int = 0) -> Params:
    """A payload of the report, as the server decodes it."""
    context = Context(MODEL, asked.selection, asked.id.round, asked.seed, asked.payloads[0].version)
    payload = report.payloads[place]
    return dense(coding(payload.coding).decode(payload.frame, context))


def received(asked: Order) -> Params:
    context = Context(MODEL, asked.selection, asked.id.round, 0, asked.payloads[0].version)
    return dense(coding(asked.payloads[0].coding).decode(asked.payloads[0].frame, context))


def test_a_raw_update_is_what_training_changed() -> None:
    asked = order(selection=cut(0.5), returns=(Return("update", "raw"), Return("arrays", "raw")))
    report, state = run(asked, DeviceState(), SHARD)
    start = received(asked)
    trained, metrics = train(NET, MODEL, asked.selection, start, (), asked.work, SHARD, asked.seed)
    assert report.outcome is Outcome.DONE
    assert digest(update_of(asked, report, 0)) == digest(subtract(trained, start))
    assert digest(update_of(asked, report, 1)) == digest(trained)
    assert (report.samples, report.labels, report.metrics["loss"]) == (40, (0, 1, 2), metrics["loss"])
    assert report.payloads[0].version == 0
    assert not state.residual
    assert not state.sent


def test_what_is_sent_and_what_stays_is_what_was_trained_whatever_the_selections() -> None:
    state, sent, made = DeviceState(), [], []
    for number, rate in enumerate((0.5, 1.0, 0.25, 0.5), start=1):
        exact = order(number, cut(rate), returns=(Return("update", "raw"),))
        made.append(dense(embed(MODEL, exact.selection, update_of(exact, run(exact, DeviceState(), SHARD)[0]))))
        asked = replace(exact, returns=(Return("update", UP),))
        report, state = run(asked, state, SHARD)
        sent.append(dense(embed(MODEL, asked.selection, update_of(asked, report))))
    for name, spec_ in MODEL.tensor.items():
        residual = state.residual.get(name, np.zeros(spec_.shape, np.float32))
        np.testing.assert_allclose(
            sum(s[name] for s in sent) + residual, sum(m[name] for m in made), atol=1e-5, err_msg=name
        )


def test_a_report_that_comes_back_leaves_the_residual_as_if_nothing_had_been_sent() -> None:
    _, before = run(order(1), DeviceState(), SHARD)
    asked = order(2, cut(0.5), model_payload(2, cut(0.5), initial(NET, 0), (0, _bf16(initial(NET, 0)))))
    report, after = run(asked, before, SHARD)
    back = give_back(asked, before, after)
    assert report.outcome is Outcome.DONE
    assert (after.version, back.version, back.selection) == (1, 0, WHOLE)
    update = dense(embed(MODEL, asked.selection, _exact_update(asked)))
    for name in update:
        whole = before.residual.get(name, np.zeros_like(update[name])) + update[name]
        np.testing.assert_allclose(back.residual.get(name, np.zeros_like(whole)), whole, atol=1e-6)


def _exact_update(asked: Order) -> Params:
    base = {"payloads": (model_payload(asked.id.round, asked.selection, initial(NET, 0)),)}
    exact = replace(asked, returns=(Return("update", "raw"),), **base)  # type: ignore[arg-type]
    return update_of(exact, run(exact, DeviceState(), SHARD)[0])


def _bf16(params: Params) -> Params:
    context = Context(MODEL, WHOLE)
    transform = coding("bf16")
    frame, _ = transform.encode(params, transform.init(context), context)
    return dense(transform.decode(frame, context))


def test_a_difference_builds_on_the_version_held_under_another_selection() -> None:
    first, second = _bf16(initial(NET, 0)), _bf16(initial(NET, 1))
    _, state = run(order(1, cut(0.5), model_payload(1, cut(0.5), first)), DeviceState(), SHARD)
    assert (state.version, state.selection) == (0, cut(0.5))
    known = dense(embed(MODEL, cut(0.5), extract(MODEL, cut(0.5), first)))  # 0 where the device held nothing
    for rate in (0.25, 0.5, 1.0):
        payload = model_payload(2, cut(rate), second, (0, known))
        report, after = run(order(2, cut(rate), payload), state, SHARD)
        assert report.outcome is Outcome.DONE, report.reason
        assert digest(after.held) == digest(extract(MODEL, cut(rate), second))
        assert after.version == 1


@pytest.mark.parametrize("state", [DeviceState(), DeviceState(version=3)])
def test_a_difference_to_a_version_not_held_needs_the_full_model(state: DeviceState) -> None:
    asked = order(5, payload=model_payload(5, WHOLE, initial(NET, 0), (2, initial(NET, 1))))
    report, after = run(asked, state, SHARD)
    assert report.outcome is Outcome.REFUSED
    assert report.reason.startswith("needs full: the model is coded against version 2, this device holds ")
    assert after is state


def test_models_sent_whole_are_not_kept() -> None:
    _, state = run(order(payload=model_payload(1, WHOLE, initial(NET, 0), down="raw")), DeviceState(), SHARD)
    assert (state.version, state.held) == (-1, {})


def test_the_hold_out_is_scored_before_training() -> None:
    from pleat_client.trainer import score

    asked = order(selection=cut(0.5))
    report, _ = run(asked, DeviceState(), SHARD, HELD)
    right, samples, loss = score(NET, MODEL, asked.selection, received(asked), HELD)
    assert (report.metrics["correct"], report.metrics["scored"]) == (right, samples)
    assert report.metrics["scored_loss"] == pytest.approx(loss / samples)
    assert "scored" not in run(asked, DeviceState(), SHARD)[0].metrics


def test_an_evaluation_scores_and_trains_nothing() -> None:
    report, state = run(order(kind=Kind.EVALUATE, returns=()), DeviceState(), SHARD, HELD)
    assert (report.outcome, report.payloads, report.metrics["scored"]) == (Outcome.DONE, (), 8)
    assert state.version == 0


def test_a_measurement_times_every_size_it_is_asked_for() -> None:
    asked = order(kind=Kind.MEASURE, nested=(cut(0.25), cut(1.0)), work=Work(steps=2), payloads=())
    report, state = run(asked, DeviceState(), SHARD, sensors=Sensors(watch_peak=lambda: lambda: 5))
    assert report.outcome is Outcome.DONE
    assert [m.peak_bytes for m in report.measured] == [5, 5]
    assert all(m.step_s > 0 for m in report.measured)
    assert state == state


def test_seconds_add_up_to_the_time_the_clock_showed() -> None:
    ticks = iter(range(1000))
    sensors = Sensors(clock=lambda: float(next(ticks)))
    report, _ = run(order(), DeviceState(), SHARD, sensors=sensors, before=Seconds(wait=7, down=9))
    s = report.seconds
    assert (s.wait, s.down, s.up) == (7, 9, 0)
    assert (s.build, s.train, s.encode) == (1, 1, 1)


@pytest.mark.parametrize("kind", [Kind.TRAIN, Kind.MEASURE])
def test_optimiser_steps_keep_their_buffers(kind: Kind) -> None:
    inside, seen = [False], list[bool]()

    @contextmanager
    def stepping() -> Iterator[None]:
        inside[0] = True
        seen.append(True)
        yield
        inside[0] = False

    def tick(done: float, loss: float | None) -> None:
        assert inside[0]

    nested = (cut(0.25), cut(1.0)) if kind is Kind.MEASURE else ()
    report, _ = run(order(kind=kind, nested=nested), DeviceState(), SHARD, HELD, Sensors(stepping=stepping), tick=tick)
    assert report.outcome is Outcome.DONE
    assert len(seen) == {Kind.TRAIN: 1, Kind.MEASURE: 2}[kind]


def refusal(asked: Order, shard: Shard = SHARD, **changes: object) -> str:
    before = DeviceState()
    report, after = run(asked, before, shard, **changes)  # type: ignore[arg-type]
    assert report.outcome is not Outcome.DONE
    assert after is before
    assert report.payloads == ()
    return f"{report.outcome.value}: {report.reason}"


def test_a_net_that_is_another_one_here_is_refused_by_digest() -> None:
    told = refusal(order(net=replace(NET, digest=b"\x01" * 32)))
    assert told.startswith("refused: net pleat.nets.zoo:mlp")
    assert "0101010101010101" in told


def test_a_net_that_is_not_on_the_device_is_told_with_what_to_do() -> None:
    said = refusal(order(net=replace(NET, factory="not.here:build")))
    assert said == (
        "failed: net not.here:build: cannot be imported here: ModuleNotFoundError: No module named 'not'; "
        "install it, or put the folder it is in into PYTHONPATH"
    )


def test_a_shard_unlike_the_model_is_told() -> None:
    assert "samples have shape (2, 2)" in refusal(order(), Shard(np.zeros((4, 2, 2), np.float32), SHARD.y[:4]))
    assert "labels go up to 9" in refusal(order(), Shard(SHARD.x, SHARD.y + 9 - SHARD.y.max()))


def test_a_frame_for_another_order_is_refused() -> None:
    assert refusal(order(2, payload=model_payload(1, WHOLE, initial(NET, 0)))).startswith("refused: ")


def test_an_order_for_something_unknown_is_refused() -> None:
    assert "asks for 'gradients'" in refusal(order(returns=(Return("gradients", "raw"),)))
    assert "carries no model" in refusal(order(payloads=()))
    assert "unknown objective" in refusal(order(work=Work(objective="mystery")))


def test_a_cancelled_order_is_aborted_and_changes_nothing() -> None:
    def tick(done: float, loss: float | None) -> None:
        raise Cancelled("cancelled")

    assert refusal(order(), tick=tick) == "aborted: cancelled"


def test_a_training_that_would_not_fit_is_refused_before_it_starts_with_the_numbers() -> None:
    mib = 2**20
    sensors = Sensors(resident=lambda: 200 * mib, free=lambda: 500 * mib)
    asked = order(memory_bytes=150 * mib)
    budget = Budgets(memory_bytes=300 * mib)
    told = refusal(asked, sensors=sensors, budgets=budget)
    assert told == (
        "refused: does not fit: training needs 150 MiB over the 200 MiB in use, the memory budget is 300 MiB"
    )
    told = refusal(order(memory_bytes=600 * mib), sensors=sensors)
    assert told == "refused: does not fit: training needs 600 MiB more, 500 MiB are free"
    assert run(order(memory_bytes=90 * mib), DeviceState(), SHARD, None, sensors, budget)[0].outcome is Outcome.DONE


def test_the_devices_own_estimate_counts_where_the_server_names_none() -> None:
    need = estimated_bytes(order(), MODEL, WHOLE)
    assert need > 4 * 5 * sum(int(np.prod(t.shape)) for t in MODEL.tensors)
    assert estimated_bytes(order(), MODEL, cut(0.25)) < need
    assert "does not fit" in refusal(order(), sensors=Sensors(free=lambda: need - 1))
    assert run(order(), DeviceState(), SHARD, None, Sensors(free=lambda: need))[0].outcome is Outcome.DONE


def test_the_estimate_counts_what_was_received_and_the_drift_where_the_loss_pulls_to_them() -> None:
    entries = 4 * sum(int(np.prod(t.shape)) for t in MODEL.tensors)

    def need(**settings: float) -> int:
        return estimated_bytes(order(work=Work(settings=settings)), MODEL, WHOLE)

    assert need(proximal=0.1) - need() == entries
    assert need(dynamic=0.1) - need() == 3 * entries


def test_a_training_that_diverges_is_a_failure_in_words() -> None:
    assert refusal(order(work=Work(rate=1e30, epochs=4))).startswith("failed: loss became")
