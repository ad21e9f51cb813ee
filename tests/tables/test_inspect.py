"""`pleat inspect`: what it prints of a net, as JSON and as tables, and one line for a net it cannot use."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
import torch
from torch import nn

from pleat_server.cli import main

torch.set_num_threads(1)


class Values(nn.Module):
    """A net whose way depends on what it sees."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.head = nn.Linear(4, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.head(x if x.sum() > 0 else -x)
        return out


class Pair(nn.Module):
    """A net that gives its state beside its logits."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.head = nn.Linear(4, num_classes)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.head(x), x


class Cell(nn.Module):
    """A net with a layer that no rule cuts."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.into, self.cell, self.head = nn.Linear(4, 6), nn.GRUCell(6, 8), nn.Linear(8, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.head(self.cell(self.into(x)))
        return out


HERE = __name__


def told(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["inspect", *words]) == 0
    return capsys.readouterr().out


def test_json_holds_groups_units_sizes_and_the_ladder(capsys: pytest.CaptureFixture[str]) -> None:
    facts = json.loads(told(capsys, "resnet8", "--input-shape", "3,8,8", "--classes", "4", "--json"))
    assert facts["parameters"] == 77652
    assert facts["macs"] == 3 * 16 * 9 * 64 + 2 * 16 * 16 * 9 * 64 + (
        (16 * 32 * 9 + 32 * 32 * 9 + 16 * 32) * 16 + (32 * 64 * 9 + 64 * 64 * 9 + 32 * 64) * 4 + 64 * 4
    )
    assert [(u["name"], u["left_out"], u["zeros_equal_left_out"]) for u in facts["units"]] == [
        ("blocks.0", "passed by", True), ("blocks.1.branch", "adds nothing", True),
        ("blocks.2.branch", "adds nothing", True),
    ]  # fmt: skip
    inner = {g["name"]: (g["channels"], g["step"], g["unit"]) for g in facts["groups"]}
    assert inner["blocks.0.branch.conv1"] == (16, 4, "blocks.0")
    assert {w["name"]: w["reason"] for w in facts["whole"]} == {
        "input": "the net's input", "head": "the net's output",
    }  # fmt: skip
    ladder = facts["ladder"]
    assert [rung["size"] for rung in ladder] == ["1", "0.5", "0.25", "0.125"]
    assert (ladder[0]["parameters"], ladder[0]["macs"]) == (facts["parameters"], facts["macs"])
    assert all(a["activation_bytes"] > b["activation_bytes"] > 0 for a, b in pairwise(ladder))
    assert ladder[-1]["kept"]["blocks.0.branch.conv1"] == 4


def test_tables_name_what_the_json_holds(capsys: pytest.CaptureFixture[str]) -> None:
    text = told(capsys, "resnet8", "--input-shape", "3x8x8")
    for word in ("Submodels that recipe elastic offers", "blocks.0.branch.conv1", "adds nothing", "the net's output"):
        assert word in text
    assert "Depth units: none" in told(capsys, "mlp", "--input-shape", "1,8,8")


def test_another_recipe_offers_another_ladder(capsys: pytest.CaptureFixture[str]) -> None:
    facts = json.loads(told(capsys, "mlp", "--input-shape", "1,8,8", "--recipe", "fedavg", "--json"))
    assert [rung["size"] for rung in facts["ladder"]] == ["1"]


def test_a_layer_that_stays_whole_is_named_with_the_reason(capsys: pytest.CaptureFixture[str]) -> None:
    facts = json.loads(told(capsys, f"{HERE}:Cell", "--input-shape", "4", "--json"))
    reasons = {w["name"]: w["reason"] for w in facts["whole"]}
    assert reasons["cell"] == "a GRUCell: no rule cuts it"
    assert reasons["into"] == "enters cell, a GRUCell: no rule cuts it"


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["cmn", "--input-shape", "1,8,8"], "did you mean 'cnn'?"),
        (["cnn", "--input-shape", "8by8"], "'8by8' is no shape of a sample; write"),
        (["cnn", "--input-shape", ""], "--input-shape is empty"),
        (["cnn", "--input-shape", "1,2,2"], "takes images CxHxW of at least 4x4"),
        (["cnn", "--input-shape", "1,8,8", "--recipe", "elastc"], "did you mean 'elastic'?"),
        (["no.such:net", "--input-shape", "4"], "put the folder it is in into PYTHONPATH"),
        ([f"{HERE}:Values", "--input-shape", "4"], "its forward cannot be traced: symbolically traced variables"),
        ([f"{HERE}:Values", "--input-shape", "4"], "move what depends on the data into a submodule"),
        ([f"{HERE}:Pair", "--input-shape", "4"], "must return one tensor of logits, it returned tuple; wrap it"),
        ([f"{HERE}:Cell", "--input-shape", "5"], "does not fit the input: at module 'into'"),
    ],
)
def test_a_net_that_cannot_be_used_is_one_line(words: list[str], line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", *words]) == 2
    err = capsys.readouterr().err
    assert line in err
    assert err.count("\n") == 1


def test_a_net_with_exits_shows_each_and_what_only_deeper_ones_need(
    capsys: pytest.CaptureFixture[str], tmp_path
) -> None:
    recipe = tmp_path / "deep.toml"
    recipe.write_text('name = "deep"\n[holds]\nexits = 2\ndepths = [1.0, 0.5]\n[rule]\ndepth = "depth-prefix"\n')
    facts = json.loads(told(capsys, "mlp", "--input-shape", "1,8,8", "--recipe", str(recipe), "--json"))
    assert facts["exits"] == ["heads.0", "heads.1"]
    kinds = {u["name"]: (u["kind"], u["left_out"]) for u in facts["units"]}
    assert kinds["heads.0"] == ("exit", "gives no logits")
    assert kinds["blocks.1"] == ("tail", "goes with the exits that need it")
    assert [rung["dropped"] for rung in facts["ladder"]] == [[], ["blocks.1", "heads.1"]]
    shown = told(capsys, "mlp", "--input-shape", "1,8,8", "--recipe", str(recipe))
    assert "gives no logits" in shown
    assert json.loads(told(capsys, "mlp", "--input-shape", "1,8,8", "--json"))["exits"] == []
