"""How well a scan keeps to the time that it aims at: planned against real passes and seconds.

    python -m benchmarks.planned [--network resnet18 ...] [--classes N ...] [--time SECONDS ...]
                                 [--threads N] [--images N]

Networks of torchvision with random weights. The last layer is set so that they know classes of
drawn patterns: its weights are what the network makes of each pattern. What else they answer means
nothing; what is measured is time and memory. Planned is what the scan says before it searches, real
is what it took when it had ended. Each scan is a command of its own, on JPEG files of 224 x 224
pixels in class folders. Networks and images are kept in build/planned.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
import torchvision
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from benchmarks.common import PLANNED, machine_facts, markdown_table
from benchmarks.whole_scan import SCAN_COLUMNS, WholeScan, run_scan
from fixtures.export import write_onnx

_NETWORKS = ("mobilenet_v3_small", "resnet18", "resnet50")
_SIDE = 224
# A pattern has so many places in a row, each of its own colour; images of it differ by noise.
_PLACES, _NOISE = 7, 0.05
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_AT_ONCE = 50
# How much more likely the nearest class is made: logits of a trained network are this far apart.
_SPREAD = 20.0
_COLUMNS = ("network", "classes", "aim, s", *SCAN_COLUMNS, "accuracy", "verdict")


def _patterns(classes: int) -> NDArray[np.float32]:
    """Draw the pattern of each class, shape (classes, 224, 224, 3), from 0 to 1."""
    places = np.random.default_rng(0).random((classes, _PLACES, _PLACES, 3), np.float32)
    size = _SIDE // _PLACES
    return places.repeat(size, axis=1).repeat(size, axis=2)


def write_images(classes: int, each: int) -> Path:
    """Write so many noisy images of each pattern, as JPEG files in class folders."""
    folder = PLANNED / f"images-{classes}-{each}"
    if (folder / f"{classes - 1:04d}" / f"{each - 1}.jpg").is_file():
        return folder
    rng = np.random.default_rng(1)
    for label, pattern in enumerate(_patterns(classes)):
        own = folder / f"{label:04d}"
        own.mkdir(parents=True, exist_ok=True)
        for number in range(each):
            noisy = pattern + _NOISE * rng.standard_normal(pattern.shape, np.float32)
            pixels = (255 * noisy.clip(0, 1)).astype(np.uint8)
            Image.fromarray(pixels).save(own / f"{number}.jpg", quality=90)
    return folder


def _last_layer(network: nn.Module) -> nn.Linear:
    return [one for one in network.modules() if isinstance(one, nn.Linear)][-1]


def _teach(network: nn.Module, patterns: NDArray[np.float32]) -> None:
    """Set the last layer so that the nearest pattern's class is answered."""
    last, seen = _last_layer(network), list[torch.Tensor]()
    hook = last.register_forward_hook(lambda _, given, __: seen.append(given[0]))
    mean, std = (torch.tensor(numbers)[:, None, None] for numbers in (_MEAN, _STD))
    with torch.no_grad():
        for first in range(0, len(patterns), _AT_ONCE):
            pixels = torch.from_numpy(patterns[first : first + _AT_ONCE]).permute(0, 3, 1, 2)
            network((pixels - mean) / std)
        hook.remove()
        features = torch.cat(seen)
        middle = features.mean(0)
        own = features - middle
        scale = _SPREAD / own.square().sum(1).mean()
        last.weight.copy_(scale * own)
        last.bias.copy_(scale * (-own @ middle - own.square().sum(1) / 2))


def write_network(name: str, classes: int) -> Path:
    """Write a network of torchvision that knows the patterns, if it is not there; return it."""
    path = PLANNED / f"{name}-{classes}.onnx"
    if path.is_file():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    network = torchvision.models.get_model(name, weights=None, num_classes=classes).eval()
    _teach(network, _patterns(classes))
    write_onnx(network, path, torch.randn(2, 3, _SIDE, _SIDE))
    return path


def _scan(model: Path, images: Path, aim: float, threads: int) -> WholeScan:
    return run_scan(
        model, images, "--preprocess", "imagenet", "--min-accuracy", "0",
        "--time", f"{aim:.0f}s", "--threads", str(threads),
    )  # fmt: skip


def _row(name: str, classes: int, aim: float, scan: WholeScan) -> list[object]:
    # Where the time was over before all clean images were read, no accuracy is known.
    data = scan.report["dataset"]
    accuracy = f"{data['accuracy']:.2f}" if data else "-"
    return [name, classes, f"{aim:.0f}", *scan.cells(), accuracy, scan.report["verdict"]]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--network", nargs="+", default=_NETWORKS)
    parser.add_argument("--classes", nargs="+", type=int, default=[10])
    parser.add_argument("--time", nargs="+", type=float, default=[120.0, 240.0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--images", type=int, default=6, help="of each class")
    arguments = parser.parse_args()
    print(f"# Planned and real time\n\n{machine_facts()}\n- threads: {arguments.threads}")
    print(f"- images of each class: {arguments.images}\n", flush=True)
    rows = []
    for classes in arguments.classes:
        images = write_images(classes, arguments.images)
        for name in arguments.network:
            model = write_network(name, classes)
            for aim in arguments.time:
                scan = _scan(model, images, aim, arguments.threads)
                rows.append(_row(name, classes, aim, scan))
                print(markdown_table(_COLUMNS, rows[-1:]) + "\n", flush=True)
                print("\n".join((scan.told.strip(), *scan.report["reasons"], "")), flush=True)
    print(markdown_table(_COLUMNS, rows))


if __name__ == "__main__":
    main()
