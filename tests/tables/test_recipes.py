"""The recipes that come with pleat: each loads for each net, and names only what exists."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from pleat.codec.coding import build, predicted_bytes, uses_base
from pleat.elastic.choosers import CHOOSERS
from pleat.elastic.selection import WHOLE
from pleat.errors import UseError
from pleat.nets.build import initial, spec
from pleat.nets.names import NAMES
from pleat.nets.trace import model_map
from pleat.recipes.load import load, names
from pleat.recipes.recipe import Recipe
from pleat_client.objectives import OBJECTIVES
from pleat_server.plan.catalogue import Row, catalogue
from pleat_server.plan.policies import POLICIES

EVERY = list(itertools.product(names(), ["", *NAMES]))


def test_these_recipes_come_with_pleat() -> None:
    assert {"elastic", "fedavg", "fjord", "heterofl", "fedrolex", "federated-dropout"} <= set(names())
    assert {"all-large", "all-small", "drop-weak", "exclusive"} <= set(names())


@pytest.mark.parametrize(("name", "model"), EVERY)
def test_a_recipe_names_only_what_exists(name: str, model: str) -> None:
    recipe = load(name, model=model)
    assert recipe.name == name
    assert recipe.summary
    assert recipe.rule.chooser in CHOOSERS
    assert recipe.objective.name in OBJECTIVES
    assert recipe.plan.policy in POLICIES
    for keep, bits in itertools.product(recipe.returns.keeps, recipe.returns.bits):
        build(recipe.returns.up.format(keep=keep, bits=bits))
    build(recipe.returns.down)


@pytest.mark.parametrize("model", ["", *NAMES])
def test_fedavg_is_fedavg(model: str) -> None:
    recipe = load("fedavg", model=model)
    assert (recipe.holds.widths, recipe.rule.chooser, recipe.objective.name) == ((1.0,), "whole", "cross_entropy")
    assert (recipe.returns.up, recipe.returns.down, recipe.fold.weights) == ("raw", "raw", "samples")
    assert (recipe.server.rate, recipe.server.momentum, recipe.server.average) == (1.0, 0.0, 0.0)
    assert (recipe.training.clip, recipe.training.decay) == (0.0, 0.0)


@pytest.mark.parametrize("model", ["mlp", "cnn"])
def test_elastic_differs_from_fedavg_neither_in_epochs_nor_in_rate(model: str) -> None:
    """So that the demo compares like with like."""

    def local(recipe: Recipe) -> tuple[float, ...]:
        t = recipe.training
        return t.epochs, t.batch, t.rate, t.momentum, t.decay

    assert local(load("elastic", model=model)) == local(load("fedavg", model=model))


@pytest.mark.parametrize("model", ["", *NAMES])
def test_elastic_sends_little_both_ways_and_trains_all_its_sizes(model: str) -> None:
    recipe = load("elastic", model=model)
    assert uses_base(recipe.returns.down)
    assert recipe.returns.up.startswith("topk:{keep}")
    assert recipe.objective.nested
    assert 1.0 in recipe.holds.widths


def test_numbers_of_a_net_are_laid_over_the_recipe_and_overrides_over_both() -> None:
    assert load("elastic").objective.name == "distilled"
    assert load("elastic", model="mlp").objective.name == "joint"
    assert load("elastic", model="mlp").training.rate == load("elastic").training.rate
    changed = load("elastic", model="mlp", overrides={"training": {"rate": 0.5}})
    assert (changed.training.rate, changed.objective.name) == (0.5, "joint")


WRONG = [
    ("[training]\nepocs = 2", "unknown key 'training.epocs'; did you mean 'epochs'"),
    ("[trainng]\nepochs = 2", "unknown key 'trainng'; did you mean 'training'"),
    ("[training]\nepochs = 'two'", "Expected `int`"),
    ("[training]\nepochs = 0", "training.epochs must be at least 1"),
    ("[proxy]\nshare = 0.0", "line 2: proxy.share must be a share in (0, 1], got 0.0"),
    ("[proxy]\nprune = 1.0", "proxy.prune must be a share in (0, 1)"),
    ("[proxy]\ncycles = 0", "proxy.cycles must be at least 1"),
    ("[proxy]\nepochs = 0", "proxy.epochs must be at least 1"),
    ("[proxy]\nsteps = -1", "proxy.steps must be 0 (epochs alone) or a number of steps"),
    ("[proxy]\nrewind = 11", "proxy.rewind must be an epoch up to 10, or -1 (go on), got 11"),
    ("[proxy]\ntune = -1", "proxy.tune must be 0 (score rows as they are) or a number of epochs"),
    ("[proxy]\ncycle = 3", "unknown key 'proxy.cycle'; did you mean 'cycles'?"),
    ("[holds]\nwidths = [0.5, 1.0]", "holds.widths must be rates in (0, 1], falling"),
    ("[holds]\nwidths = []", "holds.widths must be"),
    (
        "[holds]\ndepths = [1.0, 0.5]\ndensities = [1.0, 0.5, 0.2]",
        "line 2: holds.depths must be one rate, or 3, as many",
    ),
    ("[holds]\ndensities = [0.5, 0.5]", "holds.widths must be such that no two sizes are the same"),
    ("[fold]\nexponent = 2.0", "fold.exponent must be in [0, 1]"),
    ("[training]\nmomentum = 1.0", "training.momentum must be in [0, 1)"),
    ("extends = 'elastik'", "unknown recipe 'elastik'; did you mean 'elastic'"),
    ("[training", "not valid TOML"),
    ("[training]\nwidths = [0.5]", "unknown key 'training.widths'; did you mean 'holds.widths'?"),
    ("[training]\nbatch = 16\nepocs = 2", "mine.toml, line 3: unknown key"),
    ("training.epocs = 2", "mine.toml, line 1: unknown key"),
    ("[training]\n\n# two\nepochs = 0", "mine.toml, line 4: training.epochs must be at least 1, got 0"),
    ("training = { rate = 0.1, epochs = 'two' }", "mine.toml, line 1: Expected `int`"),
    ("[models.mlp.training]\nepocs = 2", "mine.toml, line 2: unknown key 'models.mlp.training.epocs'; did you mean"),
    ("[models.mlp]\ntraining = { epochs = 0 }", "mine.toml, line 2: training.epochs must be at least 1"),
    ("extends = 'elastic'\n[fold]\nfill = 'zero'", "elastic.toml, line"),
    ("[fold]\nfill = 'zero'\nexponent = 0.5", "line 3: fold.exponent contradicts fold.fill"),
    ("[holds]\nwidths = [1.0, 0.5]", "line 2: holds.widths contradicts rule.chooser"),
    (
        "[returns]\npart = 'chosen'\n[objective]\nsubspace = 'random:0.1'",
        "line 4: objective.subspace contradicts returns.part",
    ),
    ("[rule]\nscore = 'taylor'", "line 2: rule.score contradicts rule.squares = 0"),
    ("[rule]\ngradients = 'proxy'", "line 2: rule.gradients contradicts rule.score"),
    ("[rule]\ngradients = 'server'", "line 2: Invalid enum value 'server'"),
    ("[rule]\nchooser = 'sensitive'", "line 2: rule.chooser contradicts rule.squares = 0"),
    ("[fold]\nvotes = 0.5", "line 2: fold.votes contradicts fold.clears"),
    ("[fold]\nvotes = 1.5", "line 2: fold.votes must be in [0, 1], got 1.5"),
    ("[rule]\nuntil = -1", "line 2: rule.until must be 0 (no last one) or a round, got -1"),
    ("[rule]\npool = ['magnitude']", "line 2: rule.pool contradicts rule.chooser"),
    ("[rule]\npool = ['magnitud']", "line 2: rule.pool must be at most 16 choosers of whole, prefix"),
    ("[objective]\nstatistics = -1", "line 2: objective.statistics must be 0 (never) or rounds, got -1"),
    ("[rule]\nreconfigure = 5", "line 2: rule.reconfigure contradicts rule.chooser"),
    ("[rule]\ncubic = 5", "line 2: rule.cubic contradicts rule.redraw"),
    ("[rule]\nown = true\nredraw = true", "line 2: rule.own contradicts rule.redraw"),
    ("[rule]\nchooser = 'prefixx'", "line 2: unknown rule.chooser 'prefixx'; did you mean 'prefix'?"),
    ("[rule]\ndepth = 'dept'", "line 2: unknown rule.depth 'dept'; did you mean 'depth'?"),
    ("[rule]\nmask = 'magnitud'", "line 2: unknown rule.mask 'magnitud'; did you mean 'magnitude'?"),
    ("[rule]\nadjust = 'regroww'", "line 2: unknown rule.adjust 'regroww'; did you mean 'regrow'?"),
    ("[objective]\nname = 'joynt'", "line 2: unknown objective.name 'joynt'; did you mean 'joint'?"),
    ("[objective]\ngate = 'x'", "line 2: unknown objective.gate 'x'; there are hard, swat, threshold"),
    (
        "[objective]\nname = 'joint'\nsettings = { totl = 2.0 }",
        "line 3: unknown key 'objective.settings.totl'; did",
    ),
    (
        "extends = 'elastic'\n[objective]\nsettings = { distl = 1.0 }",
        "line 3: unknown key 'objective.settings.distl'; did",
    ),
    (
        "[models.mlp.objective.settings]\ntotl = 1.0",
        "line 2: unknown key 'models.mlp.objective.settings.totl'; did you",
    ),
    ("[rule]\nsettings = { evry = 2 }", "line 2: unknown key 'rule.settings.evry'; did you mean 'every'?"),
    ("[rule]\nadjust = 'regrow'", "line 2: rule.adjust contradicts returns.part"),
    ("[rule]\nchooser = 'stored'\n[holds]\nwidths = [0.3, 0.1]", "line 4: holds.widths contradicts rule.chooser"),
    ("[objective]\ndynamic = 0.1\n[server]\nmomentum = 0.5", "line 2: objective.dynamic contradicts server"),
    ("[models.resnt8.training]\nepochs = 2", "line 1: unknown net 'resnt8'; did you mean 'resnet8'?"),
    ("[server]\nrate = 0.0", "line 2: server.rate must be above 0"),
    ("[server]\nleast = -1", "line 2: server.least must be 0 or more devices"),
    ("[training]\ndecay = -1.0", "line 2: training.decay must be 0 (off) or more"),
    ("[rule]\nscore = 'sise'", "line 2: Invalid enum value 'sise'"),
    ("[objective]\nproximal = -1.0", "line 2: objective.proximal must be 0 (off) or more"),
    ("[objective]\ndynamic = 0.1\n[fold]\nexponent = 0.5", "line 2: objective.dynamic contradicts fold"),
    ("[holds]\nexits = -1", "line 2: holds.exits must be 0 (the net as it is) to 64 heads, got -1"),
    ("[rule]\nsince = 0", "line 2: rule.since must be a round from 1"),
    ("saves = ['time']", "line 1: Invalid enum value 'time'"),
]


@pytest.mark.parametrize(("text", "told"), WRONG, ids=[told for _, told in WRONG])
def test_a_wrong_recipe_is_one_clear_line(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(UseError) as error:
        load(str(path), model="mlp")
    assert told in str(error.value)
    assert "\n" not in str(error.value)


def test_a_recipe_can_extend_another_and_change_one_number(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("extends = 'elastic'\n[training]\nrate = 0.01\n")
    mine, base = load(str(path), model="mlp"), load("elastic", model="mlp")
    assert mine.training.rate == 0.01
    assert (mine.objective, mine.fold, mine.training.clip) == (base.objective, base.fold, base.training.clip)


def test_unknown_names_and_missing_files_say_what_there_is() -> None:
    with pytest.raises(UseError, match="unknown recipe 'elatsic'; did you mean 'elastic'"):
        load("elatsic")
    with pytest.raises(UseError, match=r"no recipe file nowhere\.toml; recipes by name: all-large, all-small"):
        load("nowhere.toml")


def test_a_wrong_value_of_the_command_line_is_told_as_such() -> None:
    with pytest.raises(UseError, match=r"recipe fedavg with --set: training.epochs must be at least 1, got 0"):
        load("fedavg", overrides={"training": {"epochs": 0}})
    with pytest.raises(UseError, match=r"fedavg with --set: unknown key 'training.epocs'; did you mean 'epochs'"):
        load("fedavg", overrides={"training": {"epocs": 1}})


def test_a_file_extends_its_neighbour_from_wherever_it_is_read(tmp_path: Path) -> None:
    (tmp_path / "base.toml").write_text("extends = 'fjord'\n[training]\nrate = 0.02\n")
    (tmp_path / "mine.toml").write_text("extends = 'base.toml'\n[training]\nepochs = 7\n")
    mine = load(str(tmp_path / "mine.toml"))
    assert (mine.training.rate, mine.training.epochs, mine.objective.name) == (0.02, 7, "nested_draw")
    (tmp_path / "base.toml").write_text("extends = 'mine.toml'\n")
    with pytest.raises(UseError, match="extends itself"):
        load(str(tmp_path / "mine.toml"))


@pytest.mark.parametrize("name", names())
def test_what_a_recipe_claims_to_save_its_smallest_row_saves(name: str) -> None:
    """Against FedAvg of the same net: multiply-adds, memory, bytes down and up, and nothing that it does not claim.

    Masks of a device's own and personal tensors save bytes from the second round on, which rows do not know; nor do
    they know how much of an update its values will let go."""
    recipe, plain = load(name, model="mlp"), model_map(spec("mlp", (1, 8, 8), 10))
    net = spec("mlp", (1, 8, 8), 10, recipe.holds.exits)
    model, params = model_map(net), initial(net, 0)
    alike = {"training": {"momentum": recipe.training.momentum}}
    whole = catalogue(plain, load("fedavg", model="mlp", overrides=alike), 0)[0]
    rows = catalogue(model, recipe, 0, params)
    least = min(rows, key=lambda r: (r.macs, r.up_bytes))
    later = recipe.rule.own or bool(recipe.personal.tensors)
    dense = predicted_bytes("raw", plain, WHOLE)

    def trained(row: Row) -> int:
        return row.memory_bytes - row.up_bytes - row.down_bytes

    found = {
        "compute": least.macs < whole.macs,
        "memory": trained(least) < trained(whole),
        "down": later or predicted_bytes(least.down, model, least.selection) < dense,
        "up": later
        or "scr:" in least.up
        or recipe.returns.part == "chosen"
        or predicted_bytes(least.up, model, least.selection) < dense,
    }
    assert [what for what, saved in found.items() if saved] == list(recipe.saves)
    assert recipe.costs


@pytest.mark.parametrize("name", ["complement", "fedsparsify", "flash"])
def test_a_row_that_begins_with_the_whole_model_is_planned_at_what_that_costs(name: str) -> None:
    """A hard budget must hold in the first round too."""
    net = spec("mlp", (1, 8, 8), 10)
    model, params = model_map(net), initial(net, 0)
    whole = catalogue(model, load("fedavg", model="mlp"), 0)[0]
    (row,) = catalogue(model, load(name, model="mlp"), 0, params)
    gradients = predicted_bytes("bf16", model, WHOLE) if name == "flash" else 0
    assert row.up_bytes == whole.up_bytes + gradients
    assert row.down_bytes >= whole.down_bytes
    laid = {"rule": {"since": 1, "cubic": 0, "squares": 0, "chooser": "magnitude"}}
    (later,) = catalogue(model, load(name, model="mlp", overrides=laid), 0, params)
    assert later.up_bytes < whole.up_bytes
    assert later.down_bytes < whole.down_bytes


def test_a_masked_row_is_planned_with_the_bytes_of_its_mask() -> None:
    net = spec("mlp", (1, 8, 8), 10)
    model, params = model_map(net), initial(net, 0)
    row = catalogue(model, load("feddst", model="mlp"), 0, params)[0]
    values = 4 * row.params
    assert 0.6 * 49_000 / 8 < row.down_bytes - values < 0.75 * 51_000 / 8  # H(.2) = .72 bits an entry at most
    assert row.up_bytes - values > 51_000 / 8  # a device may choose any mask


def test_what_a_device_keeps_of_its_drift_counts_as_memory() -> None:
    """FedProx: what was received, beside the weights. FedDyn: also its drift, where it trains and where it is kept."""
    model = model_map(spec("mlp", (1, 8, 8), 10))
    plain, proximal, dynamic = (
        catalogue(model, load("fedavg", model="mlp", overrides={"objective": laid}), 0)[0].memory_bytes
        for laid in ({}, {"proximal": 0.1}, {"dynamic": 0.1})
    )
    entries = predicted_bytes("raw", model, WHOLE) // 4 * 4
    assert proximal - plain == pytest.approx(entries, rel=0.01)
    assert dynamic - plain == pytest.approx(3 * entries, rel=0.01)
