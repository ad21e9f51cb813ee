"""Training on proxy data before a run: drawn in proportion, cached by all it depends on, and stopped at no cost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pleat import tensorfile
from pleat.elastic.choosers import Draw, choose
from pleat.elastic.choosers.magnitude import top
from pleat.elastic.pruning import Pruning
from pleat.elastic.selection import WHOLE, Selection, make
from pleat.errors import LocalError, UseError
from pleat.exchange.order import Work
from pleat.nets.build import build, initial, spec
from pleat.nets.shrink import load
from pleat.nets.trace import model_map
from pleat.params import Params, digest
from pleat.recipes.recipe import Proxy
from pleat.shard import Shard
from pleat_client.batches import batches
from pleat_server import app, proxy
from pleat_server.config import RunConfig
from pleat_server.exported import opened
from pleat_server.plan.catalogue import Worth
from pleat_server.round import seed_of
from pleat_server.simulate.proxy import Job, mean_squares, prune, scores_of, worths
from support.digits import digit_shards
from support.methods import simulate

torch.set_num_threads(1)
NET = spec("mlp", (1, 8, 8), 10, first=16, second=12)
MODEL = model_map(NET)
_, TEST = digit_shards(3)
SETTINGS = Proxy(cycles=4, epochs=2, steps=0, tune=1)
CLASSES = np.arange(10)


def job(**changes: Any) -> Job:
    samples, _ = proxy.drawn(TEST, 1437, 0.05, 0)
    plain: dict[str, Any] = {
        "net": NET, "model": MODEL, "proxy": samples, "settings": SETTINGS, "work": Work(momentum=0.0), "seed": 3,
    }  # fmt: skip
    return Job(**{**plain, **changes})


def bits(state: Pruning) -> tuple[bytes, ...]:
    places = {n: p.astype(np.float32) for n, p in state.places.items()}
    return digest(places), digest(dict(state.start)), digest(dict(state.last))


class Killed(BaseException):
    """What Ctrl-C does, at a chosen moment."""


def stopping(cycle: int, done: float) -> Any:
    """A watcher that ends everything once so much of pruning cycle number `cycle` is done."""

    def watch(event: dict[str, Any]) -> None:
        if event["event"] == "proxy" and event["number"] == cycle and event["done"] >= done:
            raise Killed

    return watch


@pytest.mark.parametrize(("cycle", "done", "kept"), [(1, 0.2, 0), (2, 0.5, 1), (2, 1.0, 2), (3, 0.9, 2), (4, 1.0, 4)])
@pytest.mark.parametrize("rewind", [0, 1, -1])
def test_pruning_that_was_stopped_goes_on_and_comes_to_the_same_bits(
    cycle: int, done: float, kept: int, rewind: int, tmp_path: Path
) -> None:
    one = job(settings=replace_proxy(rewind=rewind))
    undisturbed = prune(one, tmp_path / "whole")
    with pytest.raises(Killed):
        prune(one, tmp_path / "cut", stopping(cycle, done))
    told = list[dict[str, Any]]()
    assert bits(prune(one, tmp_path / "cut", told.append)) == bits(undisturbed)
    redone = {e["number"] for e in told if e["event"] == "proxy"}
    assert redone == set(range(kept + 1, 5))


def replace_proxy(**changes: Any) -> Proxy:
    return Proxy(**{**{n: getattr(SETTINGS, n) for n in SETTINGS.__struct_fields__}, **changes})


def test_a_second_run_takes_all_of_it_from_the_cache(tmp_path: Path) -> None:
    first, told = prune(job(), tmp_path), list[dict[str, Any]]()
    assert bits(prune(job(), tmp_path, told.append)) == bits(first)
    assert [e["event"] for e in told] == ["notice"]
    assert "4 of 4 cycles are there already" in told[0]["text"]


def test_a_damaged_cache_is_set_aside_and_made_anew(tmp_path: Path) -> None:
    first, told = prune(job(), tmp_path), list[dict[str, Any]]()
    (file,) = tmp_path.glob("*.imp")
    file.write_bytes(file.read_bytes()[:-9] + b"\0" * 9)
    assert bits(prune(job(), tmp_path, told.append)) == bits(first)
    assert "does not have the CRC-32" in told[0]["text"]
    assert [p.name for p in tmp_path.glob("*.damaged")] == [f"{file.name}.damaged"]


def altered(array: np.ndarray) -> np.ndarray:
    out = array.copy()
    out[(3, *([0] * (array.ndim - 1)))] += 1
    return out


OTHERS: dict[str, dict[str, Any]] = {
    "one changed sample": {"proxy": Shard(altered(job().proxy.x), job().proxy.y)},
    "one changed label": {"proxy": Shard(job().proxy.x, altered(job().proxy.y) % 10)},
    "another seed": {"seed": 4},
    "another net": {"net": (other := spec("mlp", (1, 8, 8), 10, first=16, second=13)), "model": model_map(other)},
    "another rate": {"work": Work(momentum=0.0, rate=0.01)},
    "another batch": {"work": Work(momentum=0.0, batch=16)},
    "more cycles": {"settings": replace_proxy(cycles=5)},
    "another share": {"settings": replace_proxy(prune=0.3)},
    "more epochs": {"settings": replace_proxy(epochs=3)},
    "more steps": {"settings": replace_proxy(steps=9)},
    "an early epoch": {"settings": replace_proxy(rewind=1)},
    "one pool": {"settings": replace_proxy(across="net")},
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_the_result_depends_on_changes_the_digest(name: str) -> None:
    assert job(**OTHERS[name]).digest != job().digest


def test_pruning_looks_at_no_sample_that_is_held_out_to_score_on(tmp_path: Path) -> None:
    """Another held-out sample: the same weights go. Another training sample: others do."""
    one, changed = job().proxy, dict[str, Shard]()
    parts = proxy.parted(one)
    for kind, some in (("held", parts.held), ("train", parts.train)):
        at = next(i for i in range(len(one)) if np.array_equal(one.x[i], some.x[0]))
        x = one.x.copy()
        x[at] = 1 - x[at]
        changed[kind] = Shard(x, one.y)
    first = bits(prune(job(), tmp_path))
    assert bits(prune(job(proxy=changed["held"]), tmp_path)) == first
    assert bits(prune(job(proxy=changed["train"]), tmp_path)) != first


def test_what_the_pruning_does_not_depend_on_leaves_the_digest_alone() -> None:
    assert job(work=Work(momentum=0.0, epochs=7), settings=replace_proxy(tune=9, share=0.5)).digest == job().digest


def test_survivors_go_back_to_the_first_weights_to_an_early_epoch_s_or_go_on(tmp_path: Path) -> None:
    first = initial(NET, 3)

    def start(rewind: int) -> Params:
        return dict(prune(job(settings=replace_proxy(rewind=rewind)), tmp_path).start)

    assert digest(start(0)) == digest(first)
    assert digest(start(1)) not in (digest(first), digest(start(2)))
    assert digest(start(-1)) == digest(first)  # nothing goes back
    states = [prune(job(settings=replace_proxy(rewind=r)), tmp_path) for r in (0, -1)]
    assert bits(states[0])[0] != bits(states[1])[0]


def test_the_scores_are_of_matrices_and_their_masks_are_of_the_density_asked_for(tmp_path: Path) -> None:
    state = prune(job(), tmp_path)
    assert state.density == pytest.approx(0.8**4, abs=0.01)
    found = scores_of(job(), state)
    assert sorted(found) == ["first.weight", "head.weight", "second.weight"]
    left = state.masks["first.weight"]
    masks = choose("magnitude", MODEL, left.mean(), Draw(params=found)).masks
    assert np.array_equal(masks["first.weight"], left)


ROWS = [("1", WHOLE), ("0.5", make(MODEL, {"first": range(8)})), ("again", WHOLE)]


def test_rows_are_scored_once_each_on_samples_that_nothing_was_trained_on(tmp_path: Path) -> None:
    state, told = prune(job(), tmp_path), list[dict[str, Any]]()
    with pytest.raises(Killed):
        worths(job(), state, ROWS, tmp_path, stopping(1, 1.0))
    found = worths(job(), state, ROWS, tmp_path, told.append)
    assert set(found) == {s for _, s in ROWS}
    assert told[0]["text"] == "1 of 2 sizes are scored already"
    assert {e["text"].partition(":")[0] for e in told[1:]} == {"size 0.5"}
    assert found == worths(job(), state, ROWS, tmp_path / "elsewhere")
    assert all(0 <= w.accuracy <= 1 and w.loss > 0 for w in found.values())
    parts = proxy.parted(job().proxy)
    held = {x.tobytes() for x in parts.held.x}
    assert not held & {x.tobytes() for x in parts.train.x}
    assert len(parts.held) + len(parts.train) == len(job().proxy)


def test_a_row_as_it_is_scores_as_the_evaluator_scores_the_first_weights(tmp_path: Path) -> None:
    from pleat_server.evaluate import Evaluator

    as_is = job(settings=replace_proxy(tune=0))
    state = prune(as_is, tmp_path)
    (worth,) = worths(as_is, state, [("1", Selection())], tmp_path).values()
    scored = Evaluator(NET, MODEL, proxy.parted(as_is.proxy).held).score(dict(state.start))
    assert worth == Worth(scored.accuracy, pytest.approx(scored.loss), scored.samples)


@pytest.mark.parametrize("seed", range(5))
def test_proxy_samples_are_drawn_in_proportion_and_the_rest_is_what_is_left(seed: int) -> None:
    samples, rest = proxy.drawn(TEST, 1437, 0.05, seed)
    assert len(samples) == 71
    assert len(samples) + len(rest) == len(TEST)
    both = sorted(x.tobytes() for x in (*samples.x, *rest.x))
    assert both == sorted(x.tobytes() for x in TEST.x)
    share = np.bincount(samples.y, minlength=10) - 71 * np.bincount(TEST.y, minlength=10) / len(TEST)
    assert abs(share).max() <= 1.5
    again, _ = proxy.drawn(TEST, 1437, 0.05, seed)
    assert np.array_equal(again.x, samples.x)


def test_a_rare_class_is_drawn_twice_before_any_other_is_drawn_in_proportion() -> None:
    y = np.array([0] * 90 + [1] * 3)
    samples, _ = proxy.drawn(Shard(np.arange(93, dtype=np.float32)[:, None], y), 100, 0.05, 0)
    assert np.bincount(samples.y).tolist() == [3, 2]


def test_a_server_that_knows_no_device_draws_of_its_own_data_four_a_class_at_least_and_half_at_most() -> None:
    assert len(proxy.drawn(TEST, 0, 0.05, 0)[0]) == 40  # 5 % of 359 would be 17
    tiny = Shard(TEST.x[:60], TEST.y[:60])
    assert len(proxy.drawn(tiny, 0, 0.05, 0)[0]) == 30


def complaint(samples: Shard, known: int = 0, classes: int = 10) -> str:
    with pytest.raises(UseError) as caught:
        proxy.check(samples, (1, 8, 8), classes, known, 0.05, "proxy.npz")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_missing_class_is_named_with_its_count_and_what_to_do() -> None:
    some = np.isin(TEST.y, [0, 1, 2, 4, 5, 6, 8, 9]) | (np.cumsum(TEST.y == 3) == 1) & (TEST.y == 3)
    told = complaint(Shard(TEST.x[some], TEST.y[some]))
    assert "fewer than 2 of class 3 (1), 7 (0); a net pruned by them would forget it" in told
    assert "--proxy FILE.npz that has 2 or more of each of the 10 classes" in told


def test_more_than_a_twentieth_of_the_known_training_samples_is_refused_with_the_numbers() -> None:
    told = complaint(TEST, known=2000)
    assert "359 proxy samples are 17.9% of the 2000 training samples known, at most 5% may be" in told
    assert "leave 259 out, or write --set proxy.share=0.18" in told
    proxy.check(TEST, (1, 8, 8), 10, 2000, 0.18, "proxy.npz")
    proxy.check(TEST, (1, 8, 8), 10, 0, 0.05, "proxy.npz")  # nobody knows: no complaint


def test_a_share_of_too_few_training_samples_for_every_class_is_told_with_the_share_that_does() -> None:
    told = complaint(proxy.drawn(TEST, 300, 0.05, 0)[0], known=300)
    assert "5% of the 300 training samples known are 15, too few for 2 of each of 10 classes" in told
    assert told.endswith("write --set proxy.share=0.067")
    samples, _ = proxy.drawn(TEST, 300, 0.067, 0)
    proxy.check(samples, (1, 8, 8), 10, 300, 0.067, "proxy.npz")


def test_samples_that_do_not_fit_the_net_are_refused() -> None:
    assert "samples have shape (64,)" in complaint(Shard(TEST.x.reshape(-1, 64), TEST.y))
    assert "labels go up to 9, the model has classes 0 to 7" in complaint(TEST, classes=8)


def test_gradients_of_proxy_data_are_mean_squares_over_its_batches_at_the_first_weights() -> None:
    """Against autograd on the net as it is: two batches, of 32 and what is left."""
    samples, _ = proxy.drawn(TEST, 1437, 0.03, 0)
    found = mean_squares(NET, MODEL, Work(batch=32), samples, 3)
    module, squares = build(NET.factory, NET.arguments), dict[str, Any]()
    load(module, initial(NET, 3))
    parts = list(batches(len(samples), 32, 1, seed_of(3, "squares")))
    assert [len(rows) for rows in parts] == [32, len(samples) - 32]
    for rows in parts:
        module.zero_grad()
        loss = torch.nn.functional.cross_entropy(
            module(torch.from_numpy(samples.x[rows])), torch.from_numpy(samples.y[rows])
        )
        loss.backward()
        for name, parameter in module.named_parameters():
            assert parameter.grad is not None
            squares[name] = squares.get(name, 0) + parameter.grad.numpy() ** 2 / 2
    assert found.keys() == squares.keys()
    for name, array in squares.items():
        np.testing.assert_allclose(found[name], array, rtol=1e-4, atol=1e-10)


def test_a_mask_by_gradients_of_proxy_data_is_drawn_before_the_first_round(tmp_path: Path) -> None:
    """|g w| at the start ranks what a fixed mask keeps; the gradients are kept with the run."""
    taylor = {"rule": {"chooser": "magnitude", "score": "taylor", "gradients": "proxy"}, "holds": {"widths": [0.2]}}
    ran = simulate(tmp_path / "run", "fedavg", 1, **taylor)
    squares, _ = tensorfile.load(tmp_path / "run" / "squares.safetensors")
    start = initial(spec("mlp", (1, 8, 8), 10), 0)
    moved = ran.params["first.weight"] != start["first.weight"]
    assert not (moved & ~top(np.sqrt(squares["first.weight"]) * start["first.weight"], 0.2)).any()
    assert moved.mean() > 0.15
    control = simulate(tmp_path / "size", "fedavg", 1, holds={"widths": [0.2]}, rule={"chooser": "magnitude"})
    assert ((control.params["first.weight"] != start["first.weight"]) & ~moved).any()


def test_a_run_goes_on_with_the_gradients_and_the_recipe_that_it_began_with(tmp_path: Path) -> None:
    """Its folder keeps both, whatever a recipe of that name says by then; no export without them."""
    mine, folder = tmp_path / "mine.toml", tmp_path / "run"
    rule = '[rule]\nchooser = "magnitude"\nmask = "sensitive"\ngradients = "proxy"\n'
    mine.write_text(f'extends = "fedavg"\n[holds]\ndensities = [0.3]\n{rule}')
    begun = simulate(folder, str(mine), 1)
    kept = (folder / "squares.safetensors").read_bytes()
    mine.write_text('extends = "fedavg"\n[holds]\nwidths = [0.5]\n[rule]\nchooser = "prefix"\n')
    gone_on = simulate(folder, str(mine), 2)
    assert (folder / "squares.safetensors").read_bytes() == kept
    assert [d["size"] for d in gone_on.lines[1]["devices"]] == [d["size"] for d in begun.lines[0]["devices"]]
    setup = opened(folder).setup
    densities = {n: round(float(m.mean()), 2) for n, m in setup.rows[0].selection.masks.items()}
    assert len(set(densities.values())) == 3  # "sensitive" saw them: magnitude would keep .3 of each
    (folder / "squares.safetensors").unlink()
    with pytest.raises(LocalError, match=r"squares.safetensors is missing; `pleat resume"):
        opened(folder)


def test_a_server_without_data_is_refused_before_it_waits_for_devices(tmp_path: Path) -> None:
    config = RunConfig("elf", "mlp", tmp_path / "run", 1, listen="127.0.0.1:0")
    with pytest.raises(UseError, match="recipe elf needs data of the server's before the first round"):
        app.serve(config)
    assert not (tmp_path / "run").exists()
