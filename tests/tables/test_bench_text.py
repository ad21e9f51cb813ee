"""The text benchmark: who gets which sentences and which size, what is asked for wrongly, and short runs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pleat.elastic.choosers import Draw
from pleat.elastic.size import macs
from pleat.errors import UseError
from pleat.nets.build import initial, spec
from pleat.nets.trace import model_map
from pleat.recipes.load import load
from pleat_server.bench import text
from pleat_server.bench.methods.contenders import Contender, overrides
from pleat_server.bench.methods.runs import one
from pleat_server.bench.text import Sentences, every, named
from pleat_server.plan.catalogue import chosen
from support.sentences import TOPICS

torch.set_num_threads(1)
KNOWN = {contender.name: contender for contender in every()}


@pytest.fixture
def file(tmp_path: Path) -> str:
    """120 sentences to train on and 30 to score on; their third entries are topics, their labels single words."""
    rng, rows = np.random.default_rng(0), []
    for i in range(150):
        topic, word = i % 3, int(rng.integers(3))
        rows.append([f"how does one {TOPICS[topic][word]} it {i}", 3 * topic + word, topic])
    path = tmp_path / "texts.json"
    path.write_text(json.dumps({"train": rows[:120], "test": rows[120:]}))
    return str(path)


def few(file: str) -> Sentences:
    return replace(text.SETTING, data=file, devices=6, cohort=1.0, rounds=2, every=1, taken=90)


def test_a_part_of_the_sentences_is_dealt_out_by_the_seed_and_labelled_by_their_third_entry(file: str) -> None:
    devices, test = few(file).shards(3)
    assert (sum(map(len, devices)), len(test), len(devices)) == (90, 30, 6)
    assert {int(c) for s in (*devices, test) for c in s.y} == {0, 1, 2}
    again, other = few(file).shards(3), few(file).shards(4)
    assert all((a.x == b.x).all() for a, b in zip(devices, again[0], strict=True))
    assert any(len(a) != len(b) or (a.x != b.x).any() for a, b in zip(devices, other[0], strict=True))


def test_what_numbers_are_chosen_on_is_a_part_of_what_is_trained_on(file: str) -> None:
    devices, held = replace(few(file), part="validation", taken=0).shards(0)
    assert (sum(map(len, devices)), len(held)) == (96, 24)  # of 120: none of the file's own test sentences


def test_every_class_of_device_gets_the_size_whose_multiply_adds_it_affords(file: str) -> None:
    setting = few(file)
    found = {}
    for name in ("inclusivefl", "heterofl", "local"):
        recipe = load(KNOWN[name].recipe, model=setting.model, overrides=KNOWN[name].laid)
        net = spec(setting.model, (text.WORDS,), 3, recipe.holds.exits)
        model = model_map(net)
        laid = overrides(setting, KNOWN[name], model, initial(net, 0))
        assert laid["plan"]["settings"] == {"device-001": 1.0, "device-002": 2.0, "device-004": 1.0, "device-005": 2.0}
        recipe = load(KNOWN[name].recipe, model=setting.model, overrides=laid)
        sizes = [chosen(recipe.rule, model, rung, Draw()) for rung in recipe.holds.rungs]
        found[name] = [macs(model, s) / macs(model, sizes[0]) for s in sizes]
        if name != "heterofl":
            layers = [sum(u.startswith("layers") and u not in s.dropped for u in model.units) for s in sizes]
            assert layers == [5, 3, 1]  # of the trunk; each has one of its own beside
    assert found["inclusivefl"] == found["local"] == pytest.approx([1, 2 / 3, 1 / 3], abs=0.01)
    assert all(a <= b for a, b in zip(found["heterofl"], (1, 0.67, 0.34), strict=True))
    assert found["heterofl"] == pytest.approx([1, 2 / 3, 1 / 3], abs=0.12)  # whole heads, of four


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "no file ''; write --option data=FILE.json.xz"),
        ({"data": "gone.json"}, "no file 'gone.json'"),
        ({"date": "x"}, "unknown option 'date'; there are data, only"),
        ({"data": __file__, "part": "train"}, "part must be test or validation, got 'train'"),
    ],
)
def test_what_the_benchmark_does_not_know_is_refused(options: dict[str, str], message: str) -> None:
    with pytest.raises(UseError, match=message):
        named(options)


def test_an_unknown_contender_is_named_with_those_that_there_are(file: str, tmp_path: Path) -> None:
    with pytest.raises(UseError, match="bench text: unknown contender 'fedavg'; there are all-large; inclusivefl;"):
        text.run({"data": file, "only": "fedavg"}, tmp_path)


@pytest.mark.parametrize("contender", KNOWN.values(), ids=list(KNOWN))
def test_every_contender_runs_on_a_few_sentences(contender: Contender, file: str) -> None:
    found = one(few(file), contender, 0)
    assert 0 <= found["full"] <= 1
    sizes = {"inclusivefl": 3, "inclusivefl, no momentum": 3, "heterofl": 3, "local": 0}
    assert len(found["by_size"]) == sizes.get(contender.name, 1)
    assert found["reports"] == (4 if contender.name == "drop-weak" else 12)


def test_models_that_stay_on_devices_are_scored_on_the_sentences_set_aside_too(file: str) -> None:
    """Six devices' models, each on all 30, fewer than a device gets at most: a whole number of 180."""
    right = one(few(file), KNOWN["local"], 0)["curve"][-1][1] * 180
    assert right == pytest.approx(round(right), abs=1e-6)
