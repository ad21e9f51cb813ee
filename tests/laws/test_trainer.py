"""Laws of local training: the hand-written SGD is textbook SGD, and nested sizes are exact slices of one gradient."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from pleat.elastic.choosers import Draw, choose
from pleat.elastic.selection import WHOLE, Selection, embed, extract, make
from pleat.errors import UseError
from pleat.exchange.order import NetSpec, Work
from pleat.nets.build import build, initial, spec
from pleat.nets.shrink import load, read, shrink
from pleat.nets.trace import model_map
from pleat.params import Params, dense, digest
from pleat.shard import Shard
from pleat_client import trainer
from pleat_client.objectives import objective
from pleat_client.trainer import Diverged, Trainer, batches, gradient, score, time_steps, train

torch.set_num_threads(1)

MLP = spec("mlp", (1, 4, 4), 3, first=16, second=8)
CNN = spec("cnn", (1, 8, 8), 3)
LETTERS = spec("support.strangers:OfDigits", (1, 4, 4), 3)
RESNET = spec("resnet6", (1, 16, 16), 3)


def shard(shape: tuple[int, ...], samples: int = 50, seed: int = 0) -> Shard:
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 3, samples)
    return Shard((rng.normal(size=(samples, *shape)) + y.reshape(-1, *[1] * len(shape))).astype(np.float32), y)


DIGITS = shard((1, 4, 4))


def widths(net: NetSpec, *rates: float, chooser: str = "prefix") -> list[Selection]:
    return [choose(chooser, model_map(net), rate, Draw(0, 0, "d", None)) for rate in rates]


@pytest.mark.parametrize("net", [MLP, LETTERS], ids=["mlp", "a recurrent net with a tied weight"])
@pytest.mark.parametrize("work", [Work(), Work(momentum=0, decay=0.01), Work(clip=0.5, decay=0.01, epochs=3, batch=7)])
def test_training_is_textbook_sgd(work: Work, net: NetSpec) -> None:
    model, start = model_map(net), initial(net, 1)
    trained, metrics = train(net, model, WHOLE, start, (), work, DIGITS, seed=5)

    module = build(net.factory, net.arguments)
    load(module, start)
    textbook = torch.optim.SGD(module.parameters(), work.rate, work.momentum, weight_decay=work.decay)
    x, y = torch.from_numpy(DIGITS.x), torch.from_numpy(DIGITS.y)
    losses = []
    for index in batches(len(DIGITS), work.batch, work.epochs, 5):
        textbook.zero_grad()
        loss = nn.functional.cross_entropy(module(x[index]), y[index])
        loss.backward()
        if work.clip:
            nn.utils.clip_grad_norm_(module.parameters(), work.clip)
        textbook.step()
        losses.append(float(loss.detach()) * len(index))
    for name, array in read(module).items():
        np.testing.assert_allclose(trained[name], array, atol=1e-6)
    last_epoch = losses[-len(losses) // work.epochs :]
    assert metrics["loss"] == pytest.approx(sum(last_epoch) / len(DIGITS))


def by_hand(net: NetSpec, outer: Selection, inner: Selection, params: Params, x, y) -> Params:
    """The gradient of the inner submodel at its places among the outer's: shrink, differentiate, embed, extract."""
    model = model_map(net)
    whole = dense(embed(model, outer, params))
    small = shrink(build(net.factory, net.arguments), model, inner)
    load(small, extract(model, inner, whole))
    nn.functional.cross_entropy(small(x), y).backward()
    gradients = {n: p.grad.numpy() for n, p in small.named_parameters()}
    return extract(model, outer, dense(embed(model, inner, gradients)))


def joint_gradient(net: NetSpec, outer: Selection, nested: list[Selection], params: Params, x, y) -> Params:
    """What one joint step did to the weights, divided by the rate."""
    work = Work(objective="joint", momentum=0, rate=1.0)
    trainer = Trainer(net, model_map(net), outer, params, nested, work)
    trainer.step(x, y, np.random.default_rng(0))
    return {n: params[n] - a for n, a in trainer.result().items()}


@pytest.mark.parametrize("net", [MLP, CNN, RESNET], ids=["mlp", "cnn", "resnet6"])
@pytest.mark.parametrize("chooser", ["prefix", "inner", "random"])
def test_nested_sizes_add_exact_slices_to_one_gradient(net: NetSpec, chooser: str) -> None:
    model, x = model_map(net), torch.from_numpy(shard((1, 16, 16) if net is RESNET else (1, 8, 8), 6).x)
    x = x[:, :, :4, :4].contiguous() if net is MLP else x
    y = torch.tensor([0, 1, 2, 0, 1, 2])
    (outer,) = widths(net, 0.75 if chooser != "random" else 1.0, chooser="prefix" if chooser == "random" else chooser)
    nested = widths(net, 0.5, 0.25, chooser=chooser)
    params = extract(model, outer, initial(net, 3))
    expected = by_hand(net, outer, outer, params, x, y)
    for inner in nested:
        part = by_hand(net, outer, inner, params, x, y)
        expected = {n: a + part[n] for n, a in expected.items()}
    for name, array in joint_gradient(net, outer, nested, params, x, y).items():
        np.testing.assert_allclose(array, expected[name], atol=2e-5)


def test_prefix_sizes_share_the_weights_without_a_copy() -> None:
    outer, *nested = widths(MLP, 1.0, 0.5, 0.25)
    trainer = Trainer(MLP, model_map(MLP), outer, initial(MLP, 0), nested, Work(objective="joint"))
    storage = trainer._flat.weights.untyped_storage().data_ptr()
    for smaller in trainer._nested:
        assert all(p.untyped_storage().data_ptr() == storage for p in smaller._module.parameters())


def test_masked_weights_stay_zero_in_the_own_size_and_hold_in_smaller_ones() -> None:
    model, start = model_map(MLP), initial(MLP, 0)
    outer, inner = (choose("magnitude", model, rate, Draw(0, 0, "d", start)) for rate in (0.6, 0.2))
    params = extract(model, outer, start)
    work = Work(objective="joint", decay=0.1, clip=1.0, epochs=2)
    trained, _ = train(MLP, model, outer, params, (inner,), work, DIGITS, seed=1)
    for name, mask in outer.masks.items():
        assert not trained[name][~mask].any()
        assert (trained[name][mask] != params[name][mask]).any()
    x, y = torch.from_numpy(DIGITS.x), torch.from_numpy(DIGITS.y)
    parts = [by_hand(MLP, outer, s, params, x, y) for s in (outer, inner)]
    found = joint_gradient(MLP, outer, [inner], params, x, y)
    for name in found:
        own = parts[0][name] + parts[1][name] * inner.masks.get(name, 1)
        own = own * outer.masks[name] if name in outer.masks else own
        np.testing.assert_allclose(found[name], own, atol=1e-5)


def test_the_seed_alone_decides_and_the_global_generator_is_left_alone() -> None:
    model, start = model_map(MLP), initial(MLP, 0)
    work = Work(objective="nested_draw")
    nested = widths(MLP, 0.5, 0.25)
    torch.manual_seed(7)
    before = torch.get_rng_state()
    runs = [train(MLP, model, WHOLE, start, nested, work, DIGITS, seed=s)[0] for s in (1, 1, 2)]
    assert torch.equal(torch.get_rng_state(), before)
    assert digest(runs[0]) == digest(runs[1])
    assert digest(runs[0]) != digest(runs[2])


def test_training_changes_neither_its_parameters_nor_its_shard() -> None:
    start = initial(MLP, 0)
    before = digest(start), DIGITS.x.tobytes()
    train(MLP, model_map(MLP), WHOLE, start, (), Work(), DIGITS)
    assert (digest(start), DIGITS.x.tobytes()) == before


def test_every_epoch_sees_every_sample_once() -> None:
    seen = list(batches(10, 4, 3, seed=1))
    assert [len(b) for b in seen] == [4, 4, 2] * 3
    for epoch in range(3):
        assert sorted(np.concatenate(seen[3 * epoch : 3 * epoch + 3])) == list(range(10))


@pytest.mark.parametrize(
    ("samples", "batch", "sizes"),
    [(9, 4, [4, 5]), (5, 4, [5]), (4, 4, [4]), (1, 4, [1]), (3, 1, [1, 1, 1]), (3, 2, [3]), (8, 4, [4, 4])],
)
def test_no_sample_is_left_to_a_batch_of_its_own(samples: int, batch: int, sizes: list[int]) -> None:
    seen = list(batches(samples, batch, 1, seed=1))
    assert [len(b) for b in seen] == sizes
    assert sorted(np.concatenate(seen)) == list(range(samples))


def test_batch_norm_trains_on_a_shard_that_leaves_one_sample_over() -> None:
    net = spec("resnet8", (1, 4, 4), 3, norm="batch")
    _, metrics = train(net, model_map(net), WHOLE, initial(net, 1), (), Work(epochs=1, batch=4), shard((1, 4, 4), 9))
    assert np.isfinite(metrics["loss"])


def test_a_tick_sees_the_progress_and_can_stop_the_training() -> None:
    seen: list[float] = []

    def tick(done: float, loss: float | None) -> None:
        seen.append(done)
        if done >= 0.5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(MLP, model_map(MLP), WHOLE, initial(MLP, 0), (), Work(epochs=2), DIGITS, tick=tick)
    assert seen == [0.25, 0.5]


def test_a_loss_that_is_no_number_ends_the_training() -> None:
    with pytest.raises(Diverged, match=r"loss became .* at step"):
        train(MLP, model_map(MLP), WHOLE, initial(MLP, 0), (), Work(rate=1e30, epochs=4), DIGITS)


def test_a_score_is_what_counting_by_hand_gives() -> None:
    model, params = model_map(MLP), initial(MLP, 0)
    (half,) = widths(MLP, 0.5)
    module = shrink(build(MLP.factory, MLP.arguments), model, half)
    load(module, extract(model, half, params))
    data = shard((1, 4, 4), samples=150)
    with torch.no_grad():
        logits = module(torch.from_numpy(data.x))
        loss = nn.functional.cross_entropy(logits, torch.from_numpy(data.y), reduction="sum")
    right, samples, total = score(MLP, model, half, extract(model, half, params), data)
    assert (right, samples) == (int((logits.argmax(1).numpy() == data.y).sum()), 150)
    assert total == pytest.approx(float(loss), rel=1e-5)


def test_steps_are_timed_by_the_clock_that_is_given() -> None:
    now = iter(range(100))
    assert time_steps(MLP, model_map(MLP), WHOLE, Work(), DIGITS, 3, clock=lambda: float(next(now))) == 1.0


def test_an_unknown_objective_is_refused_before_anything_is_built() -> None:
    with pytest.raises(UseError, match="unknown objective"):
        train(MLP, model_map(MLP), WHOLE, initial(MLP, 0), (), Work(objective="mystery"), DIGITS)


def test_a_selection_of_the_whole_net_trains_like_no_selection() -> None:
    model, start = model_map(MLP), initial(MLP, 0)
    named = make(model, {g.name: range(g.size) for g in model.groups if g.role != "frozen"})
    one, _ = train(MLP, model, WHOLE, start, (), Work(), DIGITS, seed=3)
    two, _ = train(MLP, model, named, start, (), Work(), DIGITS, seed=3)
    assert digest(one) == digest(two)


def test_the_trainer_loads_neither_optimisers_nor_compilers() -> None:
    text = (
        "import sys; sys.path[:0] = ['common', 'client']; import pleat_client.worker\n"
        "bad = [m for m in ('torch._dynamo', 'scipy', 'grpc', 'pleat_server') "
        "if m in sys.modules]\nassert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", text], check=True)


def test_the_scaler_divides_what_a_cut_layer_puts_out_by_the_share_it_holds() -> None:
    """Half the channels of both hidden layers: their outputs count twice in training, those of the head once."""
    model, start = model_map(MLP), initial(MLP, 0)
    (half,) = widths(MLP, 0.5)
    params = extract(model, half, start)
    trainer = Trainer(MLP, model, half, params, (), Work(scaler=True))
    x = torch.from_numpy(DIGITS.x[:5])
    flat = x.reshape(5, -1)
    w = {n: torch.from_numpy(a) for n, a in params.items()}
    first = torch.relu(2 * (flat @ w["first.weight"].T + w["first.bias"]))
    second = torch.relu(2 * (first @ w["second.weight"].T + w["second.bias"]))
    by_hand = second @ w["head.weight"].T + w["head.bias"]
    with torch.no_grad():
        torch.testing.assert_close(trainer._module(x), by_hand)
    plain = train(MLP, model, WHOLE, start, (), Work(epochs=1), DIGITS)[0]
    assert digest(plain) == digest(train(MLP, model, WHOLE, start, (), Work(epochs=1, scaler=True), DIGITS)[0])
    unscaled = train(MLP, model, half, params, (), Work(epochs=1), DIGITS)[0]
    assert digest(unscaled) != digest(train(MLP, model, half, params, (), Work(epochs=1, scaler=True), DIGITS)[0])


def test_a_gradient_is_of_every_entry_whatever_the_masks_and_changes_nothing() -> None:
    model, start = model_map(MLP), initial(MLP, 0)
    masks = choose("magnitude", model, 0.2, Draw(params=start))
    params = extract(model, masks, start)
    work = Work(batch=50, gate="threshold")
    found = gradient(MLP, model, masks, params, work, DIGITS, 3)
    module = build(MLP.factory, MLP.arguments)
    load(module, params)
    nn.functional.cross_entropy(module(torch.from_numpy(DIGITS.x)), torch.from_numpy(DIGITS.y)).backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None
        np.testing.assert_allclose(found[name], parameter.grad.numpy(), atol=1e-6)
    assert found["first.weight"][~masks.masks["first.weight"]].any()


def test_the_end_of_each_epoch_is_told_with_the_parameters_of_then() -> None:
    model, start, seen = model_map(MLP), initial(MLP, 0), dict[int, Params]()

    def note(epoch: int, params) -> None:
        seen[epoch] = {n: a.copy() for n, a in params().items()}

    trained, _ = train(MLP, model, WHOLE, start, (), Work(epochs=2), DIGITS, epoch_ended=note)
    once, _ = train(MLP, model, WHOLE, start, (), Work(epochs=1), DIGITS)
    assert sorted(seen) == [1, 2]
    assert digest(seen[1]) == digest(once)
    assert digest(seen[2]) == digest(trained)


def test_all_exits_are_trained_by_one_pass_whose_gradient_is_the_sum_of_theirs() -> None:
    net = spec("resnet6", (1, 8, 8), 3, exits=3, width=8)
    model, params, data = model_map(net), initial(net, 2), shard((1, 8, 8), 6)
    x, y = torch.from_numpy(data.x), torch.from_numpy(data.y)
    for rate, passes in ((1.0, 3), (0.5, 2)):
        selection = choose("depth-prefix", model, rate, Draw())
        held = extract(model, selection, params)
        small = shrink(build(net.factory, net.arguments), model, selection)
        load(small, held)
        logits = small(x)
        assert len(logits) == passes
        sum(nn.functional.cross_entropy(one, y) for one in logits).backward()
        trainer, calls = Trainer(net, model, selection, held, (), Work("exits", momentum=0, rate=1.0)), []
        trainer._module.stem.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        trainer.step(x, y, np.random.default_rng(0))
        assert calls == [1]
        moved = trainer.result()
        for name, parameter in small.named_parameters():
            np.testing.assert_allclose(held[name] - moved[name], parameter.grad.numpy(), atol=2e-6)


def test_a_step_is_timed_with_all_exits_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = list[str]()
    monkeypatch.setattr(trainer, "objective", lambda name: asked.append(name) or objective(name))
    for net in (MLP, spec("mlp", (1, 4, 4), 3, exits=2)):
        assert time_steps(net, model_map(net), WHOLE, Work(), DIGITS, 1) > 0
    assert asked == ["cross_entropy", "exits"]


def test_an_ordinary_objective_trains_the_deepest_exit_alone() -> None:
    net = spec("mlp", (1, 4, 4), 3, exits=2)
    model, params = model_map(net), initial(net, 0)
    trained, _ = train(net, model, WHOLE, params, (), Work(momentum=0, epochs=1), DIGITS)
    assert np.array_equal(trained["heads.0.weight"], params["heads.0.weight"])
    assert not np.array_equal(trained["heads.1.weight"], params["heads.1.weight"])


MADE_ON: list[str] = []  # where each net of `noted` had its tensors when it was made


def noted(input_shape: str, classes: int) -> nn.Module:
    """A net that notes where it is made."""
    module = build("pleat.nets.zoo:mlp", {"input_shape": input_shape, "classes": classes})
    MADE_ON.append(next(module.parameters()).device.type)
    return module


def test_training_scoring_and_timing_a_submodel_take_no_memory_for_the_whole_net() -> None:
    net = spec(f"{__name__}:noted", (1, 4, 4), 3)
    model, (half,) = model_map(net), widths(net, 0.5)
    params = extract(model, half, initial(net, 0))
    MADE_ON.clear()
    trained, _ = train(net, model, half, params, widths(net, 0.25), Work(), DIGITS)
    score(net, model, half, trained, DIGITS)
    gradient(net, model, half, params, Work(), DIGITS, 0)
    time_steps(net, model, half, Work(), DIGITS, 1)
    assert MADE_ON == ["meta"] * 4
