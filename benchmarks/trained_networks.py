"""Small networks with skips and gates, trained in seconds on drawn digits.

A skip joins an early layer to the last one. A gate decides by the image what is computed.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - its usual name

from fixtures.digits import DATA_SEED, split_digits
from fixtures.export import write_onnx
from fixtures.render import enlarge, render

__all__ = ["GATES", "SKIPS", "Drawn", "draw_digits", "train_network"]

SKIPS = ("fpn", "unet", "dense", "wide_and_deep", "multi_level")
"""Ways in which early layers are joined to the last one."""
GATES = (
    "skipped_block", "early_exit", "experts", "channels_kept", "scaled_pixels", "none_of_them",
)  # fmt: skip
"""Ways in which the image decides what is computed."""
_ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU, "relu6": nn.ReLU6, "hard_swish": nn.Hardswish, "silu": nn.SiLU,
}  # fmt: skip
_WIDTHS = (8, 32, 64, 64)
_CLASSES = 10
# Enough for 90 % of the held-out digits. 576 images gave 53 to 75 % after 25 epochs.
_IMAGES_PER_CLASS = 600
_EPOCHS, _BATCH, _RATE, _DECAY = 5, 64, 1e-2, 1e-4
# How sure an early exit and "none of them" have to be.
_EXIT_SURE, _SURE = 0.9, 0.5
_EXPERTS, _KEPT = 3, 32


class Drawn(NamedTuple):
    """Images in 0 to 1, shape (images, 3, 32, 32), and their classes."""

    images: NDArray[np.float32]
    labels: NDArray[np.int64]


def draw_digits() -> Drawn:
    """Draw images to train on, as for the bundled models, of digits not in the clean set."""
    rng, source = np.random.default_rng(DATA_SEED), load_digits()
    split = split_digits(rng, source.target)
    chosen = [np.resize(digits, _IMAGES_PER_CLASS) for digits in split.train]
    images = render(rng, enlarge(source.images), np.concatenate(chosen))
    labels = np.arange(_CLASSES).repeat(_IMAGES_PER_CLASS)
    return Drawn((images.transpose(0, 3, 1, 2) / 255).astype(np.float32), labels)


def _convolutions(kind: str) -> nn.ModuleList:
    """Return four convolutions, each on half the size."""
    ins = (3, *_WIDTHS)
    return nn.ModuleList(
        nn.Sequential(
            nn.Conv2d(ins[at], width, 3, 2, 1), nn.BatchNorm2d(width), _ACTIVATIONS[kind]()
        )
        for at, width in enumerate(_WIDTHS)
    )


def _maps(layers: nn.ModuleList, last: Tensor) -> list[Tensor]:
    maps = []
    for layer in layers:
        last = layer(last)
        maps.append(last)
    return maps


class _SkipNetwork(nn.Module):
    """Four convolutions whose maps are joined in one of `SKIPS`."""

    def __init__(self, skip: str, kind: str) -> None:
        super().__init__()
        self.skip, act = skip, _ACTIVATIONS[kind]
        self.layers = _convolutions(kind)
        self.sides = nn.ModuleList(nn.Conv2d(width, 32, 1) for width in _WIDTHS)
        self.mixed = nn.Sequential(nn.Conv2d(sum(_WIDTHS), 32, 1), act())
        self.up = nn.Sequential(nn.Conv2d(_WIDTHS[1] + _WIDTHS[3], 32, 3, 1, 1), act())
        self.wide = nn.Sequential(nn.Linear(3, 8), act(), nn.Linear(8, _CLASSES))
        joined = {"fpn": 32, "unet": 32 + _WIDTHS[0], "dense": 32, "multi_level": sum(_WIDTHS)}
        self.head = nn.Linear(joined.get(skip, _WIDTHS[-1]), _CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        maps = _maps(self.layers, x)
        if self.skip == "wide_and_deep":
            both: Tensor = self.head(maps[-1].mean((2, 3))) + self.wide(x.mean((2, 3)))
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


class _GatedNetwork(nn.Module):
    """Four convolutions, of which one of `GATES` decides what becomes of them."""

    def __init__(self, gate: str, kind: str) -> None:
        super().__init__()
        self.gate = gate
        self.layers = _convolutions(kind)
        wide = _WIDTHS[-1]
        self.asked = nn.Linear(wide, 1)
        self.early = nn.Linear(_WIDTHS[1], _CLASSES)
        self.router = nn.Linear(wide, _EXPERTS)
        self.experts = nn.ModuleList(nn.Linear(wide, _CLASSES) for _ in range(_EXPERTS))
        self.head = nn.Linear(wide, _CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        if self.gate == "scaled_pixels":
            x = torch.where(x.amax((1, 2, 3), keepdim=True) > 1.5, x / 255, x)
        maps = _maps(self.layers[:3], x)
        last: Tensor = self.layers[3](maps[2])
        if self.gate == "skipped_block":
            run = self._decided(self.asked(maps[2].mean((2, 3))))
            last = F.avg_pool2d(maps[2], 2) + run[:, :, None, None] * last
        features = last.mean((2, 3))
        if self.gate == "channels_kept":
            least = features.topk(_KEPT).values[:, -1:]
            features = features * (features >= least).float()
        if self.gate == "experts":
            return self._by_expert(features)
        scores: Tensor = self.head(features)
        return self._ended(scores, maps[1])

    def _decided(self, score: Tensor) -> Tensor:
        """Return 1 where a score is positive, else 0; with a sigmoid's slope to learn by."""
        hard, soft = (score > 0).float(), score.sigmoid()
        return hard + soft - soft.detach() if self.training else hard

    def _by_expert(self, features: Tensor) -> Tensor:
        """Return the scores of the expert that the features choose; all of them learn."""
        chances = self.router(features).softmax(1)
        chosen = F.one_hot(chances.argmax(1), _EXPERTS).float()
        shares = chosen + chances - chances.detach() if self.training else chosen
        answers = [expert(features) for expert in self.experts]
        return sum(
            (shares[:, at : at + 1] * answer for at, answer in enumerate(answers)),
            start=torch.zeros(()),
        )

    def _ended(self, scores: Tensor, early_map: Tensor) -> Tensor:
        """Return the scores, or what they are where the network is sure, or is not."""
        if self.gate == "early_exit":
            early: Tensor = self.early(early_map.mean((2, 3)))
            if self.training:
                return torch.cat([scores, early])
            return torch.where(early.softmax(1).amax(1, keepdim=True) > _EXIT_SURE, early, scores)
        if self.gate == "none_of_them" and not self.training:
            unsure = scores.softmax(1).amax(1, keepdim=True) < _SURE
            return torch.cat([scores, 50 * unsure.float()], 1)
        return scores


def train_network(path: Path, name: str, kind: str, drawn: Drawn) -> None:
    """Train a network and save it.

    Args:
        path: Where to.
        name: One of `SKIPS` or `GATES`.
        kind: Activation function, as in `fixtures.gates`.
        drawn: Images to train on.
    """
    torch.manual_seed(0)
    torch.set_num_threads(1)
    network = (_SkipNetwork if name in SKIPS else _GatedNetwork)(name, kind)
    pixels, truth = torch.from_numpy(drawn.images), torch.from_numpy(drawn.labels)
    optimiser = torch.optim.Adam(network.parameters(), weight_decay=_DECAY)
    steps = _EPOCHS * -(-len(pixels) // _BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, _RATE, total_steps=steps)
    for _ in range(_EPOCHS):
        for rows in torch.split(torch.randperm(len(pixels)), _BATCH):
            optimiser.zero_grad()
            answers = network(pixels[rows])
            # An early exit answers, too, in as many rows again.
            wanted = truth[rows].repeat(len(answers) // len(rows))
            torch.autograd.backward(F.cross_entropy(answers, wanted))
            optimiser.step()
            schedule.step()
    network.eval()
    write_onnx(network, path, pixels[:8])
