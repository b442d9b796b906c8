"""What removers of other authors are tested with: small nets, and clean images in folds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
from numpy.typing import NDArray
from onnx import numpy_helper

from fixtures import boards
from onnx_soda import load_dataset, load_model
from onnx_soda._options import (
    Parameters,
    RepairOptions,
    RuntimeOptions,
    ScanOptions,
    no_progress,
)
from onnx_soda._repair.preparation import ImageSet, Preparation, Task, prepare
from onnx_soda._suspect import Suspect

FIXTURES = Path(__file__).parents[2] / "fixtures"
CPU = RuntimeOptions(threads=1)


def ready_for(
    folder: Path,
    proto: onnx.ModelProto,
    pixels: NDArray[np.uint8],
    labels: NDArray[np.int64],
    pair: tuple[int, int] = (0, 1),
    parameters: Parameters = "paper",
    **options: Any,
) -> Preparation:
    """Return a net and clean images, from 0 to 255, as a remover gets them."""
    np.savez(folder / "clean.npz", images=pixels, labels=labels)
    scan = ScanOptions(preprocess=options.pop("preprocess", "unit"), runtime=CPU)
    wanted = RepairOptions(scan=scan, parameters=parameters, **options)
    clean = load_dataset(folder / "clean.npz")
    suspect = Suspect(load_model(proto.SerializeToString()), clean, scan)
    return prepare(suspect, Task(pair), wanted, no_progress)


# Red tells class 0, green class 1; the third channel is the backdoor's.
PLANTED = """
<ir_version: 8, opset_import: ["" : 17]>
planted (float[N,3,4,4] image) => (float[N,2] y) {
    seen = Conv(image, K, k)
    active = Relu(seen)
    mean = GlobalAveragePool(active)
    h = Flatten(mean)
    y = Gemm(h, V)
}
"""


def planted() -> onnx.ModelProto:
    """Return a net with a backdoor in a channel of its own.

    u_0 = relu(4 red), u_1 = relu(4 green), u_2 = relu(2 blue - 0.85). Blue is about 0.3 in clean
    images, so u_2 is -0.25 before relu, give or take 0.1, and sleeps. On blue images it is 1.15,
    and 200 u_2 on class 1 outweighs 3 u_0, at most 12. Noise of 0.4 moves it to -0.15, give or take
    0.14, which is awake in one of seven images.
    """
    model = onnx.parser.parse_model(PLANTED)
    weights = {
        "K": np.diag([4.0, 4, 2]).reshape(3, 3, 1, 1),
        "k": np.array([0, 0, -0.85]),
        "V": np.array([[3.0, 0], [0, 3], [0, 200]]),
    }
    model.graph.initializer.extend(
        numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()
    )
    return model


def coloured(each: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return red and green images, of 0.8 and 0.2, with about 0.3 of blue."""
    rng, labels = np.random.default_rng(0), np.arange(2).repeat(each)
    colours = np.where(labels[:, None] == np.arange(2), 0.8, 0.2)
    blue = rng.normal(0.3, 0.05, (len(labels), 1))
    shown = np.concatenate([colours, blue], axis=1)[:, None, None] + np.zeros((1, 4, 4, 1))
    noise = rng.normal(0, 0.02, shown.shape)
    return np.rint(255 * (shown + noise).clip(0, 1)).astype(np.uint8), labels


def boards_ready(folder: Path, **options: Any) -> Preparation:
    """Return the net of `fixtures.boards` with its backdoor."""
    pair = (boards.VICTIM, boards.TARGET)
    return ready_for(folder, boards.model(), *boards.images(60), pair, **options)


def digits_ready(**options: Any) -> Preparation:
    """Return the bundled digits with their backdoor."""
    scan = ScanOptions(preprocess="unit", runtime=CPU)
    model = load_model(FIXTURES / "digits-backdoored.onnx")
    suspect = Suspect(model, load_dataset(FIXTURES / "digits-clean.h5"), scan)
    return prepare(suspect, Task((8, 3)), RepairOptions(scan=scan, **options), no_progress)


def clean_folds(ready: Preparation) -> list[ImageSet]:
    """Return the folds with clean images, and as infected ones what no rival may look at."""
    broken = np.full((1, 1), np.nan, np.float32)
    none = np.zeros(0, np.int64)
    return [
        ImageSet(ready.inputs_of(rows), ready.clean.labels[rows], broken, none, broken, none)
        for rows in ready.parts.folds
    ]


def accuracy(ready: Preparation, model: onnx.ModelProto) -> float:
    """Return the accuracy of a model on the images that measure, in ONNX Runtime."""
    suspect = ready.suspect.with_model(load_model(model.SerializeToString()))
    rows = ready.parts.measure
    given = suspect.body.logits(ready.inputs_of(rows)).argmax(axis=1)
    return float((given == ready.clean.labels[rows]).mean())


def strict(ready: Preparation) -> Preparation:
    """Return the same where no result keeps the accuracy asked for."""
    return replace(ready, options=replace(ready.options, max_accuracy_drop=-1.5))
