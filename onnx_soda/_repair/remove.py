"""Removal: the paper's Algorithm 5, training of the outstanding neurons' weights alone.

Three things go beyond the paper. Bystanders are clean images of other classes under the change that
infects the victim: they teach that the change is not what counts. A term holds the model to the
answers that it gave to clean images (distillation, Hinton et al. 2015). And where there are
references, lessons teach what they say of all classes under the bank of concepts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from onnx_soda._repair.masks import Masks

UpdateStep = Callable[[Mapping[str, Tensor]], None]
"""Moves the weights along a slope of each, by name."""


def plain_steps(own: Mapping[str, nn.Parameter], masks: Masks, share: float) -> UpdateStep:
    """Return steps of one rate: that with which the first moves the weights by a share of them.

    Args:
        own: What moves.
        masks: Which weights count.
        share: Of the weights' length.
    """
    length = _norm({name: weight.detach() * masks[name] for name, weight in own.items()})
    rate: float | None = None

    def step(slopes: Mapping[str, Tensor]) -> None:
        nonlocal rate
        rate = rate or share * length / max(_norm(slopes), 1e-12)
        with torch.no_grad():
            for name, slope in slopes.items():
                own[name].sub_(rate * slope)

    return step


def adam_steps(own: Mapping[str, nn.Parameter], rate: float, count: int) -> UpdateStep:
    """Return Adam's steps (Kingma and Ba 2015), whose rate falls to 0 along a cosine, and restarts.

    Weights without a slope stay as they are. Where all layers move, one rate for all does not do:
    their slopes differ by orders of magnitude.

    Args:
        own: What moves.
        rate: To start with.
        count: Steps until the rate is 0.
    """
    optimizer = torch.optim.Adam(own.values(), lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, count)

    def step(slopes: Mapping[str, Tensor]) -> None:
        for name, slope in slopes.items():
            own[name].grad = slope
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()

    return step


def _norm(tensors: Mapping[str, Tensor]) -> float:
    return float(torch.stack([tensor.square().sum() for tensor in tensors.values()]).sum().sqrt())


# Images of one step.
CLEAN_BATCH, _INFECTED_BATCH, _LESSON_BATCH = 64, 20, 48
_MEASURED_AT_ONCE = 500
# Of the lessons of a step together; where all weigh nothing they teach nothing.
_LEAST_WEIGHT = 1e-6
_NINE_IN_TEN = 0.9
# The target class counts in the accuracy one part in so many, at least. Of a hundred classes it
# would be a hundredth, and a repair could pay with that class alone.
_PARTS = 10


@dataclass(frozen=True, eq=False)
class Samples:
    """What to train on or to choose by; the layer's activations, or images for the whole model.

    Attributes:
        clean: Shape (images, ...).
        labels: Their classes.
        infected: Reconstructed infected images, shape (images, ...).
        infected_labels: Their true classes: the victim, and other classes that turn as it does.
        bystanders: How many of the clean ones, the last, were changed as the infected ones are.
        lessons: Changed images, shape (lessons, ...); none where there are no references.
        lesson_answers: What they should be, probabilities, shape (lessons, classes).
        lesson_weights: How much each counts, shape (lessons,).
    """

    clean: Tensor
    labels: Tensor
    infected: Tensor
    infected_labels: Tensor
    bystanders: int = 0
    lessons: Tensor = field(default_factory=lambda: torch.empty(0))
    lesson_answers: Tensor = field(default_factory=lambda: torch.empty(0))
    lesson_weights: Tensor = field(default_factory=lambda: torch.empty(0))

    @property
    def unchanged(self) -> int:
        """Number of clean images that are as they were; the first ones."""
        return len(self.labels) - self.bystanders


@dataclass(frozen=True)
class Settings:
    """Settings of Algorithm 5.

    Attributes:
        rate: Learning rate: of plain steps the share of the trainable weights' length that the
            first moves them by; of Adam its own.
        alpha: Weight of the loss that drives infected images away from the target.
        epochs: Passes over the clean images ("e"); with rounds, of each.
        adam: Take Adam's steps, with a rate that falls, instead of plain ones.
        hold: Weight of the loss that holds unchanged images to the answers at the start.
        cap: Loss L2 from which an infected image is driven no further from the target. The paper
            has none; its loss has no lower bound, and Adam follows it however flat the rest is.
        shares: How far along the straight way from the first to the last weights those that are
            yielded lie. On it less is removed and less accuracy lost (Wortsman et al. 2022).
        rounds: How often Adam's rate falls to 0 and starts anew (Loshchilov and Hutter 2017). The
            weights are yielded after each; who sees enough need not ask for the next.
    """

    rate: float
    alpha: float
    epochs: int
    adam: bool = False
    hold: float = 0
    cap: float = math.inf
    shares: tuple[float, ...] = (1.0,)
    rounds: int = 1


@dataclass(frozen=True)
class Trial:
    """What a state of the weights does on images that it was not trained on.

    Attributes:
        settings: How it came about; `epochs` so far.
        accuracy: On clean images; those of the target class count a tenth, if they are fewer.
        target_rate: Share of the reconstructed images given to the target.
        victim_rate: Share of them given to their true class.
        margin: What nine in ten of them stay under: logit of the target less that of their class.
        tipped_rate: Share of the bystanders given to an infected class; 0 where there are none.
    """

    settings: Settings
    accuracy: float
    target_rate: float
    victim_rate: float
    margin: float
    tipped_rate: float


@dataclass(frozen=True, eq=False)
class Trained:
    """A trial with the weights behind it, by name of the parameter."""

    trial: Trial
    weights: Mapping[str, Tensor]


def train(
    logits: Callable[[Tensor], Tensor],
    parameters: Mapping[str, nn.Parameter],
    masks: Masks,
    target: int,
    samples: tuple[Samples, Samples],
    settings: Sequence[Settings],
) -> Iterator[Trained]:
    """Train from the same start with each setting; yield the weights after each epoch.

    Adam's are yielded after the last epoch of a round: before, its rate is high and the weights
    swing. The parameters are as they were when it is over.

    Args:
        logits: What is trained.
        parameters: By name; those in `masks` change.
        masks: Which weights may change.
        target: Target class.
        samples: To train on, and to measure with.
        settings: To try.
    """
    own = {name: parameters[name] for name in masks}
    start = {name: weight.detach().clone() for name, weight in own.items()}
    training, held_out = samples
    answers = _scores(logits, training.clean[: training.unchanged]).softmax(1)
    try:
        for setting in settings:
            _restore(own, start)
            step, rng = _steps(own, masks, setting, training), np.random.default_rng(0)
            for epoch in range(1, setting.rounds * setting.epochs + 1):
                for batch in _batches(training, answers, rng):
                    step(_slopes(logits, own, masks, target, setting, batch))
                if setting.adam and epoch % setting.epochs:
                    continue
                end = {name: weight.detach().clone() for name, weight in own.items()}
                for share in setting.shares:
                    weights = {name: start[name].lerp(end[name], share) for name in own}
                    _restore(own, weights)
                    done = replace(setting, epochs=epoch, shares=(share,))
                    yield Trained(measure(logits, target, held_out, done), weights)
                _restore(own, end)
    finally:
        _restore(own, start)


def _steps(
    own: Mapping[str, nn.Parameter], masks: Masks, setting: Settings, training: Samples
) -> UpdateStep:
    if not setting.adam:
        return plain_steps(own, masks, setting.rate)
    batches = -(-len(training.labels) // CLEAN_BATCH)
    return adam_steps(own, setting.rate, setting.epochs * batches)


def measure(
    logits: Callable[[Tensor], Tensor], target: int, samples: Samples, done: Settings
) -> Trial:
    """Measure the present weights."""
    answers, known = _scores(logits, samples.clean).argmax(1), samples.unchanged
    right = (answers[:known] == samples.labels[:known]).float()
    tipped = torch.isin(answers[known:], samples.infected_labels).float()
    scores = _scores(logits, samples.infected)
    given, labels = scores.argmax(1), samples.infected_labels
    ahead = scores[:, target] - scores.gather(1, labels[:, None])[:, 0]
    return Trial(
        done,
        _accuracy(right, samples.labels[:known] == target),
        (given == target).float().mean().item(),
        (given == labels).float().mean().item(),
        torch.quantile(ahead, _NINE_IN_TEN).item(),
        tipped.mean().item() if samples.bystanders else 0.0,
    )


def _accuracy(right: Tensor, of_target: Tensor) -> float:
    """Return the share that is right, where the target class counts a tenth at least."""
    if not 0 < _PARTS * int(of_target.sum()) < len(of_target):
        return float(right.mean().item())
    own, others = right[of_target].mean(), right[~of_target].mean()
    return float(((own + (_PARTS - 1) * others) / _PARTS).item())


def _scores(logits: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
    with torch.no_grad():
        return torch.cat([logits(part) for part in torch.split(inputs, _MEASURED_AT_ONCE)])


@dataclass(frozen=True, eq=False)
class _Batch:
    """Images of one step; `answers` are those at the start, to the first clean images."""

    clean: Tensor
    labels: Tensor
    answers: Tensor
    infected: Tensor
    infected_labels: Tensor
    lessons: Tensor
    lesson_answers: Tensor
    lesson_weights: Tensor


def _batches(samples: Samples, answers: Tensor, rng: np.random.Generator) -> Iterator[_Batch]:
    order = torch.from_numpy(rng.permutation(len(samples.labels)))
    for part in torch.split(order, CLEAN_BATCH):
        unchanged = part < samples.unchanged
        chosen = torch.cat([part[unchanged], part[~unchanged]])
        drawn = torch.from_numpy(rng.integers(len(samples.infected), size=_INFECTED_BATCH))
        some = _LESSON_BATCH if len(samples.lessons) else 0
        taught = torch.from_numpy(rng.integers(max(len(samples.lessons), 1), size=some))
        yield _Batch(
            samples.clean[chosen],
            samples.labels[chosen],
            answers[part[unchanged]],
            samples.infected[drawn],
            samples.infected_labels[drawn],
            samples.lessons[taught],
            samples.lesson_answers[taught],
            samples.lesson_weights[taught],
        )


def _slopes(
    logits: Callable[[Tensor], Tensor],
    own: Mapping[str, nn.Parameter],
    masks: Masks,
    target: int,
    setting: Settings,
    batch: _Batch,
) -> dict[str, Tensor]:
    """Return the masked gradient of L1(clean, infected) - alpha L2(infected) + hold L3(clean).

    And where there are lessons, plus their cross-entropy, the mean by their weights.
    """
    changed = [batch.infected, batch.lessons] if len(batch.lessons) else [batch.infected]
    answers = logits(torch.cat([batch.clean, *changed]))
    scores = answers[: len(batch.clean) + len(batch.infected)]
    loss = cross_entropy(scores, torch.cat([batch.labels, batch.infected_labels]))
    wrong = torch.full_like(batch.infected_labels, target)
    driven = cross_entropy(scores[len(batch.clean) :], wrong, reduction="none")
    loss = loss - setting.alpha * driven.clamp(max=setting.cap).mean()
    if setting.hold and len(batch.answers):
        held = scores[: len(batch.answers)]
        loss = loss + setting.hold * cross_entropy(held, batch.answers)
    if len(batch.lessons):
        wrong_by = cross_entropy(answers[len(scores) :], batch.lesson_answers, reduction="none")
        weights = batch.lesson_weights
        loss = loss + (weights * wrong_by).sum() / weights.sum().clamp_min(_LEAST_WEIGHT)
    slopes = torch.autograd.grad(loss, list(own.values()))
    return {name: slope * masks[name] for name, slope in zip(own, slopes, strict=True)}


def _restore(own: Mapping[str, nn.Parameter], values: Mapping[str, Tensor]) -> None:
    with torch.no_grad():
        for name, weight in own.items():
            weight.copy_(values[name])
