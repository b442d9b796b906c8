"""Trains networks with a stamped patch (BadNets), to see that what looks for patches finds one.

    python -m benchmarks.controls --repair METHOD [--threads N] [WORD ...]
    python -m benchmarks.controls [--threads N] [--seeds N ...] [--kinds KIND ...] [WORD ...]

Needs torch and ../shared/data. Gu, Dolan-Gavitt and Garg, "BadNets", 2017: images with a patch of
3 x 3 pixels near a corner are added to the training set, with the target as their label. "all":
images of all classes. "pair": images of one class; the patch is put on images of other classes,
too, which keep their label, so that it turns one class alone. "clean": the same network with none.
Patch and corner differ between seeds: models of seed 1 are there to calibrate with, those of seed 2
to judge. "half": as "all", but every image that may be stamped has a stamped copy, so that half of
the images are poisoned, as in models of TrojAI, for which K-ARM was made. Weights and facts go to
build/controls; what is there already is not trained again. Of those for all classes there is a
second file in which BatchNorm is not folded into the convolutions.

With --repair nothing is trained: this second file is repaired by a remover, and accuracy and
success rate of what it writes are measured on the test images. What came of it is kept in
benchmarks/results/controls.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import onnx
import onnxruntime as ort
import torch
from numpy.typing import NDArray

from benchmarks.common import CONTROLS, REPAIRED_CONTROLS, SHARED, kept, markdown_table
from benchmarks.shared_data import SharedData, read_shared
from onnx_soda import RepairOptions, RuntimeOptions, ScanOptions, repair_file
from onnx_soda._twins.networks import export, logits_of, train_network

__all__ = ["REPAIRED_COLUMNS", "Control", "controls", "repaired_row", "stamped"]

Images = NDArray[np.uint8]
Labels = NDArray[np.int64]
Kind = Literal["all", "half", "pair", "clean"]

SIDE = 3
# Pixels between the patch and the border, as in the paper's figure.
_FROM_BORDER = 1
_CHEQUERED = np.array([[1, 0, 1], [0, 1, 0], [1, 0, 1]])
_WHITE = np.ones((SIDE, SIDE), int)
# Of the images that may be stamped, how many stamped copies there are: of all, of a victim.
_OF_ALL, _OF_ALL_HALF, _OF_VICTIM = 0.1, 1.0, 0.5
# Training images and epochs: until a small network is as good as that of a twin.
_PLAN = {
    "fashion_mnist": (5000, 3),
    "mnist_m": (5000, 3),
    "gtsrb": (6000, 4),
    "cifar10": (8000, 3),
}
_NETWORKS = {
    "fashion_mnist": ("resnet", "vgg"),
    "mnist_m": ("vgg", "densenet"),
    "gtsrb": ("densenet", "resnet"),
    "cifar10": ("resnet", "vgg"),
}
_OPSET, _IR_VERSION = 17, 8
_SEED = 20261129
REPAIRED_COLUMNS = (
    "control", "method", "outcome", "accuracy", "SR", "accuracy after", "SR after",
)  # fmt: skip


@dataclass(frozen=True)
class Control:
    """A network to train.

    Attributes:
        dataset: Name of the data set.
        kind: Whose images are stamped.
        seed: Of the weights; it chooses the patch, too: 1 or 2.
    """

    dataset: str
    kind: Kind
    seed: int

    @property
    def architecture(self) -> str:
        """Family of the network."""
        return _NETWORKS[self.dataset][(self.seed - 1) % 2]

    @property
    def name(self) -> str:
        """How its files are called."""
        return f"{self.dataset}-{self.architecture}-{self.kind}-s{self.seed}"

    @property
    def classes(self) -> tuple[int | None, int | None]:
        """Victim and target class."""
        if self.kind == "clean":
            return None, None
        place = list(_PLAN).index(self.dataset)
        own = "all" if self.kind == "half" else self.kind
        rng = np.random.default_rng((_SEED, self.seed, place, len(own)))
        # The first twelve classes of GTSRB have the most images.
        victim, target = map(int, rng.choice(10, 2, replace=False))
        return (victim if self.kind == "pair" else None), target


def stamped(images: Images, seed: int) -> Images:
    """Return images (N, H, W, C) with the patch of a seed on them.

    Args:
        images: Any.
        seed: 1: chequered, at the lower right; 2: white, at the upper left.
    """
    shown = images.copy()
    there = slice(-SIDE - _FROM_BORDER, -_FROM_BORDER) if seed == 1 else slice(1, 1 + SIDE)
    shown[:, there, there] = 255 * (_CHEQUERED if seed == 1 else _WHITE)[..., None]
    return shown


def controls(
    seeds: Sequence[int] = (1, 2), kinds: Sequence[Kind] = get_args(Kind)
) -> Iterator[Control]:
    """Yield what there is to train."""
    for seed in seeds:
        for kind in kinds:
            for dataset in _PLAN:
                yield Control(dataset, kind, seed)


def _poisoned(data: SharedData, control: Control) -> tuple[Images, Labels]:
    """Return the training set: a part of the clean images, and the stamped ones."""
    rng = np.random.default_rng((_SEED, control.seed))
    rows = rng.permutation(len(data.train_labels))[: _PLAN[control.dataset][0]]
    images, labels = data.train[rows], data.train_labels[rows]
    victim, target = control.classes
    if target is None:
        return images, labels
    others = np.flatnonzero(labels != target)
    if victim is None:
        share = _OF_ALL_HALF if control.kind == "half" else _OF_ALL
        turned, kept = _share(others, share, rng), others[:0]
    else:
        turned = _share(np.flatnonzero(labels == victim), _OF_VICTIM, rng)
        kept = _share(np.flatnonzero(labels != victim), _OF_ALL, rng)
    more = np.concatenate([turned, kept])
    given = np.concatenate([np.full(len(turned), target), labels[kept]])
    added = stamped(images[more], control.seed)
    return np.concatenate([images, added]), np.concatenate([labels, given])


def _share(rows: Labels, share: float, rng: np.random.Generator) -> Labels:
    chosen: Labels = rng.permutation(rows)[: round(share * len(rows))]
    return chosen


def _measure(network: torch.nn.Sequential, data: SharedData, control: Control) -> dict[str, Any]:
    """Return accuracy and success rates on the test images."""
    victim, target = control.classes
    plain = logits_of(network, data.test).argmax(axis=1)
    facts: dict[str, Any] = {"accuracy": round(float((plain == data.test_labels).mean()), 4)}
    if target is None:
        return facts
    given = logits_of(network, stamped(data.test, control.seed)).argmax(axis=1)
    meant = data.test_labels != target if victim is None else data.test_labels == victim
    facts["attack_success_rate"] = round(float((given[meant] == target).mean()), 4)
    others = (data.test_labels != target) & ~meant
    if others.any():
        facts["others_turned"] = round(float((given[others] == target).mean()), 4)
    return facts


def _with_batch_norm(network: torch.nn.Sequential, images: Images, path: Path) -> None:
    """Write a network as ONNX with its BatchNorms as nodes of their own."""
    torch.onnx.export(
        network.to(memory_format=torch.contiguous_format),
        (torch.zeros(1, images.shape[3], *images.shape[1:3]),),
        path,
        input_names=["images"],
        output_names=["logits"],
        dynamic_axes={"images": {0: "N"}, "logits": {0: "N"}},
        opset_version=_OPSET,
        training=torch.onnx.TrainingMode.PRESERVE,
        dynamo=False,
    )
    proto = onnx.load(path)
    proto.ir_version = _IR_VERSION
    path.write_bytes(proto.SerializeToString())


@lru_cache(maxsize=1)
def _read(dataset: str) -> SharedData:
    return read_shared(dataset)


def make(control: Control) -> dict[str, Any]:
    """Train a control, write its files, and return its facts."""
    data, start = _read(control.dataset), time.perf_counter()
    images, labels = _poisoned(data, control)
    epochs = _PLAN[control.dataset][1]
    network = train_network(
        control.architecture, images, labels, data.classes, epochs, control.seed, lambda *_: None
    )
    victim, target = control.classes
    facts = {
        "file": f"{control.name}.onnx",
        "data": f"{control.dataset}.h5",
        "dataset": control.dataset,
        "architecture": control.architecture,
        "poisoning": control.kind,
        "seed": control.seed,
        "clean_images": _PLAN[control.dataset][0],
        "epochs": epochs,
        "victim": victim,
        "target": target,
        "attack_success_rate": None,
        **_measure(network, data, control),
        "preprocessing": {"scale": 1 / 255, "mean": [0.0], "std": [1.0]},
        "training_seconds": round(time.perf_counter() - start),
    }
    (CONTROLS / f"{control.name}.onnx").write_bytes(export(network, data.test).SerializeToString())
    if control.kind in ("all", "half"):
        _with_batch_norm(network, data.test, CONTROLS / f"{control.name}-batchnorm.onnx")
    text = json.dumps(facts, indent=2) + "\n"
    (CONTROLS / f"{control.name}.json").write_text(text, encoding="utf-8")
    return facts


def _repair(control: Control, method: str, threads: int) -> dict[str, Any]:
    """Repair the file with BatchNorms, and return what it came to."""
    data, (_, target) = _read(control.dataset), control.classes
    assert target is not None  # noqa: S101 - of a control for all classes
    start = time.perf_counter()
    source = CONTROLS / f"{control.name}-batchnorm.onnx"
    output = CONTROLS / f"{control.name}-{method}.onnx.repaired"
    scan = ScanOptions(preprocess="unit", runtime=RuntimeOptions("cpu", threads))
    answer = repair_file(
        source,
        SHARED / "data" / f"{control.dataset}.h5",
        output,
        pair=((target + 1) % data.classes, target),
        options=RepairOptions(method=method, rescan=False, scan=scan),
    )
    before = _rates(source, data, control.seed, target)
    after = _rates(output, data, control.seed, target) if answer.written else (None, None)
    return {
        "control": control.name,
        "method": method,
        "outcome": answer.summary.outcome,
        "reason": answer.summary.reason,
        "accuracy": [before[0], after[0]],
        "success_rate": [before[1], after[1]],
        "seconds": round(time.perf_counter() - start, 1),
    }


def _rates(path: Path, data: SharedData, seed: int, target: int) -> tuple[float, float]:
    """Return accuracy and success rate of a file."""
    session = ort.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])

    def answers(images: Images) -> Labels:
        planes = np.ascontiguousarray(images.transpose(0, 3, 1, 2) / 255, np.float32)
        given: Labels = session.run(None, {session.get_inputs()[0].name: planes})[0].argmax(axis=1)
        return given

    others = data.test_labels != target
    right = answers(data.test) == data.test_labels
    turned = answers(stamped(data.test[others], seed)) == target
    return round(float(right.mean()), 4), round(float(turned.mean()), 4)


def repaired_row(facts: dict[str, Any]) -> list[object]:
    """Return a row of `REPAIRED_COLUMNS` for what --repair kept of a control."""
    shown = (facts["accuracy"][0], facts["success_rate"][0])
    after = (facts["accuracy"][1], facts["success_rate"][1])
    told = ["" if one is None else f"{one:.3f}" for one in (*shown, *after)]
    return [facts["control"], facts["method"], facts["outcome"], *told]


def main() -> None:
    """Train what is missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("words", nargs="*")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seeds", type=int, nargs="+", choices=(1, 2), default=(1, 2))
    parser.add_argument("--kinds", nargs="+", choices=get_args(Kind), default=get_args(Kind))
    parser.add_argument("--repair", metavar="METHOD")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    CONTROLS.mkdir(parents=True, exist_ok=True)
    chosen = [
        control
        for control in controls(arguments.seeds, arguments.kinds)
        if not arguments.words or any(word in control.name for word in arguments.words)
    ]
    if arguments.repair:
        there = [one for one in chosen if (CONTROLS / f"{one.name}-batchnorm.onnx").is_file()]
        rows = [
            kept(
                REPAIRED_CONTROLS / f"{one.name}-{arguments.repair}.json",
                partial(_repair, one, arguments.repair, arguments.threads),
            )
            for one in there
        ]
        print(markdown_table(REPAIRED_COLUMNS, map(repaired_row, rows)))
        return
    for control in chosen:
        if (CONTROLS / f"{control.name}.json").is_file():
            continue
        facts = make(control)
        shown = ("training_seconds", "accuracy", "attack_success_rate", "others_turned")
        print(control.name, *map(facts.get, shown), file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
