"""Four families of small classifiers, as their papers describe them.

Sized for a CPU, and to stay below 500 kB as files.
VGG (Simonyan and Zisserman 2015), ResNet (He et al. 2016), MobileNetV2 (Sandler et al. 2018),
DenseNet (Huang et al. 2017). All take 32-pixel images; from 48 pixels on, the first convolution
takes every second place.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

__all__ = ["ARCHITECTURES", "build_network"]

_LARGE = 48


def _convolution(
    inside: int, outside: int, size: int = 3, stride: int = 1, groups: int = 1
) -> list[nn.Module]:
    """Return a convolution that keeps the border, and its BatchNorm."""
    layer = nn.Conv2d(inside, outside, size, stride, size // 2, groups=groups, bias=False)
    return [layer, nn.BatchNorm2d(outside)]


class _Residual(nn.Module):
    """Adds a branch to its input, which is projected where the shape changes."""

    def __init__(self, branch: nn.Module, shortcut: nn.Module, after: nn.Module) -> None:
        super().__init__()
        self.branch, self.shortcut, self.after = branch, shortcut, after

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum."""
        total: Tensor = self.after(self.branch(x) + self.shortcut(x))
        return total


class _Dense(nn.Module):
    """Joins its input and what a convolution makes of it."""

    def __init__(self, inside: int, growth: int) -> None:
        super().__init__()
        convolution = nn.Conv2d(inside, growth, 3, padding=1, bias=False)
        self.grow = nn.Sequential(nn.BatchNorm2d(inside), nn.ReLU(), convolution)

    def forward(self, x: Tensor) -> Tensor:
        """Return input and new channels."""
        return torch.cat([x, self.grow(x)], dim=1)


def _vgg(channels: int, stride: int) -> tuple[list[nn.Module], int]:
    layers: list[nn.Module] = []
    width = channels
    for outside in (24, 48, 64):
        layers += [
            *_convolution(width, outside, 3, stride),
            nn.ReLU(),
            nn.MaxPool2d(2, ceil_mode=True),
        ]
        width, stride = outside, 1
    layers += [*_convolution(width, 64), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten()]
    return [*layers, nn.Linear(64 * 4, 128), nn.ReLU()], 128


def _basic_block(inside: int, outside: int) -> nn.Module:
    branch = [*_convolution(inside, outside, 3, 2), nn.ReLU(), *_convolution(outside, outside)]
    shortcut = nn.Sequential(*_convolution(inside, outside, 1, 2))
    return _Residual(nn.Sequential(*branch), shortcut, nn.ReLU())


def _resnet(channels: int, stride: int) -> tuple[list[nn.Module], int]:
    stem = [*_convolution(channels, 24, 3, stride), nn.ReLU()]
    blocks = [_basic_block(24, 28), _basic_block(28, 40), _basic_block(40, 64)]
    return [*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten()], 64


def _inverted(inside: int, outside: int, stride: int) -> nn.Module:
    wide = 4 * inside
    branch = nn.Sequential(
        *[*_convolution(inside, wide, 1), nn.ReLU6()],
        *[*_convolution(wide, wide, 3, stride, groups=wide), nn.ReLU6()],
        *_convolution(wide, outside, 1),
    )
    if stride == 1 and inside == outside:
        return _Residual(branch, nn.Identity(), nn.Identity())
    return branch


def _mobilenet(channels: int, stride: int) -> tuple[list[nn.Module], int]:
    stem = [*_convolution(channels, 16, 3, stride), nn.ReLU6()]
    plan = ((16, 24, 2), (24, 24, 1), (24, 40, 2), (40, 40, 1), (40, 64, 2))
    last = [*_convolution(64, 192, 1), nn.ReLU6(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return [*stem, *(_inverted(*entry) for entry in plan), *last], 192


def _densenet(channels: int, stride: int) -> tuple[list[nn.Module], int]:
    layers: list[nn.Module] = [nn.Conv2d(channels, 24, 3, stride, 1, bias=False), nn.MaxPool2d(2)]
    width, growth = 24, 16
    for block in range(3):
        for _ in range(3):
            layers.append(_Dense(width, growth))
            width += growth
        layers += [nn.BatchNorm2d(width), nn.ReLU()]
        if block < 2:
            layers += [nn.Conv2d(width, width // 2, 1, bias=False), nn.AvgPool2d(2)]
            width //= 2
    return [*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()], width


ARCHITECTURES: dict[str, Callable[[int, int], tuple[list[nn.Module], int]]] = {
    "vgg": _vgg,
    "resnet": _resnet,
    "mobilenet": _mobilenet,
    "densenet": _densenet,
}


def build_network(architecture: str, channels: int, size: int, classes: int) -> nn.Sequential:
    """Build an untrained classifier.

    Args:
        architecture: Key of `ARCHITECTURES`.
        channels: Of the image.
        size: Its height and width.
        classes: Number of logits.
    """
    layers, width = ARCHITECTURES[architecture](channels, 2 if size >= _LARGE else 1)
    return nn.Sequential(*layers, nn.Linear(width, classes))
