"""Nets as people bring them: what stays whole and why, what is refused, and that `pleat inspect` tells of each."""

from __future__ import annotations

import json
import sys

import pytest
import torch
from torch import nn

from pleat.errors import UseError
from pleat.nets import trace as tracing
from pleat.nets.trace import look, trace
from pleat_server.cli import main
from support.cutting import CLOSE, each_group, gap, hidden, sample, shaken
from support.kinds import KINDS, REFUSED, WHOLE, Headed

torch.set_num_threads(1)
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")


@pytest.mark.parametrize("name", WHOLE)
def test_what_no_rule_cuts_stays_whole_with_its_reason_and_the_rest_is_cut_exactly(name: str) -> None:
    odd, left, said = WHOLE[name]
    net = shaken(Headed(odd()))
    seen = look(net, (6,), 4)
    assert {g.name for g in hidden(seen.model)} == left
    reasons = [*seen.whole.values(), *(g.reason for g in seen.model.groups if g.role == "frozen")]
    assert any(said in reason for reason in reasons)
    for selection in each_group(seen.model):
        assert gap(net, seen.model, selection, sample((6,))) < CLOSE


@pytest.mark.parametrize("name", REFUSED)
def test_a_net_that_cannot_be_traced_is_one_clear_line(name: str) -> None:
    made, said = REFUSED[name]
    with pytest.raises(UseError) as raised:
        trace(made(), (6,))
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_step_that_breaks_a_rule_is_told_and_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise KeyError("surprise")

    monkeypatch.setitem(tracing.LAYERS, nn.Linear, broken)
    with pytest.raises(UseError, match=r"a step of its forward is not understood \(KeyError: 'surprise'\)"):
        trace(Headed(nn.Identity()), (6,))


@pytest.mark.parametrize("name", KINDS)
def test_inspect_tells_of_every_kind(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made, shape, groups, units = KINDS[name]

    number = list(KINDS).index(name)

    def build() -> nn.Module:
        return made()

    monkeypatch.setattr(sys.modules[__name__], f"build_{number}", build, raising=False)
    factory, classes = f"{__name__}:build_{number}", "5" if name == "a U-Net" else "4"
    words = ["inspect", factory, "--input-shape", ",".join(map(str, shape)), "--classes", classes]
    assert main([*words, "--recipe", "heterofl", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert {g["name"]: g["channels"] for g in facts["groups"]} == groups
    assert [u["name"] for u in facts["units"]] == list(units)
    assert all(u["parameters"] > 0 and u["macs"] > 0 for u in facts["units"])
    assert facts["ladder"][0]["parameters"] == facts["parameters"] == sum(p.numel() for p in made().parameters())
    falling = [rung["macs"] for rung in facts["ladder"]]
    assert falling == sorted(falling, reverse=True)
    assert len(set(falling)) > 1
    assert all(part["reason"] for part in facts["whole"])
