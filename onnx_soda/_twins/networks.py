"""Four families of small classifiers, how one is trained, and its ONNX form.

They are several so that twins err in different ways. What two twins have in common then comes from
the images, and less from how they look at them. The families are those of VGG (Simonyan and
Zisserman 2015), ResNet (He et al. 2016), MobileNetV2 (Sandler et al. 2018) and DenseNet (Huang et
al. 2017). They are sized for a processor, and to stay under 500 kB as files. Input is (N, channels,
height, width), values 0 to 1. Every family normalises it by its first BatchNorm, so that faint
images are learned as well as strong ones.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from onnx_soda._data.sources import IntArray, Pixels

_OPSET, _IR_VERSION = 17, 8
# Images of a run that only measures.
_AT_ONCE = 256
# From this side on, the first convolution takes every second place: 64 pixels cost as much as 32.
_LARGE = 48

# Half of what is usual: with so few steps, more of them are worth more than smooth ones.
_BATCH = 32
_PEAK_RATE, _WEIGHT_DECAY = 4e-3, 1e-2
# An image is moved by up to this share of its side, in both directions. Nothing else is done to
# it. A mirrored image may be of another class (left turn, right turn). Light and colour stay as
# they are: what twins make of such changes is what a scan asks them.
_LARGEST_SHIFT = 1 / 14

Layers = list[nn.Module]


def build_network(
    architecture: str, channels: int, height: int, width: int, classes: int
) -> nn.Sequential:
    """Build an untrained classifier; torch's random state gives its weights.

    Args:
        architecture: Key of `ARCHITECTURES`.
        channels: Of the image.
        height: Of the image, in pixels.
        width: The same.
        classes: Number of logits, the output (N, classes).
    """
    features = nn.Sequential(
        *ARCHITECTURES[architecture](channels, 2 if max(height, width) >= _LARGE else 1)
    ).eval()
    with torch.no_grad():
        shape = features(torch.zeros(1, channels, height, width)).shape
    pool = _quarters(shape[2], shape[3]) if architecture == "vgg" else nn.AdaptiveAvgPool2d(1)
    head: Layers = [pool, nn.Flatten()]
    with torch.no_grad():
        neurons = nn.Sequential(*head)(torch.zeros(1, *shape[1:])).shape[1]
    if architecture == "vgg":
        head += [nn.Linear(neurons, 128), nn.ReLU()]
        neurons = 128
    return nn.Sequential(*features, *head, nn.Linear(neurons, classes)).train()


def _quarters(height: int, width: int) -> nn.Module:
    """Return an average over each quarter of a map; of all of it where it is one pixel high.

    Written as a plain average, since ONNX has no adaptive one.
    """
    if min(height, width) < 2:
        return nn.AdaptiveAvgPool2d(1)
    return nn.AvgPool2d((-(-height // 2), -(-width // 2)), stride=(height // 2, width // 2))


def convolution(
    inside: int, outside: int, size: int = 3, stride: int = 1, groups: int = 1
) -> Layers:
    """Return a convolution that keeps the border, and its BatchNorm."""
    layer = nn.Conv2d(inside, outside, size, stride, size // 2, groups=groups, bias=False)
    return [layer, nn.BatchNorm2d(outside)]


class Residual(nn.Module):
    """Adds a branch to its input, which is projected where the shape changes."""

    def __init__(self, branch: nn.Module, shortcut: nn.Module, after: nn.Module) -> None:
        super().__init__()
        self.branch, self.shortcut, self.after = branch, shortcut, after

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum."""
        total: Tensor = self.after(self.branch(x) + self.shortcut(x))
        return total


class Dense(nn.Module):
    """Joins its input and what a convolution makes of it."""

    def __init__(self, inside: int, growth: int) -> None:
        super().__init__()
        layer = nn.Conv2d(inside, growth, 3, padding=1, bias=False)
        self.grow = nn.Sequential(nn.BatchNorm2d(inside), nn.ReLU(), layer)

    def forward(self, x: Tensor) -> Tensor:
        """Return input and new channels."""
        return torch.cat([x, self.grow(x)], dim=1)


def _vgg(channels: int, stride: int) -> Layers:
    layers: Layers = []
    inside = channels
    for outside in (24, 48, 64):
        pool = nn.MaxPool2d(2, ceil_mode=True)
        layers += [*convolution(inside, outside, 3, stride), nn.ReLU(), pool]
        inside, stride = outside, 1
    return [*layers, *convolution(64, 64), nn.ReLU()]


def basic_block(inside: int, outside: int) -> nn.Module:
    """Return two convolutions beside a projection, half as high and wide (He et al. 2016)."""
    branch = [*convolution(inside, outside, 3, 2), nn.ReLU(), *convolution(outside, outside)]
    shortcut = nn.Sequential(*convolution(inside, outside, 1, 2))
    return Residual(nn.Sequential(*branch), shortcut, nn.ReLU())


def _resnet(channels: int, stride: int) -> Layers:
    stem = [*convolution(channels, 24, 3, stride), nn.ReLU()]
    return [*stem, basic_block(24, 28), basic_block(28, 40), basic_block(40, 64)]


def inverted(inside: int, outside: int, stride: int, wider: int) -> nn.Module:
    """Return a block that is widened, filtered channel by channel, and narrowed again.

    Sandler et al. 2018.

    Args:
        inside: Channels of its input.
        outside: Channels of its output.
        stride: Of the filter.
        wider: How many times as wide as the input it is inside; 1 leaves the widening out.
    """
    wide = wider * inside
    widen = [*convolution(inside, wide, 1), nn.ReLU6()] if wider > 1 else []
    branch = nn.Sequential(
        *widen,
        *[*convolution(wide, wide, 3, stride, groups=wide), nn.ReLU6()],
        *convolution(wide, outside, 1),
    )
    if stride == 1 and inside == outside:
        return Residual(branch, nn.Identity(), nn.Identity())
    return branch


def _mobilenet(channels: int, stride: int) -> Layers:
    stem = [*convolution(channels, 16, 3, stride), nn.ReLU6()]
    # The first block is not widened, as in the paper: at full size that is half of all time.
    plan = ((16, 24, 2, 1), (24, 24, 1, 4), (24, 40, 2, 4), (40, 40, 1, 4), (40, 64, 2, 4))
    last = [*convolution(64, 192, 1), nn.ReLU6()]
    return [*stem, *(inverted(*entry) for entry in plan), *last]


def _densenet(channels: int, stride: int) -> Layers:
    pool = nn.MaxPool2d(2, ceil_mode=True)
    layers: Layers = [*convolution(channels, 24, 3, stride), nn.ReLU(), pool]
    width, growth = 24, 16
    for block in range(3):
        for _ in range(3):
            layers.append(Dense(width, growth))
            width += growth
        layers += [nn.BatchNorm2d(width), nn.ReLU()]
        if block < 2:
            smaller = nn.AvgPool2d(2, ceil_mode=True)
            layers += [nn.Conv2d(width, width // 2, 1, bias=False), smaller]
            width //= 2
    return layers


ARCHITECTURES: Mapping[str, Callable[[int, int], Layers]] = {
    "vgg": _vgg,
    "resnet": _resnet,
    "mobilenet": _mobilenet,
    "densenet": _densenet,
}
"""By name: what makes the layers up to the last map, of the channels and the first stride."""


def as_input(images: Pixels) -> torch.Tensor:
    """Return images as a twin takes them: (n, channels, height, width), 0 to 1."""
    planes = np.ascontiguousarray(images, np.float32).transpose(0, 3, 1, 2) / 255
    return torch.from_numpy(planes).contiguous(memory_format=torch.channels_last)


def logits_of(network: nn.Sequential, images: Pixels) -> NDArray[np.float32]:
    """Return what a network says to images, shape (n, classes)."""
    parts = (images[start : start + _AT_ONCE] for start in range(0, len(images), _AT_ONCE))
    with torch.no_grad():
        logits: NDArray[np.float32] = torch.cat([network(as_input(part)) for part in parts]).numpy()
    return logits


def export(network: nn.Sequential, images: Pixels) -> onnx.ModelProto:
    """Return a network as ONNX: `images` (N, channels, height, width) to `logits` (N, classes).

    BatchNorm goes into the convolutions before it. Nothing in it tells the machine or the time.

    Args:
        network: In evaluation mode.
        images: Some, as the clean set has them.
    """
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns that it is the older exporter
        path = Path(folder) / "twin.onnx"
        torch.onnx.export(
            network.to(memory_format=torch.contiguous_format),
            (as_input(images[:1]).contiguous(),),
            path,
            input_names=["images"],
            output_names=["logits"],
            dynamic_axes={"images": {0: "N"}, "logits": {0: "N"}},
            opset_version=_OPSET,
            dynamo=False,
        )
        proto = onnx.load(path)
    proto.ir_version = _IR_VERSION
    for owner in (proto, proto.graph, *proto.graph.node):
        owner.ClearField("doc_string")
    return proto


def train_network(
    architecture: str,
    images: Pixels,
    labels: IntArray,
    classes: int,
    epochs: int,
    seed: int,
    advance: Callable[[int, int], None],
) -> nn.Sequential:
    """Train a twin from scratch; torch's random state is left as it was.

    One-cycle AdamW (Smith and Topin 2019; Loshchilov and Hutter 2019). The same arguments give the
    same weights on the same machine with as many threads.

    Args:
        architecture: Key of `ARCHITECTURES`.
        images: To train on.
        labels: (n,) their classes.
        classes: Number of classes.
        epochs: Passes over the images.
        seed: For the first weights, the order and the shifts.
        advance: Called with the number of steps done and the number in all.

    Returns:
        The network, in evaluation mode. It takes (N, channels, height, width) from 0 to 1.
    """
    _, height, width, channels = images.shape
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build_network(architecture, channels, height, width, classes)
    network = network.to(memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(network.parameters(), weight_decay=_WEIGHT_DECAY)
    steps = epochs * _batch_count(len(labels))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, _PEAK_RATE, total_steps=steps)
    rng = np.random.default_rng(seed)
    for done, chosen in enumerate(_batches(len(labels), epochs, rng), 1):
        shown = as_input(shifted(images[chosen], rng))
        loss = cross_entropy(network(shown), torch.from_numpy(labels[chosen]))
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()
        schedule.step()
        advance(done, steps)
    return network.eval()


def _batch_count(images: int) -> int:
    return max(round(images / _BATCH), 1)


def _batches(images: int, epochs: int, rng: np.random.Generator) -> Iterator[IntArray]:
    """Yield positions, all of them once in each epoch, in batches of nearly one size."""
    for _ in range(epochs):
        yield from np.array_split(rng.permutation(images), _batch_count(images))


def shifted(images: Pixels, rng: np.random.Generator) -> Pixels:
    """Move each image a little, down or up and right or left; its border is continued.

    Args:
        images: (n, height, width, channels).
        rng: Draws how far.
    """
    count, height, width = images.shape[:3]
    down, right = (max(round(_LARGEST_SHIFT * side), 1) for side in (height, width))
    padded = np.pad(images, ((0, 0), (down, down), (right, right), (0, 0)), mode="edge")
    # (n, 2 down + 1, 2 right + 1, channels, height, width): every place an image can move to.
    places = sliding_window_view(padded, (height, width), axis=(1, 2))
    rows, columns = rng.integers(0, 2 * down + 1, count), rng.integers(0, 2 * right + 1, count)
    moved: Pixels = places[np.arange(count), rows, columns].transpose(0, 2, 3, 1)
    return moved
