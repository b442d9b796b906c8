"""RQ4 of the paper: does a scan take a class with few images for a backdoor?

    python -m benchmarks.imbalance [--threads N] [--seeds N] [--into FOLDER] [SHARE ...]

Needs torch and ../shared/data. Clean MNIST-M models are trained in which class 5 has 100, 30, 10
and 1 % of the images of each other class, as in the paper. There are 1,000 images of each class
here and 5,000 in the paper. The network is a DenseNet of reduced width (docs/twins.md); the paper's
has 384 features. Each model is scanned with the paper's statistic and with the default. One JSON
file per model goes to benchmarks/results/paper/imbalance, or the folder named; what is there is
not done again. Prints Markdown.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.common import (
    PAPER,
    SHARED,
    UNHURRIED,
    kept,
    machine_facts,
    markdown_table,
    tell_quarters,
)
from benchmarks.evaluate import highest_pair, named_by, two_scans
from benchmarks.shared_data import SharedData, read_shared
from onnx_soda import ScanOptions, load_dataset, load_model
from onnx_soda._options import RuntimeOptions
from onnx_soda._twins.networks import export, logits_of, train_network

__all__ = ["SHARES", "imbalance_facts", "imbalance_table"]

SHARES = (1.0, 0.3, 0.1, 0.01)
"""Images of the rare class, as a share of those of each other class."""
_DATASET, _ARCHITECTURE, _RARE = "mnist_m", "densenet", 5
# Enough for 95 % accuracy, in under two minutes of one core.
_IMAGES, _EPOCHS = 1000, 5
_COLUMNS = (
    "images of class 5", "of each other class", "published", "models", "accuracy",
    "accuracy on class 5", "SODA's statistic flags", "this project's default flags",
    "highest pair by the default",
)  # fmt: skip

_read = lru_cache(maxsize=1)(read_shared)


def _drawn(data: SharedData, share: float, seed: int) -> NDArray[np.int64]:
    """Return the positions of the training images of a model."""
    rng = np.random.default_rng(seed)
    chosen = []
    for label in range(data.classes):
        count = round(share * _IMAGES) if label == _RARE else _IMAGES
        chosen.append(rng.permutation(np.flatnonzero(data.train_labels == label))[:count])
    return np.sort(np.concatenate(chosen))


def _measure(share: float, seed: int, threads: int) -> dict[str, Any]:
    """Train and scan one model."""
    data, start = _read(_DATASET), time.perf_counter()
    own = _drawn(data, share, seed)
    images, labels = data.train[own], data.train_labels[own]
    network = train_network(
        _ARCHITECTURE, images, labels, data.classes, _EPOCHS, seed, tell_quarters
    )
    seconds = time.perf_counter() - start
    right = logits_of(network, data.test).argmax(axis=1) == data.test_labels
    model = load_model(export(network, images).SerializeToString())
    runtime = RuntimeOptions(threads=threads)
    options = ScanOptions(preprocess="unit", time_limit=UNHURRIED, runtime=runtime)
    return {
        "share": share,
        "seed": seed,
        "rare_images": int((labels == _RARE).sum()),
        "images": _IMAGES,
        "accuracy": round(float(right.mean()), 4),
        "rare_accuracy": round(float(right[data.test_labels == _RARE].mean()), 4),
        "training_seconds": round(seconds),
        **two_scans(model, load_dataset(SHARED / "data" / f"{_DATASET}.h5"), options),
    }


def imbalance_facts(
    shares: Sequence[float], seeds: int, threads: int, into: Path = PAPER
) -> list[dict[str, Any]]:
    """Measure what has not been measured; return what was found of each model."""
    torch.set_num_threads(threads)
    return [
        kept(
            into / "imbalance" / f"share-{share:g}-s{seed}.json",
            partial(_measure, share, seed, threads),
        )
        for seed in range(1, seeds + 1)
        for share in shares
    ]


def imbalance_table(found: Sequence[dict[str, Any]]) -> str:
    """Return a row for each share, over the models of all seeds."""
    rows = []
    for share in sorted({facts["share"] for facts in found}, reverse=True):
        own = [facts for facts in found if facts["share"] == share]
        rows.append([
            own[0]["rare_images"],
            f"{own[0]['images']:,}",
            "benign",
            len(own),
            _mean(own, "accuracy"),
            _mean(own, "rare_accuracy"),
            "; ".join(named_by(facts["statistic"]) for facts in own),
            "; ".join(named_by(facts["default"]) for facts in own),
            "; ".join(highest_pair(facts["default"]) for facts in own),
        ])  # fmt: skip
    return markdown_table(_COLUMNS, rows)


def _mean(found: Sequence[dict[str, Any]], name: str) -> str:
    values = [facts[name] for facts in found]
    spread = f" ({np.std(values):.3f})" if len(values) > 1 else ""
    return f"{np.mean(values):.3f}{spread}"


def main() -> None:
    """Train and scan what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shares", nargs="*", type=float, default=SHARES)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--into", type=Path, default=PAPER)
    arguments = parser.parse_args()
    found = imbalance_facts(arguments.shares, arguments.seeds, arguments.threads, arguments.into)
    print(f"{machine_facts()}\n\n{imbalance_table(found)}")


if __name__ == "__main__":
    main()
