"""Fine-Pruning (Liu, Dolan-Gavitt and Garg, RAID 2018).

Neurons that clean images leave asleep may be the backdoor's. They are pruned one after the other,
the least active on clean images first, as long as accuracy lasts. Then the pruned network is
fine-tuned.

What is pruned are the features that the last layer reads: columns of its matrix, as in
BackdoorBench (SCLBD/BackdoorBench). The paper takes the last convolution. Where a
pooling alone lies between that and the last layer, as in most networks, these are the same
channels; where a dense layer lies between, they are its neurons.

How far: the last step before the accuracy on images held out first falls under what may be lost.
The paper prunes one neuron at a time. Fine-tuning is that of `fine_tuning`; pruned columns stay 0.
The comparison in the SODA paper has no such row: "published" sets the rates of fine-tuning alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from onnx_soda._repair.baselines.base import Examples, share_right
from onnx_soda._repair.baselines.fine_tuning import FineTuningRemover
from onnx_soda._repair.baselines.heads import Affine, Matrix, features_of, find_head
from onnx_soda._repair.preparation import Preparation


def least_active_first(features: Matrix) -> NDArray[np.intp]:
    """Return the features by their mean, the smallest first; equal ones by their place.

    Args:
        features: Of clean images, shape (images, features).
    """
    return np.argsort(features.mean(axis=0), kind="stable")


def prune_while(
    affine: Affine,
    order: NDArray[np.intp],
    examples: tuple[Matrix, NDArray[np.int64]],
    allows: Callable[[float], bool],
) -> NDArray[np.intp]:
    """Return the features to prune: the longest beginning of the order that is allowed throughout.

    Args:
        affine: The last layer.
        order: All features, those to prune first in front.
        examples: Features of images, and their classes, to judge by.
        allows: Tells whether an accuracy is enough.
    """
    features, labels = examples
    scores = affine.logits(features)
    for count, feature in enumerate(order):
        scores = scores - np.outer(features[:, feature], affine.matrix[:, feature])
        if not allows(share_right(scores, labels)):
            return order[:count]
    return order[:-1]


class FinePruningRemover(FineTuningRemover):
    """Prunes what sleeps on clean images, and fine-tunes."""

    name: ClassVar[str] = "fine-pruning"
    title: ClassVar[str] = "Fine-Pruning"
    source: ClassVar[str] = "Liu et al., RAID 2018"
    trains: ClassVar[str] = "all"

    def __init__(self, ready: Preparation) -> None:
        super().__init__(ready)
        self.head = find_head(ready, "Fine-Pruning prunes")

    def begin(self, teaching: Examples, held_out: Examples) -> tuple[str, ...]:
        """Prune; see `FineTuningRemover.begin`. Training starts from the pruned network."""
        affine, name = self.head.affine, self.head.matrix_name
        order = least_active_first(features_of(self.ready, teaching))
        judging = features_of(self.ready, held_out), held_out.labels
        judged = self.judged(share_right(affine.logits(judging[0]), held_out.labels))
        pruned = prune_while(affine, order, judging, judged.allows)
        gone = np.zeros(len(order), bool)
        gone[pruned] = True
        kept = torch.from_numpy(~self.head.columns(gone))
        self.network.start[name].mul_(kept)
        self.network.masks[name] = kept.to(self.network.start[name].dtype)
        return (f"It prunes {len(pruned)} of {len(order)} neurons before the last layer.",)
