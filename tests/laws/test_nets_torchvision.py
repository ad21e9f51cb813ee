"""The law of cutting on torchvision's nets, unmodified, on small images. Skipped where torchvision is not installed."""

from __future__ import annotations

import pytest
import torch

from pleat.elastic.selection import WHOLE, make
from pleat.elastic.size import macs
from pleat.errors import UseError
from pleat.nets.build import build, classes_of, spec
from pleat.nets.shrink import shrink
from pleat.nets.trace import model_map, trace
from support.cutting import CLOSE, each_group, gap, hidden, output, sample, shaken
from support.vision import models

torch.set_num_threads(1)

NETS = {  # name -> groups that may be cut, units, share of MACs left with every group halved
    "resnet18": (12, 5, 0.27),
    "mobilenet_v3_small": (27, 6, 0.29),
    "efficientnet_b0": (40, 9, 0.29),
    "densenet121": (120, 0, 0.27),
    "vgg11_bn": (10, 0, 0.27),
    "vit_b_16": (24, 12, 0.51),
    "shufflenet_v2_x1_0": (19, 0, 0.53),
    "regnet_y_400mf": (37, 16, 0.29),
    "squeezenet1_1": (25, 0, 0.29),
}


@pytest.mark.parametrize("name", NETS)
def test_every_group_is_found_and_cutting_each_is_zeroing_it(name: str) -> None:
    models()
    groups, units, share = NETS[name]
    net = spec(f"torchvision.models:{name}", (3, 32, 32), 7)
    model = model_map(net)
    assert (len(hidden(model)), len(model.units), classes_of(net)) == (groups, units, 7)
    half = make(model, {g.name: range(g.size // g.step // 2 * g.step or g.step) for g in hidden(model)})
    assert macs(model, half) < share * macs(model, WHOLE)
    module, x = shaken(build(net.factory, net.arguments)), sample((3, 32, 32))[:2]
    scale = max(1.0, float(output(module, x).abs().max()))
    each = each_group(model)

    for selection in [*each, half]:
        assert gap(module, model, selection, x) < CLOSE * scale, selection.kept
    assert macs(trace(shrink(module, model, half), (3, 32, 32)), WHOLE) == macs(model, half)


def test_what_a_transformer_cannot_lose_is_named_with_the_reason() -> None:
    models()
    frozen = [g for g in model_map(spec("torchvision.models:vit_b_16", (3, 32, 32), 7)).groups if g.role == "frozen"]
    assert {g.name: g.reason for g in frozen}["conv_proj"] == "reshape (step reshape) has its length 768 written in it"


def test_other_sizes_of_images_and_channels_are_told_where_they_do_not_fit() -> None:
    models()
    assert model_map(spec("torchvision.models:resnet18", (3, 40, 24), 2)).tensor["fc.weight"].shape == (2, 512)
    with pytest.raises(UseError, match="does not fit the input: at module 'conv1'"):
        spec("torchvision.models:resnet18", (1, 32, 32), 10)
