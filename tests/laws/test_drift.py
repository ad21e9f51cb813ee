"""FedDyn and FedProx: one step by hand, a run against the method as its paper writes it, and what a device keeps."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from torch import nn

from pleat.elastic.fold import Fold
from pleat.elastic.selection import make
from pleat.exchange.order import Kind, NetSpec, Order, OrderId, Work
from pleat.modelmap import Group
from pleat.nets.build import build, initial, spec
from pleat.nets.shrink import load
from pleat.params import Params
from pleat_client.flat import Pull
from pleat_client.payloads import give_back
from pleat_client.personal import DRIFT, drift, keep_drift
from pleat_client.state import DeviceState, from_bytes, recall, to_bytes
from pleat_client.store import Past
from pleat_client.trainer import batches
from pleat_server.drift import drifted, holders_of
from pleat_server.round import seed_of
from support.digits import digit_shards
from support.methods import away, simulate
from support.models import channels, model_map

torch.set_num_threads(1)

MODEL = model_map([Group("g", 4)], [("w", (channels("g"),))])


def test_a_pull_adds_the_gradient_of_its_term() -> None:
    """alpha (w - anchor) - drift, at alpha = .1: .1 x 1 - .5 and .1 x 3 + 1."""
    gradient = torch.tensor([1.0, 1.0])
    Pull(0.1, torch.tensor([0.0, -1.0]), torch.tensor([0.5, -1.0])).add_to(gradient, torch.tensor([1.0, 2.0]))
    torch.testing.assert_close(gradient, torch.tensor([0.6, 2.3]))
    Pull(0.1, torch.tensor([0.0, -1.0])).add_to(gradient, torch.tensor([1.0, 2.0]))
    torch.testing.assert_close(gradient, torch.tensor([0.7, 2.6]))


def order(alpha: float = 0.1, **more: object) -> Order:
    net = NetSpec("module:none", {}, b"")
    return Order(OrderId("run", 3, 0), "d", Kind.TRAIN, net, work=Work(settings={"dynamic": alpha}), **more)  # type: ignore[arg-type]


def test_a_device_keeps_its_drift_where_it_trained() -> None:
    """v -= .1 (trained - received): from 0 in the two channels held, then further in the one held next."""
    half, one = make(MODEL, {"g": [0, 1]}), make(MODEL, {"g": [1]})
    state = keep_drift(order(selection=half), MODEL, DeviceState(), array(1, 1), array(2, 3))
    np.testing.assert_allclose(state.sets[DRIFT]["w"], [-0.1, -0.2, 0, 0], atol=1e-7)
    np.testing.assert_allclose(drift(order(selection=one), MODEL, state)["w"], [-0.2])
    state = keep_drift(order(selection=one), MODEL, state, array(3), array(1))
    np.testing.assert_allclose(state.sets[DRIFT]["w"], [-0.1, 0, 0, 0], atol=1e-7)
    assert keep_drift(order(0.0), MODEL, state, array(0, 0, 0, 0), array(1, 1, 1, 1)) is state
    assert drift(order(0.0), MODEL, state) == {}


def array(*values: float) -> Params:
    return {"w": np.array(values, np.float32)}


def test_the_server_takes_back_what_the_devices_drifted_where_any_of_them_held_it() -> None:
    """K = 4 devices are known, two report: channel 0 is held by both, 1 and 2 by one, 3 by none. The steps of 1, 2, 3
    give h = -2/4, -1/4 x 2, -1/4 x 3 (0 so far), and the model is mean - h there."""
    fold = Fold(MODEL)
    fold.add(array(1, 2), make(MODEL, {"g": [0, 1]}), 2.0)
    fold.add(array(1, 3), make(MODEL, {"g": [0, 2]}), 2.0)
    step, holders = fold.finish(1.0), holders_of(fold, 2)
    np.testing.assert_allclose(holders["w"], [2, 1, 1, 0])
    out, h = drifted(array(10, 10, 10, 10), step, holders, {}, 4)
    np.testing.assert_allclose(h["w"], [-0.5, -0.5, -0.75, 0])
    np.testing.assert_allclose(out["w"], [10.5, 10.5, 10.75, 10])
    out, h = drifted(out, step, holders, {"w": np.array([0, 0, 0, 7], np.float32)}, 4)
    np.testing.assert_allclose(h["w"], [-0.5, -0.5, -0.75, 7])
    assert out["w"][3] == 10  # what nobody holds stays, whatever drifted there before


def textbook(alpha: float, mu: float, rounds: int) -> Params:
    """FedDyn as its paper writes it, on the same batches: penalised losses by autograd, h with its alpha in it."""
    net, (parts, _) = spec("mlp", (1, 8, 8), 10), digit_shards(3)
    theta = {n: torch.from_numpy(a) for n, a in initial(net, 0).items()}
    v = [{n: torch.zeros_like(a) for n, a in theta.items()} for _ in parts]
    h = {n: torch.zeros_like(a) for n, a in theta.items()}
    for number in range(1, rounds + 1):
        trained = []
        for k, part in enumerate(parts):
            module = build(net.factory, net.arguments)
            load(module, {n: a.numpy() for n, a in theta.items()})
            seed = seed_of(0, "train", number, f"device-{k:03d}")
            for index in batches(len(part), 32, 1, seed):
                x, y = torch.from_numpy(part.x[index]), torch.from_numpy(part.y[index])
                loss = nn.functional.cross_entropy(module(x), y)
                for n, w in module.named_parameters():
                    loss = loss - (w * v[k][n]).sum() + (alpha + mu) / 2 * (w - theta[n]).square().sum()
                module.zero_grad()
                loss.backward()
                with torch.no_grad():
                    for w in module.parameters():
                        w -= 0.05 * w.grad
            trained.append({n: w.detach().clone() for n, w in module.named_parameters()})
            v[k] = {n: v[k][n] - alpha * (w - theta[n]) for n, w in trained[k].items()}
        mean = {n: torch.stack([w[n] for w in trained]).mean(0) for n in theta}
        h = {n: h[n] - alpha * (mean[n] - theta[n]) for n in theta}  # all of the devices took part
        theta = {n: mean[n] - h[n] / alpha if alpha else mean[n] for n in theta}
    return {n: a.numpy() for n, a in theta.items()}


@pytest.mark.parametrize(("alpha", "mu"), [(0.1, 0.0), (0.0, 1.0), (0.05, 0.5)])
def test_a_run_is_feddyn_or_fedprox_as_written(alpha: float, mu: float, tmp_path: Path) -> None:
    objective, equal = {"dynamic": alpha, "proximal": mu}, {"weights": "equal"}
    plain = simulate(tmp_path / "plain", "fedavg", 3, fold=equal)
    ran = simulate(tmp_path / "run", "fedavg", 3, objective=objective, fold=equal)
    assert away(ran.params, textbook(alpha, mu, 3)) < 2e-5
    assert away(ran.params, plain.params) > 1e-3
    assert all((DRIFT in d.state.sets) == (alpha > 0) for d in ran.devices)


def test_a_state_with_sets_comes_back_from_its_bytes_and_one_from_before_there_were_any_still_does() -> None:
    state = DeviceState(version=3, own=array(1, 2), sets={DRIFT: array(0.1, 0, 0, 0)})
    again = from_bytes(to_bytes(state))
    np.testing.assert_array_equal(again.sets[DRIFT]["w"], state.sets[DRIFT]["w"])
    older = msgspec.msgpack.encode(msgspec.msgpack.decode(to_bytes(state))[:-1])
    assert from_bytes(older).sets == {}
    np.testing.assert_array_equal(from_bytes(older).own["w"], [1, 2])


def test_a_returned_report_gives_back_its_update_and_not_what_drifted() -> None:
    before, after = DeviceState(), DeviceState(sets={DRIFT: array(1, 1, 1, 1)}, sent=array(2, 0, 0, 0))
    back = give_back(order(), before, after)
    np.testing.assert_array_equal(back.sets[DRIFT]["w"], 1)
    np.testing.assert_array_equal(back.residual["w"], [2, 0, 0, 0])
    past = [
        Past(OrderId("run", n, 0), fate, to_bytes(s)) for n, fate, s in ((1, "acked", before), (2, "returned", after))
    ]
    np.testing.assert_array_equal(recall(past)[0].sets[DRIFT]["w"], 1)
