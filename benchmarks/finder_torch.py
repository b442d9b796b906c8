"""Builds classifiers of torchvision and timm and exports them, as their users would.

Frameworks are imported where they are used: none is needed to scan.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.finder_jobs import (
    BATCH,
    CLASSES,
    LEGACY_DEFAULT,
    PARAMETER_LIMIT,
    Job,
    Made,
    TooLargeError,
    framework,
)

__all__ = ["export_torch", "make_timm", "make_torchvision"]

# Small images where the architecture takes any size. AlexNet and VGG take any too, but not in the
# legacy exporter.
_SIDE = 64
_SIDES = {"alexnet": 224, "inception": 96, "maxvit": 224, "vgg": 224}
_LEGACY_OPSET = 17


def make_torchvision(job: Job, path: Path) -> Made:
    """Build and export a network of torchvision with random weights.

    Raises:
        TooLargeError: It is over the parameter limit.
        Exception: Whatever the exporter raises.
    """
    models = framework("torchvision.models")
    side = _SIDES.get(job.family, _SIDE)
    options: dict[str, Any] = {"weights": None, "num_classes": CLASSES}
    if job.family == "vision_transformer":
        side = 56 if job.name == "vit_h_14" else _SIDE
        options["image_size"] = side
    if job.family in {"googlenet", "inception"}:
        options["init_weights"] = False  # what it is asked for takes minutes
    return _make_torch(lambda: models.get_model(job.name, **options), side, job, path)


def make_timm(job: Job, path: Path) -> Made:
    """Build and export a network of timm; see `make_torchvision`."""
    timm = framework("timm")
    side = timm.get_pretrained_cfg(job.name).input_size[-1]
    return _make_torch(lambda: timm.create_model(job.name, num_classes=CLASSES), side, job, path)


def _make_torch(build: Callable[[], Any], side: int, job: Job, path: Path) -> Made:
    torch = framework("torch")
    parameters = _count_unbuilt(build)
    if parameters > PARAMETER_LIMIT:
        raise TooLargeError(f"{parameters / 1e6:.0f} M parameters")
    torch.manual_seed(0)
    network = build().eval()
    images = torch.rand(BATCH, 3, side, side)
    head = _last_layer(network)
    seen: list[Any] = []
    handle = head.register_forward_hook(lambda _layer, inputs, _output: seen.append(inputs[0]))
    with torch.no_grad():
        scores = network(images)
    handle.remove()
    export_torch(network, images, job.exporter, path)
    width = head.in_channels if hasattr(head, "in_channels") else head.in_features
    return Made(parameters, images.numpy(), width, seen[0].numpy(), scores.numpy())


def _count_unbuilt(build: Callable[[], Any]) -> int:
    """Count parameters without making them, where the architecture does not look at them."""
    try:
        with framework("torch").device("meta"):
            network = build()
    except NotImplementedError:
        network = build()
    return sum(int(parameter.numel()) for parameter in network.parameters())


def _last_layer(network: Any) -> Any:
    """Return the last linear or convolutional layer with one output per class."""
    found = [
        layer
        for layer in network.modules()
        if CLASSES in {getattr(layer, "out_features", None), getattr(layer, "out_channels", None)}
    ]
    return found[-1]


def export_torch(network: Any, images: Any, exporter: str, path: Path) -> None:
    """Export with dynamic batch by torch's new or old exporter."""
    torch = framework("torch")
    if exporter == "dynamo":
        shapes = ({0: torch.export.Dim.AUTO},)
        torch.onnx.export(
            network, (images,), str(path), dynamo=True, dynamic_shapes=shapes, verbose=False
        )
        return
    torch.onnx.export(
        network,
        (images,),
        str(path),
        dynamo=False,
        opset_version=None if exporter == LEGACY_DEFAULT else _LEGACY_OPSET,
        input_names=["image"],
        output_names=["output"],
        dynamic_axes={"image": {0: "N"}, "output": {0: "N"}},
    )
