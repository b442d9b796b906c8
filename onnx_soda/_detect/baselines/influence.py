"""Leave-one-out and SubSample: the influence of a neuron in place of its causal attribution.

Both were made for training images: how much does a result change without one of them? The SODA
paper asks it of neurons (Table 4) and does all else as in its own method: the table of attributions
of Algorithm 1 is replaced by one of influences, and Algorithms 2 and 3 judge that.

**Leave-one-out** (Cook and Weisberg, Residuals and Influence in Regression, 1982): neuron i is set
to 0, and LOO[j][i][c] is the mean of |y_c - y_c(h_i = 0)| over the images of source class j. That
is Equation 2 with a = b = 0, which the paper's own definition leaves out.

**SubSample** (Feldman and Zhang, NeurIPS 2020, arXiv 2008.03703): the same change, seen while other
neurons are missing too. For each neuron 10 random halves of the neurons are kept, all others are 0,
and the logits with and without the neuron are compared.

Both are as in the toolkit of the SODA paper (`semantic_mitigation.py`), which takes the absolute
change of each image first, and then the mean. Here the 10 halves are drawn once and not anew for
each neuron. So what is run with a half serves all neurons, and costs half as much; what is expected
of each neuron is the same.

**An affine tail** y = h A + b needs no runs. Without neuron i the logit c lacks h_i A[i, c], so

    LOO[j][i][c] = |A[i, c]| times the mean of |h_i| over the images of class j,

and SubSample is the same number: what neuron i adds does not depend on the others. All seven
architectures of the paper have an affine tail at the layer that is analysed; its equal columns
"LOO" and "SubSample" follow from that alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from onnx_soda._detect.baselines.base import (
    NO_LAYER,
    Baseline,
    Opinion,
    abstention,
    strongest_first,
)
from onnx_soda._detect.soda.attribution import (
    FloatArray,
    Interventions,
    Measured,
    by_neuron,
    count_neurons,
    is_affine,
    probe_matrix,
)
from onnx_soda._detect.soda.slopes import Task
from onnx_soda._detect.soda.statistic import TargetDetection, detect_target, detect_victim
from onnx_soda._model.parts import Tail, share_behind
from onnx_soda._numbers import NamedPair
from onnx_soda._options import NeuronKind, Progress, ScanOptions, Setting
from onnx_soda._suspect import Summary, Suspect

TAKEN_OUT = Setting(0, 0)
"""What a neuron is set to: nothing."""
# Times that an image goes through the tail with neurons missing: as many as SODA's own analysis
# runs at most. Where there are more, fewer images of each class are taken.
_MOST_RUNS = 500_000
# Two points are always equally far from their median, so no outlier can be found among them.
_FEWEST_CLASSES = 3
# Classes that are named, where fewer are flagged.
_NAMED = 10
_SCORE_IS = "anomaly index of the influence's PCC"
_abstains = partial(abstention, score_is=_SCORE_IS)


@dataclass(frozen=True)
class _Rules:
    """With what Algorithms 2 and 3 judge.

    Attributes:
        target: Anomaly index over which a target class is flagged.
        victim: The same for a victim class.
        zeros: Put in the toolkit's zeros.
    """

    target: float
    victim: float
    zeros: bool


def _rules(options: ScanOptions) -> _Rules:
    """Return the paper's rules, or those of the published comparison.

    Published: the toolkit's zeros, and `confidence` 3 and `confidence2` 2, as for NN7, NN12 and the
    models of RQ4 in its `data/commands.txt`. From model to model they change there, 2 to 5 and 0.5
    to 5, with the truth in view; no one threshold gives the published table.
    """
    if options.parameters == "published":
        return _Rules(3.0, 2.0, zeros=True)
    return _Rules(options.threshold, options.threshold, options.toolkit_zeros)


class LeaveOneOut(Baseline):
    """Takes one neuron out at a time.

    "paper": threshold 2 (`threshold`), no zeros but where `toolkit_zeros` asks for them, as in the
    SODA paper's text. "published": see `_rules`. Budget: an affine tail is run once for each number
    of the layer; any other tail at most `_MOST_RUNS` times, over as many images as that allows.

    Attributes:
        groups: Number of groups of neurons in which one more is taken out.
        kept: Share of the neurons in each.
        of_affine: What a reader must know where the tail is affine.
    """

    name: ClassVar[str] = "leave-one-out"
    title: ClassVar[str] = "Leave-one-out"
    source: ClassVar[str] = (
        "Cook and Weisberg, Residuals and Influence in Regression, 1982; on neurons as in Sun et "
        "al., USENIX Security 2024"
    )
    groups: ClassVar[int] = 1
    kept: ClassVar[float] = 1.0
    of_affine: ClassVar[str] = ""

    def ask(self, suspect: Suspect, progress: Progress) -> Opinion:
        """See `Baseline.ask`."""
        seen, layer = suspect.observation, suspect.anatomy.layer
        assert seen is not None  # noqa: S101 - the detector needs clean images
        if layer.only_read:
            return _abstains(NO_LAYER)
        if seen.classes < _FEWEST_CLASSES:
            return _abstains(f"Among {seen.classes} classes no outlier can be told.")
        suspect.tail.learn_shape(seen.layer)
        if suspect.options.attribution != "batched" and is_affine(
            suspect.tail, np.random.default_rng(suspect.options.seed), seen.layer
        ):
            table = of_affine_tail(suspect.tail, seen, suspect.options.neurons)
            images = len(seen.labels)
            how = f"computed from weights and activations of {images:,} images.{self.of_affine}"
            return self._judged(suspect, seen, table, images, how)
        return self._by_running(suspect, seen, progress)

    def _by_running(self, suspect: Suspect, seen: Summary, progress: Progress) -> Opinion:
        tail, options = suspect.tail, suspect.options
        neurons = count_neurons(seen.layer, tail.axis, options.neurons)
        rng, kept = np.random.default_rng(options.seed), round(self.kept * neurons)
        missing = [rng.permutation(neurons) >= kept for _ in range(self.groups)]
        runs = len(missing) * (neurons + 1)
        rows = _first(seen, _MOST_RUNS // (runs * len(seen.logits)))
        if not len(rows):
            return _abstains(
                f"{neurons:,} neurons are too many to be taken out one by one. Take "
                "`neurons=channels`, or a deeper `layer`."
            )
        experiment = Task(tail, seen.whole(), TAKEN_OUT, options.neurons).interventions(rows)
        advance = partial(progress, "neurons taken out")
        table = by_running(experiment, missing, advance)
        anatomy = suspect.anatomy
        share = share_behind(anatomy.view, anatomy.layer.value, [tail.graph.logits])
        suspect.meter.done += share * len(rows) * runs
        halves = f", in {self.groups} random parts of all neurons" if self.groups > 1 else ""
        how = f"measured on {len(rows):,} images{halves}."
        return self._judged(suspect, seen, table, len(rows), how)

    def _judged(
        self, suspect: Suspect, seen: Summary, table: Measured, images: int, how: str
    ) -> Opinion:
        options, rules = suspect.options, _rules(suspect.options)
        targets = detect_target(
            ((source, table.shift(source)) for source in table.sources),
            rules.target,
            options.spread,
            "zero" if rules.zeros else "keep",
        )
        if not np.isfinite(targets.pcc).all():
            return _abstains("Without some neurons the logits are no numbers.")
        named = strongest_first(_pairs(targets, seen, rules, options), rules.target)
        neurons = len(table.shift(table.sources[0]))
        return Opinion(
            outcome="flagged" if targets.flagged else "nothing flagged",
            named=named,
            threshold=rules.target,
            score_is=_SCORE_IS,
            statement=(
                f"How much the logits change without each of {neurons:,} neurons of the "
                f"{suspect.anatomy.layer.role} layer took the place of causal attribution in "
                f"SODA's Algorithms 2 and 3; {how}"
            ),
            details={
                **_details(targets, rules),
                "method": table.method,
                "neurons": neurons,
                "images": images,
            },
        )


class SubSample(LeaveOneOut):
    """Takes one neuron out at a time, while a random half of the others is missing.

    Where the tail is affine it is leave-one-out, and computed as such. Parameters and budget are
    those of `LeaveOneOut`; with 10 groups there is room for a tenth of the images. 10 groups and
    half of the neurons are `num_subgrp` and `cnt_per_grp` of the toolkit.
    """

    name: ClassVar[str] = "subsample"
    title: ClassVar[str] = "SubSample"
    source: ClassVar[str] = (
        "Feldman and Zhang, What Neural Networks Memorize and Why, NeurIPS 2020; on neurons as in "
        "Sun et al., USENIX Security 2024"
    )
    groups: ClassVar[int] = 10
    kept: ClassVar[float] = 0.5
    of_affine: ClassVar[str] = (
        " The tail is affine: a neuron adds the same whichever others are missing, so "
        "SubSample is leave-one-out here, and was computed as such."
    )


def _first(seen: Summary, each: int) -> NDArray[np.intp]:
    """Return the positions of so many images of each class, or of as many as there are."""
    some = [np.flatnonzero(seen.labels == source)[:each] for source in np.unique(seen.labels)]
    return np.concatenate(some)


def _pairs(
    targets: TargetDetection, seen: Summary, rules: _Rules, options: ScanOptions
) -> list[NamedPair]:
    """Return the most abnormal target classes, each with its victim by Algorithm 3."""
    most = np.argsort(targets.index, kind="stable")[: max(_NAMED, len(targets.flagged))]
    return [
        NamedPair(
            detect_victim(
                target, seen.logits, rules.victim, options.spread, rules.zeros
            ).victim_class,
            target,
            -float(targets.index[target]),
        )
        for target in map(int, most)
    ]


def _details(targets: TargetDetection, rules: _Rules) -> dict[str, Any]:
    return {
        "pcc": tuple(map(float, targets.pcc)),
        "anomaly_index": tuple(map(float, targets.index)),
        "victim_threshold": rules.victim,
        "toolkit_zeros": rules.zeros,
    }


def of_affine_tail(tail: Tail, seen: Summary, kind: NeuronKind) -> Measured:
    """Return the influence of each neuron through an affine tail, which is never run with images.

    Args:
        tail: A tail for which `is_affine` holds.
        seen: What the model makes of the clean images.
        kind: What a neuron is. What a channel adds to a logit is a sum over its places.
    """
    head = probe_matrix(tail, "places").T
    classes = len(head)
    layer = by_neuron(head.reshape(classes, *seen.layer.shape[1:]), tail.axis, kind)
    weights = layer.reshape(*layer.shape[:2], -1)
    sums, counts = dict[int, FloatArray](), Counter[int]()
    for block in seen.blocks():
        values = by_neuron(block.layer, tail.axis, kind)
        values = values.reshape(*values.shape[:2], -1).astype(np.float64)
        for source in map(int, np.unique(block.labels)):
            own = values[block.labels == source]
            sums[source] = sums.get(source, 0.0) + _added(own, weights)
            counts[source] += len(own)
    means = {source: sums[source] / counts[source] for source in sorted(sums)}
    return Measured(means, "closed-form")


def _added(values: FloatArray, weights: FloatArray) -> FloatArray:
    """Sum over images the size of what each neuron adds to each logit.

    Args:
        values: Shape (images, neurons, places).
        weights: Shape (classes, neurons, places).

    Returns:
        Shape (neurons, classes).
    """
    if values.shape[2] == 1:
        total: FloatArray = np.abs(values).sum(axis=0) * np.abs(weights[:, :, 0]).T
        return total
    total = np.zeros(weights.shape[1::-1])
    for image in values:
        total += np.abs(np.einsum("ip,cip->ic", image, weights))
    return total


def by_running(
    experiment: Interventions,
    missing: list[NDArray[np.bool_]],
    advance: Callable[[int, int], None],
) -> Measured:
    """Measure the influence of each neuron by running the tail with and without it.

    Args:
        experiment: Tail and images; what is chosen in it is missing.
        missing: Of each group, which neurons are missing beside the one that is looked at, shape
            (neurons,). The influence is the mean over the groups.
        advance: Called after each neuron and group.
    """
    neurons, total = experiment.neurons, len(missing) * experiment.neurons
    sums = list[FloatArray]()
    for number, group in enumerate(missing):
        known = experiment.logits(group)
        for neuron in range(neurons):
            other = group ^ (np.arange(neurons) == neuron)
            change = experiment.means(np.abs(experiment.logits(other) - known))
            if number:
                sums[neuron] += change
            else:
                sums.append(change)
            advance(number * neurons + neuron + 1, total)
    per_source = np.stack(sums, axis=1) / len(missing)
    return Measured(dict(zip(experiment.sources, per_source, strict=True)), "batched")
