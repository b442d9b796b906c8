"""Four families of small classifiers, as their papers describe them.

Sized for a CPU, and to stay below 500 kB as files.
VGG (Simonyan and Zisserman 2015), ResNet (He et al. 2016), MobileNetV2 (Sandler et al. 2018),
DenseNet (Huang et al. 2017). All take 32-pixel images; from 48 pixels on, the first convolution
takes every second place.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

from torch import nn

from onnx_soda._twins.networks import Dense, basic_block, convolution, inverted

__all__ = ["ARCHITECTURES", "build_network"]

_LARGE = 48


def _vgg(channels: int, stride: int, wider: int) -> tuple[list[nn.Module], int]:
    layers: list[nn.Module] = []
    width, last = channels, 64 * wider
    for outside in (24 * wider, 48 * wider, last):
        layers += [
            *convolution(width, outside, 3, stride),
            nn.ReLU(),
            nn.MaxPool2d(2, ceil_mode=True),
        ]
        width, stride = outside, 1
    layers += [*convolution(width, last), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten()]
    return [*layers, nn.Linear(last * 4, 2 * last), nn.ReLU()], 2 * last


def _resnet(channels: int, stride: int, wider: int) -> tuple[list[nn.Module], int]:
    first, *others = (width * wider for width in (24, 28, 40, 64))
    stem = [*convolution(channels, first, 3, stride), nn.ReLU()]
    blocks = [basic_block(*pair) for pair in pairwise((first, *others))]
    return [*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten()], others[-1]


def _mobilenet(channels: int, stride: int, wider: int) -> tuple[list[nn.Module], int]:
    stem = [*convolution(channels, 16 * wider, 3, stride), nn.ReLU6()]
    plan = ((16, 24, 2), (24, 24, 1), (24, 40, 2), (40, 40, 1), (40, 64, 2))
    width = 192 * wider
    # Made before the blocks: the order of making draws the first weights of a seed.
    last = [*convolution(64 * wider, width, 1), nn.ReLU6(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    blocks = [inverted(inside * wider, out * wider, step, 4) for inside, out, step in plan]
    return [*stem, *blocks, *last], width


def _densenet(channels: int, stride: int, wider: int) -> tuple[list[nn.Module], int]:
    width, growth = 24 * wider, 16 * wider
    first = nn.Conv2d(channels, width, 3, stride, 1, bias=False)
    layers: list[nn.Module] = [first, nn.MaxPool2d(2)]
    for block in range(3):
        for _ in range(3):
            layers.append(Dense(width, growth))
            width += growth
        layers += [nn.BatchNorm2d(width), nn.ReLU()]
        if block < 2:
            layers += [nn.Conv2d(width, width // 2, 1, bias=False), nn.AvgPool2d(2)]
            width //= 2
    return [*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()], width


ARCHITECTURES: dict[str, Callable[[int, int, int], tuple[list[nn.Module], int]]] = {
    "vgg": _vgg,
    "resnet": _resnet,
    "mobilenet": _mobilenet,
    "densenet": _densenet,
}


def build_network(
    architecture: str, channels: int, size: int, classes: int, wider: int = 1
) -> nn.Sequential:
    """Build an untrained classifier.

    Args:
        architecture: Key of `ARCHITECTURES`.
        channels: Of the image.
        size: Its height and width.
        classes: Number of logits.
        wider: By how much all widths are multiplied; 8 is about the width of the papers.
    """
    layers, width = ARCHITECTURES[architecture](channels, 2 if size >= _LARGE else 1, wider)
    return nn.Sequential(*layers, nn.Linear(width, classes))
