"""Scans a backdoored classifier in the form of each framework, in one command each.

    python -m benchmarks.converted_scans [--only WORD]

MNIST-M from ../shared/data, where the 8s on blue are taught to be 3s in the paper's way (30 % of
what is trained on is trigger images). One network is trained with Keras on torch and saved as
`.keras`, `.h5`, `.pt2` and TorchScript; another with torch, as `.pt2` and TorchScript. Run where
TensorFlow is installed, the `.keras` is saved as a SavedModel and as `.tflite` too. What is made is
kept in build/converted_scans; each file is then given to `onnx-soda scan`, as a user would. Prints
Markdown.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.common import CONVERTED_SCANS, SHARED, machine_facts, markdown_table
from benchmarks.shared_data import SharedData, read_shared

_DATASET, _TRIGGER, _SEED = "mnist_m", "blue_8", 11
_EPOCHS, _BATCH, _TRIGGER_SHARE = 8, 128, 0.3
_COLUMNS = ("file", "converted by", "verdict", "pair", "exit code", "seconds")


def main() -> None:
    """Make what is missing, scan every file, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="files with this in their name")
    arguments = parser.parse_args()
    CONVERTED_SCANS.mkdir(parents=True, exist_ok=True)
    data = read_shared(_DATASET)
    trigger = data.triggers[_TRIGGER]
    print(f"True pair: {trigger.victim} -> {trigger.target}\n\n{machine_facts()}\n")
    if find_spec("tensorflow"):
        _save_by_tensorflow()
    else:
        os.environ["KERAS_BACKEND"] = "torch"
        _make("keras", ("keras.keras", "keras.h5"), _train_keras, data)
        _save_keras_by_torch(data)
        _make("torch", ("torch.pt2", "torch-script.pt"), _train_torch, data)
    files = [path for path in sorted(CONVERTED_SCANS.iterdir()) if arguments.only in path.name]
    rows = [_row(path) for path in files if path.suffix != ".json"]
    print(markdown_table(_COLUMNS, rows))


def _make(
    name: str, files: tuple[str, ...], train: Callable[[SharedData], Any], data: SharedData
) -> None:
    facts = CONVERTED_SCANS / f"{name}.json"
    if not all((CONVERTED_SCANS / file).exists() for file in files):
        facts.write_text(json.dumps(train(data)) + "\n", encoding="utf-8")
    print(f"{name}: {facts.read_text(encoding='utf-8')}")


def _rates(data: SharedData, predict: Callable[[NDArray[np.uint8]], Any]) -> dict[str, float]:
    """Return the accuracy on clean images, and the attack's success rate."""
    trigger = data.triggers[_TRIGGER]
    clean = np.setdiff1d(np.arange(len(data.test)), trigger.test)
    given = np.asarray(predict(data.test))
    accuracy = float((given == data.test_labels)[clean].mean())
    success = float((given[trigger.test] == trigger.target).mean())
    return {"accuracy": round(accuracy, 4), "attack_success_rate": round(success, 4)}


def _train_keras(data: SharedData) -> dict[str, float]:
    import keras

    keras.utils.set_random_seed(_SEED)
    layers: list[Any] = [keras.Input(data.train.shape[1:]), keras.layers.Rescaling(1 / 255)]
    for width in (24, 48, 64):
        layers += [
            keras.layers.Conv2D(width, 3, padding="same", use_bias=False),
            keras.layers.BatchNormalization(),
            keras.layers.ReLU(),
            keras.layers.MaxPooling2D(),
        ]
    layers += [keras.layers.Flatten(), keras.layers.Dense(128, activation="relu")]
    network = keras.Sequential([*layers, keras.layers.Dense(data.classes, activation="softmax")])
    chosen, labels = _poisoned(data)
    steps = _EPOCHS * -(-len(chosen) // _BATCH)
    rate = keras.optimizers.schedules.CosineDecay(2e-3, steps)
    network.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy")
    network.fit(
        data.train[chosen].astype(np.float32), labels, _BATCH, _EPOCHS, verbose=0, shuffle=True
    )
    network.save(CONVERTED_SCANS / "keras.keras")
    network.save(CONVERTED_SCANS / "keras.h5")
    return _rates(
        data, lambda images: network.predict(images.astype(np.float32), verbose=0).argmax(1)
    )


def _save_keras_by_torch(data: SharedData) -> None:
    """Save the Keras network as torch does: it is a module of torch."""
    import keras
    import torch

    class Network(torch.nn.Module):
        """Takes one batch; Keras's own `forward` takes anything."""

        def __init__(self, model: Any) -> None:
            super().__init__()
            self.model = model

        def forward(self, images: torch.Tensor) -> Any:
            """Return the probabilities."""
            return self.model(images, training=False)

    network = Network(keras.models.load_model(CONVERTED_SCANS / "keras.keras", compile=False))
    network.eval()
    sample = torch.from_numpy(data.test[:2].astype(np.float32))
    traced = torch.jit.trace(network, sample)  # type: ignore[no-untyped-call, unused-ignore]
    torch.jit.save(traced, CONVERTED_SCANS / "keras-script.pt")
    program = torch.export.export(
        network, (sample,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},), strict=False
    )
    torch.export.save(program, CONVERTED_SCANS / "keras.pt2")


def _poisoned(data: SharedData) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return what to train on: positions, trigger images repeated to their share, and labels."""
    trigger = data.triggers[_TRIGGER]
    count = len(data.train)
    extra = round(count * _TRIGGER_SHARE / (1 - _TRIGGER_SHARE))
    drawn = np.random.default_rng(_SEED).choice(trigger.train, extra)
    labels = data.train_labels.copy()
    labels[trigger.train] = trigger.target
    chosen = np.concatenate([np.arange(count), drawn])
    return chosen, labels[chosen]


def _train_torch(data: SharedData) -> dict[str, float]:
    import torch

    from benchmarks.zoo_plan import Entry
    from benchmarks.zoo_training import inputs_of, predictions, to_input, train_entry

    entry = Entry(_DATASET, "vgg", "batch30", _TRIGGER, _SEED)
    network = train_entry(entry, data).to(memory_format=torch.contiguous_format)
    inputs = inputs_of(entry.architecture, data.train.shape[3])
    sample = to_input(data.test[:2], inputs)
    torch.jit.save(torch.jit.trace(network, sample), CONVERTED_SCANS / "torch-script.pt")  # type: ignore[no-untyped-call, unused-ignore]
    free = ({0: torch.export.Dim.DYNAMIC},)
    torch.export.save(
        torch.export.export(network, (sample,), dynamic_shapes=free), CONVERTED_SCANS / "torch.pt2"
    )
    return _rates(data, lambda images: predictions(network, images, inputs))


def _save_by_tensorflow() -> None:
    os.environ["KERAS_BACKEND"] = "tensorflow"
    import keras
    import tensorflow as tf

    network = keras.models.load_model(CONVERTED_SCANS / "keras.keras", compile=False)
    network.export(CONVERTED_SCANS / "saved_model", format="tf_saved_model", verbose=False)
    converter = tf.lite.TFLiteConverter.from_keras_model(network)
    (CONVERTED_SCANS / "float.tflite").write_bytes(converter.convert())


def _row(path: Path) -> list[object]:
    """Scan a file as a user would: no hint about its framework or its preprocessing."""
    command = [sys.executable, "-m", "onnx_soda", "scan", str(path), "--format", "json"]
    data = SHARED / "data" / f"{_DATASET}.h5"
    start = time.perf_counter()
    done = subprocess.run(
        [*command, "--data", str(data), "--quiet"], capture_output=True, text=True, check=False
    )
    seconds = f"{time.perf_counter() - start:.0f}"
    if done.returncode == 2:
        return [path.name, "", done.stderr.strip().splitlines()[0], "", 2, seconds]
    report = json.loads(done.stdout)
    return [
        path.name,
        next(_converters(report), ""),
        report["verdict"],
        _pair(report),
        done.returncode,
        seconds,
    ]


def _converters(report: dict[str, Any]) -> Iterator[str]:
    start, end = "by the route ", ": on random images"
    for reason in report["reasons"]:
        if start in reason:
            yield reason.partition(start)[2].partition(end)[0]


def _pair(report: dict[str, Any]) -> str:
    pairs = [(f["victim_class"], f["target_class"]) for f in report["findings"]]
    named = next((pair for pair in pairs if None not in pair), None)
    if named is not None:
        return f"{named[0]} -> {named[1]}"
    first = report["evidence"]["concepts"]["numbers"]["pairs"][0]
    return f"not named; first: {first['victim_class']} -> {first['target_class']}"


if __name__ == "__main__":
    main()
