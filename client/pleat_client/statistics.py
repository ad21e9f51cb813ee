"""Running statistics of a submodel's batch norms on this device's data, asked for by name. Torch.

A norm that was trained on the statistics of batches is scored by running ones. Averages of what devices happened to
pass through while they trained are those of no model; these are the given model's own: a forward pass over the shard,
nothing else changed, and the plain mean over batches of their means and variances.
"""

from __future__ import annotations

import torch
from torch import nn

from pleat.elastic.selection import Selection
from pleat.errors import Refused
from pleat.exchange.order import NetSpec
from pleat.modelmap import ModelMap
from pleat.nets.build import build
from pleat.nets.shrink import load, read, shrink
from pleat.params import Params
from pleat.shard import Shard
from pleat_client.batches import in_order


def running_statistics(
    net: NetSpec,
    model: ModelMap,
    selection: Selection,
    params: Params,
    shard: Shard,
    batch: int,
    device: str = "cpu",
) -> Params:
    """The submodel's buffers after a pass over `shard` in batches of `batch`; those of other layers as they came.

    Raises Refused where a batch norm can make nothing of the data: of a single sample.
    """
    if len(shard) < 2:
        raise Refused("statistics of batch norms need at least 2 samples, this device has 1")
    module = shrink(build(net.factory, net.arguments), model, selection).to(device).eval()
    load(module, params)
    for layer in module.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm) and layer.track_running_stats:
            layer.reset_running_stats()
            layer.momentum = None  # the mean over all batches so far
            layer.train()
    with torch.no_grad():
        for index in in_order(len(shard), batch):
            module(torch.from_numpy(shard.x[index]).to(device))
    return {n: a for n, a in read(module).items() if model.tensor[n].role == "buffer"}
