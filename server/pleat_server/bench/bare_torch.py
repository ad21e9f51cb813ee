"""The yardstick: what a person would write to train this CNN on a device, with torch alone and SGD by hand.

    python -m pleat_server.bench.bare_torch SHARD.npz EPOCHS

It imports nothing of pleat; the Flower client of the same benchmark trains with these functions too.
"""

from __future__ import annotations

import sys

import numpy as np
import torch
from torch import nn
from torch.nn import functional

CLASSES, SIDE = 62, 28
BATCH, RATE, MOMENTUM = 32, 0.05, 0.9


def caldas() -> nn.Sequential:
    """5x5 conv 32, pool, 5x5 conv 64, pool, 512 units: 1.69 M parameters."""
    return nn.Sequential(
        nn.Conv2d(1, 32, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(64 * (SIDE // 4) ** 2, 512),
        nn.ReLU(),
        nn.Linear(512, CLASSES),
    )


def read(path: str) -> tuple[torch.Tensor, torch.Tensor]:
    with np.load(path) as shard:
        return torch.from_numpy(shard["x"].astype(np.float32)), torch.from_numpy(shard["y"].astype(np.int64))


def train(net: nn.Module, x: torch.Tensor, y: torch.Tensor, epochs: int) -> float:
    """SGD with momentum, shuffled batches; the last batch's loss."""
    parameters = list(net.parameters())
    velocity = [torch.zeros_like(p) for p in parameters]
    last = float("nan")
    for _ in range(epochs):
        for chosen in torch.split(torch.randperm(len(x)), BATCH):
            loss = functional.cross_entropy(net(x[chosen]), y[chosen])
            net.zero_grad(set_to_none=False)
            loss.backward()  # type: ignore[no-untyped-call]
            with torch.no_grad():
                for p, v in zip(parameters, velocity, strict=True):
                    if p.grad is not None:
                        v.mul_(MOMENTUM).add_(p.grad)
                        p.sub_(v, alpha=RATE)
            last = loss.item()
    return last


def main() -> None:
    x, y = read(sys.argv[1])
    print(train(caldas(), x, y, int(sys.argv[2])))


if __name__ == "__main__":
    main()
