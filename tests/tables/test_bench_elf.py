"""What `pleat bench elf` makes of its runs, by hand."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from pleat.errors import UseError
from pleat_server.bench import elf
from pleat_server.bench.elf import Plan, compared, run, summed_up


def plan(fill: str, seed: int = 0) -> Plan:
    return Plan("", "mlp", "iid", 8, 6, seed, fill)


def result(*accuracies: float, nbytes: float) -> dict[str, Any]:
    curve = [[number, accuracy] for number, accuracy in enumerate(accuracies, 1)]
    return {"curve": curve, "bytes_a_round": nbytes, "sizes": {}, "cpu_s": 1.0}


def test_each_run_stands_beside_fedavg_of_its_own_split_and_seed() -> None:
    """The target is the mean of FedAvg's last three scores: .6667 at seed 0, .2 at seed 1."""
    found = [
        (plan(""), result(0.1, 0.5, 0.6, 0.7, 0.6, 0.7, nbytes=100)),
        (plan("zero"), result(0.1, 0.3, 0.67, 0.5, 0.5, 0.5, nbytes=40)),
        (plan("residual"), result(0.1, 0.2, 0.2, 0.2, 0.2, 0.2, nbytes=40)),
        (plan("", 1), result(0.2, 0.2, 0.2, 0.2, 0.2, nbytes=10)),
        (plan("zero", 1), result(0.1, 0.1, 0.1, 0.1, 0.3, nbytes=20)),
    ]
    table = compared(found)
    assert [one["method"] for one in table[:3]] == ["fedavg", "eLF, zero fill", "eLF, residual fill"]
    assert [one["rounds_to_target"] for one in table] == [4, 3, None, 1, 5]
    assert [one["fewer_bytes_a_round"] for one in table] == [1.0, 2.5, 2.5, 1.0, 0.5]
    # 6 rounds of 40 bytes: FedAvg had moved 240 after two of its own; 5 of 20: after all five
    assert [one["fedavg_at_these_bytes"] for one in table] == [0.7, 0.5, 0.5, 0.2, 0.2]
    assert compared([found[0], (plan("zero"), result(0.1, nbytes=40))])[1]["fedavg_at_these_bytes"] is None
    assert table[1]["accuracy"] == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("fill", "recipe", "name"),
    [("", "fedavg", "fedavg"), ("drop-weak", "drop-weak", "drop-weak"), ("zero", "elf", "eLF, zero fill")],
)
def test_a_plan_names_its_recipe(fill: str, recipe: str, name: str) -> None:
    assert (plan(fill).recipe, plan(fill).name) == (recipe, name)


def test_a_run_is_summed_up_from_its_journal() -> None:
    half, quarter = {"size": "density 0.5", "density": 0.52}, {"size": "density 0.25", "density": 0.27}
    by_size = {"1": 0.1, "density 0.5": 0.6, "density 0.25": 0.7}  # nobody trained the whole net
    lines = [
        {"round": 1, "bytes_up": 3, "bytes_down": 5, "devices": [half, quarter]},
        {"round": 2, "bytes_up": 1, "bytes_down": 1, "devices": [half, half], "accuracy": 0.1}
        | {"accuracy_by_size": by_size},
    ]
    assert summed_up(lines) == {
        "curve": [[2, 0.6]],
        "scored_at": "density 0.5",
        "bytes_a_round": 5.0,
        "sizes": {"density 0.5": 0.75, "density 0.25": 0.25},
    }


def test_an_unknown_option_is_refused_with_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(UseError, match="unknown option 'fills'; there are data, model, rounds"):
        run({"fills": "zero"}, tmp_path)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"seeds": "x"}, "bench elf: seeds must be whole numbers with commas between, got 'x'"),
        ({"rounds": "0"}, "bench elf: rounds must be whole numbers with commas between, from 1, got '0'"),
        ({"devices": "0"}, "bench elf: devices must be whole numbers with commas between, from 1, got '0'"),
        ({"data": "gone.npz"}, "no data file gone.npz"),
    ],
)
def test_what_cannot_be_run_is_refused(tmp_path: Path, options: dict[str, str], told: str) -> None:
    with pytest.raises(UseError, match=re.escape(told)):
        run(options, tmp_path)


def test_what_was_run_is_kept_beside_the_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []

    def one(plan: Plan, cache: Path) -> dict[str, Any]:
        assert cache == tmp_path / "elf"
        done.append(plan.name)
        return {"curve": [[1, 0.5]], "bytes_a_round": 1.0, "sizes": {}}

    monkeypatch.setattr(elf, "_one", one)
    figures = run({"splits": "iid"}, tmp_path)
    assert len(done) == len(list((tmp_path / "elf").iterdir())) == 5
    assert run({"splits": "iid"}, tmp_path) == figures
    assert len(done) == 5
    run({"splits": "iid", "seeds": "1"}, tmp_path)
    assert len(done) == 10
