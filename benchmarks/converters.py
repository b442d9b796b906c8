"""Converts the architectures of torchvision (`.pt2`) and keras.applications (`.keras`).

    python -m benchmarks.converters [--seconds 600] [--only torchvision|keras] [--names NAME ...]

Weights are random, so what is measured is whether the route works and computes the same, not
accuracy. Keras's networks first see one batch of random images, from which their normalisation
layers take mean and variance: without them the signal of a deep untrained network dies out or
overflows, and any two computations of it would agree, or none. Small networks come first; what
there is no time for is counted at the end. One process without the child's limits, so that PyTorch
is imported once.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import onnx

from onnx_soda._answers import Conversion
from onnx_soda._api import convert_file
from onnx_soda._errors import SodaError
from onnx_soda._model.anatomy import dissect
from onnx_soda._model.load import load_model

Maker = Callable[[Path], None]

_CLASSES = 10
# Most networks end with pooling and take any size; these want their own.
_SMALL_SIZE, _KERAS_SIZE = 64, 96
_SETTLING = 8
_OWN_SIZE = {"inception": 299, "googlenet": 224, "vit": 224, "swin": 224, "maxvit": 224}


def main() -> None:
    arguments = _arguments()
    os.environ["KERAS_BACKEND"] = "torch"
    warnings.simplefilter("ignore")
    for library, makers in (("torchvision", _torchvision), ("keras", _keras)):
        if arguments.only in (None, library):
            _table(library, makers(), arguments.seconds, arguments.names)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=3600, help="for each library")
    parser.add_argument("--only", choices=("torchvision", "keras"))
    parser.add_argument("--names", nargs="*", default=[])
    return parser.parse_args()


def _table(library: str, makers: dict[str, Maker], seconds: float, names: list[str]) -> None:
    chosen = {name: make for name, make in makers.items() if not names or name in names}
    end = time.monotonic() + seconds
    agreed = tried = 0
    print("| architecture | seconds | nodes | difference | batch | logits and layer |")
    print("|---|---|---|---|---|---|", flush=True)
    for name, make in chosen.items():
        if time.monotonic() > end:
            break
        tried += 1
        row, good = _row(make, ".pt2" if library == "torchvision" else ".keras")
        agreed += good
        print(f"| {name} | {row} |", flush=True)
    print(f"\n{library}: {agreed} of {tried} tried, of {len(makers)} in all\n", flush=True)


def _row(make: Maker, ending: str) -> tuple[str, bool]:
    with tempfile.TemporaryDirectory() as folder:
        source, out = Path(folder) / f"model{ending}", Path(folder) / "model.onnx"
        try:
            make(source)
        except Exception as error:  # noqa: BLE001 - the library's own failure is a row too
            return f"not made: {_short(error)} | | | | ", False
        begin = time.monotonic()
        try:
            made = convert_file(source, out, limits=None)
        except SodaError as error:
            return f"FAILED: {_short(error)} | | | | ", False
        return _facts(made, out, time.monotonic() - begin), True


def _facts(made: Conversion, out: Path, seconds: float) -> str:
    nodes = len(onnx.load(out).graph.node)
    try:
        anatomy = dissect(load_model(out))
        found = f"{anatomy.logits.classes} classes, {anatomy.layer.neurons} neurons"
    except SodaError as error:
        found = _short(error)
    batch = "any" if made.free_batch else str(made.input_shape[0])
    return f"{seconds:.0f} | {nodes} | {made.difference:.0e} | {batch} | {found}"


def _short(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:160].replace("|", "/")


def _torchvision() -> dict[str, Maker]:
    from torchvision import models

    def size(name: str) -> int:
        weights = list(models.get_model_weights(name))
        return int(min(one.meta["num_params"] for one in weights))

    names = sorted(models.list_models(module=models), key=size)
    return {name: _program(name) for name in names}


def _program(name: str) -> Maker:
    def make(path: Path) -> None:
        import torch
        from torchvision import models

        extra = {}
        if name in ("inception_v3", "googlenet"):
            extra = {"init_weights": False, "aux_logits": False}
        torch.manual_seed(0)
        module = models.get_model(name, weights=None, num_classes=_CLASSES, **extra).eval()
        pixels = next(
            (own for start, own in _OWN_SIZE.items() if name.startswith(start)), _SMALL_SIZE
        )
        image = torch.rand(2, 3, pixels, pixels)
        shapes = ({0: torch.export.Dim.DYNAMIC},)
        torch.export.save(torch.export.export(module, (image,), dynamic_shapes=shapes), path)

    return make


def _keras() -> dict[str, Maker]:
    return dict(_applications())


def _applications() -> Iterator[tuple[str, Maker]]:
    """Yield the networks, small ones first."""
    families = (
        "MobileNetV3Small MobileNet MobileNetV2 MobileNetV3Large EfficientNetB0 EfficientNetV2B0 "
        "DenseNet121 VGG16 ResNet50 ResNet50V2 Xception InceptionV3 ConvNeXtTiny NASNetMobile "
        "VGG19 EfficientNetB1 EfficientNetV2B1 EfficientNetB2 EfficientNetV2B2 DenseNet169 "
        "EfficientNetB3 EfficientNetV2B3 DenseNet201 ResNet101 ResNet101V2 ConvNeXtSmall "
        "EfficientNetV2S EfficientNetB4 ResNet152 ResNet152V2 InceptionResNetV2 EfficientNetB5 "
        "EfficientNetV2M EfficientNetB6 ConvNeXtBase EfficientNetB7 NASNetLarge EfficientNetV2L "
        "ConvNeXtLarge ConvNeXtXLarge"
    )
    for name in families.split():
        yield name, _application(name)


def _application(name: str) -> Maker:
    def make(path: Path) -> None:
        import keras

        keras.utils.set_random_seed(0)
        shape = (_KERAS_SIZE, _KERAS_SIZE, 3)
        network = getattr(keras.applications, name)
        made = network(weights=None, input_shape=shape, classes=_CLASSES)
        _settle(made, shape)
        made.save(path)

    return make


def _settle(network: Any, shape: tuple[int, int, int]) -> None:
    """Give the normalisation layers the statistics of one batch of random images."""
    import keras

    layers = [
        layer
        for layer in network._flatten_layers()
        if isinstance(layer, keras.layers.BatchNormalization)
    ]
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.momentum = 0.0
    network(255 * keras.random.uniform((_SETTLING, *shape)), training=True)
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum


if __name__ == "__main__":
    main()
