"""The comparison of methods: what every class of device gets, what is kept of runs, what the table says of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pleat.elastic.choosers import Draw
from pleat.elastic.size import count, macs
from pleat.errors import UseError
from pleat.nets.build import initial, spec
from pleat.nets.trace import model_map
from pleat.recipes.load import load, names
from pleat_server.bench import methods
from pleat_server.bench.methods import runs, table
from pleat_server.bench.methods.contenders import STEPS, Contender, contenders, every, ladder, overrides, shares
from pleat_server.bench.methods.setting import SETTINGS, Setting, digest, named
from pleat_server.plan.catalogue import chosen

NET = spec("resnet6", (1, 16, 16), 28)
MODEL, PARAMS = model_map(NET), initial(NET, 0)
TINY = replace(SETTINGS["s"], model="mlp", devices=10, cohort=0.5, rounds=2, every=1, last=2)


@pytest.mark.parametrize("name", ["heterofl", "elastic", "fiarse", "elf, depth alone"])
@pytest.mark.parametrize("setting", ["s", "s-macs"])
def test_every_class_gets_the_largest_size_that_its_budget_affords(name: str, setting: str) -> None:
    fleet = SETTINGS[setting]
    contender = next(c for c in every() if c.name == name)
    recipe = load(contender.recipe, model=fleet.model, overrides=contender.laid)
    if name == "fiarse" and setting == "s-macs":
        with pytest.raises(UseError, match="all its sizes take as many macs"):
            ladder(fleet, recipe, MODEL, PARAMS)
        return
    measure, draw = {"s": count, "s-macs": macs}[setting], Draw(0, 1, "", PARAMS)
    whole = measure(MODEL, chosen(recipe.rule, MODEL, ladder(fleet, recipe, MODEL, PARAMS)[0], draw))
    for budget, rung in zip(fleet.budgets, ladder(fleet, recipe, MODEL, PARAMS), strict=True):
        got = measure(MODEL, chosen(recipe.rule, MODEL, rung, draw)) / whole
        axis = int(np.argmin(rung))
        place = round(rung[axis] * STEPS)
        larger = rung._replace(**{rung._fields[axis]: min(1.0, (place + 1) / STEPS)})
        assert got <= budget + 1e-9 or place == 1, "a class for which nothing fits gets the smallest"
        assert place == STEPS or measure(MODEL, chosen(recipe.rule, MODEL, larger, draw)) / whole > budget


def test_all_recipes_but_the_plain_reference_are_compared() -> None:
    assert {c.recipe for c in every()} == set(names()) - {"fedavg"}
    assert len({c.name for c in every()}) == len(every())


def test_every_contender_trains_alike_and_devices_keep_their_class() -> None:
    for contender in every():
        recipe = load(contender.recipe, model="resnet6", overrides=contender.laid)
        model = model_map(spec("resnet6", (1, 16, 16), 28, recipe.holds.exits))
        laid = overrides(
            SETTINGS["s"], contender, model, initial(spec("resnet6", (1, 16, 16), 28, recipe.holds.exits), 0)
        )
        assert laid["training"] == SETTINGS["s"].training
        rows = laid["plan"]["settings"]
        if contender.ladder and not contender.largest:
            assert [rows.get(f"device-{d:03d}", 0) for d in range(7)] == [0, 1, 2, 3, 4, 0, 1]
        else:
            assert rows == {}
        fast = contender.recipe == "elastic" or contender.name == "all-large, fast server"
        assert (laid["server"]["momentum"] > 0) == fast


def test_any_contender_is_there_with_a_fast_server() -> None:
    quick, plain = contenders(SETTINGS["s"], "heterofl, fast server;heterofl")
    assert (quick.recipe, quick.laid, quick.ladder) == ("heterofl", {"server": {"momentum": 0.8, "average": 0.9}}, True)
    assert plain.laid == {}
    assert [c.name for c in contenders(SETTINGS["s"], "") if "fast" in c.name] == ["all-large, fast server"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seting": "s"}, "unknown option 'seting'; there are data, jobs, only"),
        ({"setting": "t"}, "unknown setting 't'; there are s, s-macs, s-iid"),
        ({"part": "train"}, "part must be test or validation, got 'train'"),
        ({"rounds": "ten"}, "rounds must be whole numbers with commas between, got 'ten'"),
        ({"only": "fedavgg"}, "unknown contender 'fedavgg'; did you mean 'sub-fedavg'"),
        (
            {"data": "gone.npz", "rounds": "1", "only": "all-large"},
            "no data file gone.npz; expected an .npz with x_train",
        ),
        ({"seeds": "0;1"}, "seeds must be whole numbers with commas between, got '0;1'"),
    ],
)
def test_what_the_benchmark_does_not_know_is_refused(options: dict[str, str], message: str, tmp_path: Path) -> None:
    with pytest.raises(UseError, match=message):
        methods.run(options, tmp_path)


def test_a_data_file_without_a_test_part_is_refused_by_the_array_it_lacks(tmp_path: Path) -> None:
    path = tmp_path / "half.npz"
    np.savez(path, x_train=np.zeros((4, 8, 8), np.uint8), y_train=np.zeros(4, np.int64))
    with pytest.raises(UseError, match=r"half\.npz has no array 'x_test'"):
        replace(TINY, data=str(path)).shards(0)


def test_images_are_pooled_and_the_validation_part_is_of_what_is_trained_on(tmp_path: Path) -> None:
    path, rng = tmp_path / "letters.npz", np.random.default_rng(0)
    x = rng.integers(0, 256, (200, 32, 32)).astype(np.uint8)
    np.savez(path, x_train=x[:160], y_train=np.arange(160) % 4, x_test=x[160:], y_test=np.arange(40) % 4)
    fleet = replace(TINY, data=str(path))
    devices, test = fleet.shards(0)
    assert (sum(map(len, devices)), len(test), test.input_shape) == (160, 40, (1, 16, 16))
    assert test.x[0, 0, 0, 0] == pytest.approx(x[160, :2, :2].mean() / 255)
    held = replace(fleet, part="validation").shards(0)
    assert (sum(map(len, held[0])), len(held[1])) == (128, 32)
    assert digest(fleet) != digest(replace(fleet, part="validation"))


def result(seed: int, full: float, up: int = 10) -> dict[str, Any]:
    by_size = {"1": full, "0.5": full - 0.1}
    costs = {"bytes_up": up, "bytes_down": 2 * up, "macs": 100 * up, "cpu_s": 1.0}
    return {"seed": seed, "full": full, "smallest": full - 0.1, "by_size": by_size, **costs}


def test_figures_are_means_over_seeds_beside_the_reference() -> None:
    found = {"all-large": [result(0, 0.8), result(1, 0.9)], "small": [result(0, 0.5, 5), result(1, 0.6, 5)]}
    figures = table.figures(SETTINGS["s"], found)
    large, small = figures["methods"]["all-large"], figures["methods"]["small"]
    assert figures["n"] == 2
    assert (large["full"], large["full_spread"]) == (pytest.approx(0.85), pytest.approx(0.1))
    assert small["by_size"] == pytest.approx([0.55, 0.45])
    assert (small["bytes_up_share"], small["macs_share"]) == (0.5, 0.5)
    assert [name for name, _ in table.ranked(figures)] == ["all-large", "small"]


def test_a_run_is_kept_and_not_done_twice_and_one_that_fails_is_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pair = [Contender("all-large", "all-large"), Contender("odd", "all-large", {"plan": {"policy": "no such"}})]
    first = runs.results(TINY, pair, [0], 1, tmp_path)
    assert list(first) == ["all-large"]
    assert "odd, seed 0: failed:" in capsys.readouterr().err
    files = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "s").iterdir()}
    assert runs.results(TINY, pair[:1], [0], 1, tmp_path) == first
    assert {p.name: p.stat().st_mtime_ns for p in (tmp_path / "s").iterdir()} == files
    assert len(first["all-large"][0]["curve"]) == 2
    assert first["all-large"][0]["reports"] == 10


def test_a_result_is_named_by_what_it_follows_from() -> None:
    def stem(contender: Contender, seed: int = 0, setting: Setting = TINY) -> str:
        return runs._stem(contender, seed, digest(setting), setting.model)

    plain = Contender("all-large", "all-large")
    other = replace(plain, laid={"server": {"rate": 0.5}})
    stems = [
        stem(plain),
        stem(plain, 1),
        stem(other),
        stem(plain, 0, replace(TINY, rounds=3)),
        stem(replace(plain, level=1)),
    ]
    assert len(set(stems)) == len(stems)
    assert stem(plain) == stem(Contender("all-large", "all-large"))


def test_the_contenders_asked_for_keep_their_order() -> None:
    assert [c.name for c in contenders(SETTINGS["s"], "heterofl;drop-weak")] == ["heterofl", "drop-weak"]
    assert named({"rounds": "3"}).every == 3


def test_what_a_class_trains_is_told_with_a_star_where_it_is_more_than_it_affords() -> None:
    by_depth = next(c for c in every() if c.name == "elf, depth alone")
    found = shares(SETTINGS["s"], by_depth, MODEL, PARAMS)
    assert found == pytest.approx([1, 0.474, 0.447, 0.447, 0.447], abs=1e-3)  # stem, widening blocks and head stay
    assert table._sizes(found, SETTINGS["s"].budgets) == "100 47 45* 45* 45*"
    assert shares(SETTINGS["s"], Contender("all-large", "all-large"), MODEL, PARAMS) == []
