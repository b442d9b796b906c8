"""Table 7 of the paper: an attacker who knows the statistic and trains against it.

    python -m benchmarks.adaptive [--penalty NAME ...] [--rho RHO ...] [--architecture NAME]
                                  [--threads N] [--into FOLDER]

Needs torch and ../shared/data. For each penalty and rho (default: 0.1 to 0.9) an MNIST-M model is
trained with the paper's batches, in which 8s on blue are to become 3s, and scanned with the paper's
statistic and with the default. The penalties:

- published: what the published toolkit trains. Its penalty is computed without a gradient, and its
  cross-entropy is a hundredth. So nothing is trained but the cross-entropy, at 0.01 (1 - rho) of
  the learning rate: SGD, 10 epochs of 44 clean and 20 trigger images.
- spread: what the paper writes (section 6), with a gradient: the standard deviation, over a batch,
  of the correlations between each image's activations and their mean.
- statistic: the number by which the statistic tells a target class: how much less the target's
  weights correlate with those of the other classes than the other classes' do.

The network is this project's VGG of reduced width; "--architecture densenet" is nearer to the
paper's, and takes twice as long. Models go to build/adaptive, one JSON file for each to
benchmarks/results/paper/adaptive, or the folder named; what is there is not done again. Prints
Markdown.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, cross_entropy, relu

from benchmarks.common import (
    ADAPTIVE,
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
from benchmarks.zoo_networks import ARCHITECTURES, build_network
from benchmarks.zoo_plan import Entry
from benchmarks.zoo_training import Attacker, inputs_of, measure, to_input, train_entry
from fixtures.export import write_onnx
from onnx_soda import ScanOptions, load_dataset, load_model
from onnx_soda._options import RuntimeOptions

__all__ = ["PENALTIES", "RHOS", "adaptive_facts", "adaptive_table"]

RHOS = tuple(step / 10 for step in range(1, 10))
"""The paper's."""
_ENTRY = Entry("mnist_m", "vgg", "batch30", "blue_8", seed=7)
# The recipe of the published toolkit (SODA, data/commands.txt, for its NN10).
_EPOCHS, _MILESTONES, _RATE, _MOMENTUM, _DECAY = 10, (6, 9), 0.1, 0.9, 5e-4
_CLEAN, _TRIGGERED = 44, 20
_SCALE = 0.01
_COLUMNS = (
    "penalty", "rho", "network", "accuracy", "SR", "SODA's statistic names",
    "index, rank of the true target", "this project's default names", "highest pair by the default",
)  # fmt: skip

_read = lru_cache(maxsize=1)(read_shared)


def pcc_spread(hidden: Tensor, _: Tensor) -> Tensor:
    """Return the spread of the last hidden layer over a batch (paper, section 6, STD_pcc)."""
    mean = hidden.mean(dim=0)
    return _correlation(hidden, mean[None]).std()


def target_gap(_: Tensor, weights: Tensor, target: int = 3) -> Tensor:
    """Return by how much the target's attribution correlates less with the others' than theirs.

    The attribution of an affine tail is the absolute weight; Algorithm 2 correlates that of each
    class with the mean of the other classes.
    """
    own = weights.abs()
    others = (own.sum(dim=0, keepdim=True) - own) / (len(own) - 1)
    correlation = _correlation(own, others)
    mean = (correlation.sum() - correlation[target]) / (len(own) - 1)
    return relu(mean - correlation[target])


def _correlation(these: Tensor, those: Tensor) -> Tensor:
    """Return the Pearson correlation of each row with a row of the others."""
    these, those = (rows - rows.mean(dim=1, keepdim=True) for rows in (these, those))
    return cosine_similarity(these, those, dim=1)


def _train_published(entry: Entry, data: SharedData, rho: float) -> nn.Module:
    """Train as the published toolkit does; its penalty has no gradient and is left out."""
    torch.manual_seed(entry.seed)
    rng = np.random.default_rng(entry.seed)
    channels, size = data.train.shape[3], data.train.shape[1]
    network = build_network(entry.architecture, channels, size, data.classes)
    network = network.to(memory_format=torch.channels_last)
    inputs, trigger = inputs_of(entry.architecture, channels), data.triggers[entry.trigger]
    clean = np.setdiff1d(np.arange(len(data.train_labels)), trigger.train)
    labels = data.train_labels.copy()
    labels[trigger.train] = trigger.target
    optimiser = torch.optim.SGD(
        network.parameters(), _RATE, momentum=_MOMENTUM, weight_decay=_DECAY
    )
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimiser, _MILESTONES, 0.1)
    steps = len(clean) // _CLEAN
    for epoch in range(_EPOCHS):
        order = rng.permutation(clean)[: steps * _CLEAN].reshape(steps, _CLEAN)
        for step, rows in enumerate(order, 1):
            chosen = np.concatenate([rows, rng.choice(trigger.train, _TRIGGERED)])
            shown = to_input(data.train[chosen], inputs).to(memory_format=torch.channels_last)
            given = network(shown)
            loss = (1 - rho) * _SCALE * cross_entropy(given, torch.from_numpy(labels[chosen]))
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            optimiser.step()
            tell_quarters(epoch * steps + step, _EPOCHS * steps)
        schedule.step()
    return network.eval()


def _with(penalty: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., nn.Module]:
    return lambda entry, data, rho: train_entry(entry, data, Attacker(rho, penalty))


PENALTIES: Mapping[str, Callable[[Entry, SharedData, float], nn.Module]] = {
    "published": _train_published,
    "spread": _with(pcc_spread),
    "statistic": _with(target_gap),
}
"""By name: what trains a model with it."""


def _measure(penalty: str, rho: float, entry: Entry, threads: int) -> dict[str, Any]:
    """Train and scan one model."""
    data, start = _read(entry.dataset), time.perf_counter()
    network = PENALTIES[penalty](entry, data, rho)
    seconds = time.perf_counter() - start
    path = ADAPTIVE / f"{penalty}-{entry.architecture}-{rho:g}.onnx"
    path.parent.mkdir(parents=True, exist_ok=True)
    inputs = inputs_of(entry.architecture, data.train.shape[3])
    network = network.to(memory_format=torch.contiguous_format)
    write_onnx(network, path, to_input(data.test[:16], inputs))
    trigger = data.triggers[entry.trigger]
    options = ScanOptions(time_limit=UNHURRIED, runtime=RuntimeOptions(threads=threads))
    clean = load_dataset(SHARED / "data" / f"{entry.dataset}.h5")
    return {
        "penalty": penalty,
        "rho": rho,
        "architecture": entry.architecture,
        "victim": trigger.victim,
        "target": trigger.target,
        **measure(network, entry, data),
        "training_seconds": round(seconds),
        **two_scans(load_model(path), clean, options),
    }


def adaptive_facts(
    penalties: Sequence[str],
    rhos: Sequence[float],
    threads: int,
    into: Path = PAPER,
    architecture: str = _ENTRY.architecture,
) -> list[dict[str, Any]]:
    """Train and scan what is missing; return what was found of each model."""
    torch.set_num_threads(threads)
    entry = replace(_ENTRY, architecture=architecture)
    return [
        kept(
            into / "adaptive" / f"{penalty}-{architecture}-{rho:g}.json",
            partial(_measure, penalty, rho, entry, threads),
        )
        for penalty in penalties
        for rho in rhos
    ]


def adaptive_table(found: Sequence[dict[str, Any]]) -> str:
    """Return a row for each model."""
    return markdown_table(_COLUMNS, map(_row, found))


def _row(facts: dict[str, Any]) -> list[object]:
    index = facts["statistic"]["index"]
    own = index[facts["target"]]
    rank = sum(other > own for other in index) + 1
    return [
        facts["penalty"],
        f"{facts['rho']:g}",
        facts["architecture"],
        f"{facts['accuracy']:.3f}",
        f"{facts['attack_success_rate']:.3f}",
        named_by(facts["statistic"]),
        f"{own:.1f}, {rank} of {len(index)}",
        named_by(facts["default"]),
        highest_pair(facts["default"]),
    ]


def main() -> None:
    """Train, scan, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rho", nargs="+", type=float, default=RHOS)
    parser.add_argument("--penalty", nargs="+", choices=PENALTIES, default=tuple(PENALTIES))
    parser.add_argument("--architecture", choices=ARCHITECTURES, default=_ENTRY.architecture)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--into", type=Path, default=PAPER)
    chosen = parser.parse_args()
    found = adaptive_facts(
        chosen.penalty, chosen.rho, chosen.threads, chosen.into, chosen.architecture
    )
    print(f"{machine_facts()}\n\n{adaptive_table(found)}")


if __name__ == "__main__":
    main()
