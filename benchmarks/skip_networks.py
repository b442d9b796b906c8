"""Small networks with a skip from an early layer to a late one, trained in seconds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - its usual name

from fixtures.export import write_onnx

__all__ = ["SKIPS", "train_skip"]

SKIPS = ("fpn", "unet", "dense", "wide_and_deep", "multi_level")
"""Ways in which early layers are joined to the last one."""
_ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU, "relu6": nn.ReLU6, "hard_swish": nn.Hardswish, "silu": nn.SiLU,
}  # fmt: skip
_WIDTHS = (8, 32, 64, 64)
_EPOCHS, _BATCH, _RATE = 25, 32, 3e-3
_CLASSES = 10


class _SkipNetwork(nn.Module):
    """Four convolutions, each on half the size, whose maps are joined in one of `SKIPS`."""

    def __init__(self, skip: str, kind: str) -> None:
        super().__init__()
        self.skip, act = skip, _ACTIVATIONS[kind]
        ins = (3, *_WIDTHS)
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Conv2d(ins[at], width, 3, 2, 1), nn.BatchNorm2d(width), act())
            for at, width in enumerate(_WIDTHS)
        )
        self.sides = nn.ModuleList(nn.Conv2d(width, 32, 1) for width in _WIDTHS)
        self.mixed = nn.Sequential(nn.Conv2d(sum(_WIDTHS), 32, 1), act())
        self.up = nn.Sequential(nn.Conv2d(_WIDTHS[1] + _WIDTHS[3], 32, 3, 1, 1), act())
        self.wide = nn.Sequential(nn.Linear(3, 8), act(), nn.Linear(8, _CLASSES))
        joined = {"fpn": 32, "unet": 32 + _WIDTHS[0], "dense": 32, "multi_level": sum(_WIDTHS)}
        self.head = nn.Linear(joined.get(skip, _WIDTHS[-1]), _CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        maps = []
        last = x
        for layer in self.layers:
            last = layer(last)
            maps.append(last)
        if self.skip == "wide_and_deep":
            both: Tensor = self.head(last.mean((2, 3))) + self.wide(x.mean((2, 3)))
            return both
        scores: Tensor = self.head(self._joined(maps))
        return scores

    def _joined(self, maps: list[Tensor]) -> Tensor:
        if self.skip == "multi_level":
            return torch.cat([one.mean((2, 3)) for one in maps], 1)
        if self.skip == "dense":
            small = [F.adaptive_avg_pool2d(one, 2) for one in maps]
            mixed: Tensor = self.mixed(torch.cat(small, 1))
            return mixed.mean((2, 3))
        if self.skip == "unet":
            deep = self.up(torch.cat([maps[1], F.interpolate(maps[3], scale_factor=4.0)], 1))
            joined = torch.cat([maps[0], F.interpolate(deep, scale_factor=2.0)], 1)
            return joined.mean((2, 3))
        sides = [side(one) for side, one in zip(self.sides, maps, strict=True)]
        top: Tensor = sides[-1]
        for side in sides[-2::-1]:
            top = side + F.interpolate(top, scale_factor=2.0)
        return top.mean((2, 3))


def train_skip(
    path: Path, skip: str, kind: str, images: NDArray[np.float32], labels: NDArray[np.int64]
) -> float:
    """Train a network on four fifths of the images and save it.

    Args:
        path: Where to.
        skip: One of `SKIPS`.
        kind: Activation function, as in `fixtures.gates`.
        images: Shape (images, 3, height, width), from 0 to 1.
        labels: Shape (images,).

    Returns:
        Share of the other fifth that it gives its class.
    """
    torch.manual_seed(0)
    torch.set_num_threads(1)
    network = _SkipNetwork(skip, kind)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    pixels, truth = torch.from_numpy(images)[order], torch.from_numpy(labels)[order]
    kept = len(images) // 5
    optimiser = torch.optim.Adam(network.parameters(), lr=_RATE)
    for _ in range(_EPOCHS):
        shuffled = torch.randperm(len(images) - kept) + kept
        for rows in torch.split(shuffled, _BATCH):
            optimiser.zero_grad()
            torch.autograd.backward(F.cross_entropy(network(pixels[rows]), truth[rows]))
            optimiser.step()
    network.eval()
    write_onnx(network, path, pixels[:8])
    with torch.no_grad():
        return float((network(pixels[:kept]).argmax(1) == truth[:kept]).float().mean())
