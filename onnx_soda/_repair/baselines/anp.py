"""ANP, adversarial neuron pruning (Wu and Wang, NeurIPS 2021).

Backdoored channels are those that give wrong answers soonest when their weights are perturbed. Each
channel k of a BatchNorm has a mask m_k in [0, 1], 1 at first, and noise d_k and x_k:

    gamma (m + d), beta (1 + x)
    the noise of each step: uniform in [-eps, eps], then one step of eps along the sign of the
    slope of CE, upwards, and back into these bounds
    the mask: SGD along alpha CE(m, no noise) + (1 - alpha) CE(m, with noise)

Then channels with a mask of at most a threshold are pruned: gamma becomes 0, beta stays.

Parameters of "paper" (github.com/csdongxian/ANP_backdoor): eps 0.4, alpha 0.2, rate 0.2, momentum
0.9, at most 500 images (1 % of CIFAR-10), thresholds by 0.05. It runs 2,000 steps of 128 images;
here they are 400 of 32: after 150 a planted patch still worked (benchmarks/controls.py).
"published" (github.com/sunbing7/ANP_backdoor) differs in thresholds by 0.1. At a rate of 0.2 masks
of a network of a few hundred channels may jump from 1 to 0, so a tenth of it is tried where no
threshold keeps the accuracy. Both programs leave the choice of the threshold to the reader. Here it
is the largest that keeps the accuracy on images held out, as of all rivals (see `base`).

**Statistics of the batch.** While masks are learned, BatchNorms normalise by the batch, as in the
official program, whose network is in training mode then. So what the noise does to one layer the
next one takes back in part. By the file's statistics noise of 0.4 in each of ten layers leaves
nothing of the answers, and all masks fall to 0. Afterwards the file's statistics count again. A
folded BatchNorm has none: there ANP stays weak.

**Folded BatchNorm.** Most ONNX files have W' = gamma W / s and b' = beta - gamma mu / s in the
convolution, s being the deviation. A mask on gamma turns these into m W' and beta - m gamma mu / s.
So with beta known it is m W' and beta + m (b' - beta), and a pruned channel is the constant beta.
And beta is what the channel gives on average, since BatchNorm takes the mean away before it adds
beta: it is measured on clean images. Where a convolution never had a BatchNorm this prunes a
channel to its mean; the paper then scales its weights and offset alone, to 0. The file does not
tell which it was. A convolution without offset has no place for a constant, and is scaled around 0.

Channels of all convolutions and BatchNorms before the last layer count, depthwise ones, too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from onnx_soda._bridge.operators.layers import batch_statistics
from onnx_soda._errors import RepairError
from onnx_soda._model.graph import GraphView
from onnx_soda._repair.base import Removal
from onnx_soda._repair.baselines.base import Examples, Rival, clean_of, strongest
from onnx_soda._repair.baselines.networks import Network, Weights, network_of
from onnx_soda._repair.preparation import ImageSet, Preparation

_EPSILON, _ALPHA, _MOMENTUM = 0.4, 0.2, 0.9
_RATES = (0.2, 0.02)
_STEPS, _BATCH, _MOST_IMAGES = 400, 32, 500
# Thresholds lie so far apart, under 1: a mask of 1 was never in doubt.
_APART, _PUBLISHED_APART = 0.05, 0.1


@dataclass(frozen=True)
class Channels:
    """Where the channels of one layer are in the file.

    Attributes:
        output: Name of the layer's result.
        scale: Name of the weight that a mask multiplies, the channels along its first axis.
        offset: Name of the weight that has what is added; None where there is none.
        folded: The offset is a convolution's, and holds more than beta.
    """

    output: str
    scale: str
    offset: str | None
    folded: bool


def find_channels(view: GraphView, layer: ir.Value, known: Mapping[str, object]) -> list[Channels]:
    """Return the channels of all BatchNorms, and of convolutions without one, before a layer.

    Args:
        view: The graph.
        layer: The last one; what comes after it scores classes.
        known: Weights that may change, by name. What reads others is left out; of layers that share
            their weights the first one counts.
    """
    found: dict[str, Channels] = {}
    before = view.ancestors(layer)
    for node in [node for node in view.model.graph if node in before]:
        normalised = {user.op_type for user, _ in node.outputs[0].uses()} == {"BatchNormalization"}
        folded = node.op_type == "Conv"
        if node.op_type != "BatchNormalization" and (not folded or normalised):
            continue
        scale, offset = (_weight(node, place, known) for place in (1, 2))
        taken = {one.offset for one in found.values()}
        if scale is not None and scale not in found:
            own = None if offset in taken else offset
            found[scale] = Channels(node.outputs[0].name or "", scale, own, folded)
    return list(found.values())


def _weight(node: ir.Node, place: int, known: Mapping[str, object]) -> str | None:
    value = node.inputs[place] if place < len(node.inputs) else None
    return value.name if value is not None and value.name in known else None


@dataclass(frozen=True, eq=False)
class Pruner:
    """A network whose channels can be masked, perturbed and pruned.

    Attributes:
        network: The network.
        layers: Its channels.
        centres: By name of an offset, its beta, shape (channels,).
    """

    network: Network
    layers: Sequence[Channels]
    centres: Mapping[str, Tensor]

    @property
    def sizes(self) -> list[int]:
        """Number of channels of each layer."""
        return [len(self.network.weights[one.scale]) for one in self.layers]

    def weights(self, factor: Tensor, shift: Tensor) -> Weights:
        """Return the weights of a network whose channels are scaled, by name.

        Args:
            factor: m + d of all channels, layer by layer.
            shift: 1 + x of them.
        """
        values: Weights = {}
        start = self.network.start
        parts = zip(
            self.layers,
            torch.split(factor, self.sizes),
            torch.split(shift, self.sizes),
            strict=True,
        )
        for one, scales, shifts in parts:
            stored = start[one.scale]
            wide = scales.reshape(-1, *(1,) * (stored.ndim - 1))
            values[one.scale] = (stored * wide).to(stored.dtype)
            if one.offset is not None:
                offset, centre = start[one.offset], self.centres[one.offset]
                moved = centre * shifts + scales * (offset - centre)
                values[one.offset] = moved.to(offset.dtype)
        return values

    def pruned(self, masks: Tensor, threshold: float) -> Weights:
        """Return the weights of the network without the channels of small masks."""
        values: Weights = {}
        for one, own in zip(self.layers, torch.split(masks, self.sizes), strict=True):
            gone = own <= threshold
            values[one.scale] = self.network.start[one.scale].clone()
            values[one.scale][gone] = 0
            if one.offset is not None:
                values[one.offset] = self.network.start[one.offset].clone()
                values[one.offset][gone] = self.centres[one.offset][gone].to(values[one.offset])
        return values

    @cached_property
    def _paths(self) -> dict[str, str]:
        """Where the module keeps each weight."""
        own = {id(weight): name for name, weight in self.network.weights.items()}
        there = self.network.bridge.module.named_parameters()
        return {own[id(weight)]: path for path, weight in there if id(weight) in own}

    def loss(self, examples: tuple[Tensor, Tensor], factor: Tensor, shift: Tensor) -> Tensor:
        """Return the cross-entropy of a network whose channels are scaled."""
        images, labels = examples
        values = {self._paths[name]: one for name, one in self.weights(factor, shift).items()}
        scores = functional_call(self.network.bridge.module, values, (images,))
        scores = scores[0] if isinstance(scores, list | tuple) else scores
        return cross_entropy(scores.reshape(len(images), -1).float(), labels)

    def learn_masks(
        self, examples: Examples, rate: float, tell: Callable[[int, int], None]
    ) -> Tensor:
        """Return the masks of all channels, layer by layer.

        Args:
            examples: Clean images; each step draws some anew.
            rate: Learning rate.
            tell: Called with the steps done and all of them.
        """
        images, labels = torch.from_numpy(examples.images), torch.from_numpy(examples.labels)
        rng = torch.Generator().manual_seed(0)
        masks = torch.ones(sum(self.sizes), requires_grad=True)
        optimizer = torch.optim.SGD([masks], lr=rate, momentum=_MOMENTUM)
        for step in range(_STEPS):
            rows = torch.randint(len(labels), (_BATCH,), generator=rng)
            with batch_statistics():
                masks.grad = self._slope((images[rows], labels[rows]), masks, rng)
            optimizer.step()
            with torch.no_grad():
                masks.clamp_(0, 1)
            tell(step + 1, _STEPS)
        return masks.detach()

    def _slope(self, batch: tuple[Tensor, Tensor], masks: Tensor, rng: torch.Generator) -> Tensor:
        """Return the slope of the loss of a step in the masks."""
        noise, shift = self._noise(batch, masks.detach(), rng)
        loss = _ALPHA * self.loss(batch, masks, torch.ones_like(masks))
        loss = loss + (1 - _ALPHA) * self.loss(batch, masks + noise, 1 + shift)
        (slope,) = torch.autograd.grad(loss, masks)
        return slope

    def _noise(
        self, batch: tuple[Tensor, Tensor], masks: Tensor, rng: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Return d and x of a step."""
        drawn = 2 * torch.rand((2, len(masks)), generator=rng) - 1
        noise = (_EPSILON * drawn).requires_grad_(True)
        loss = self.loss(batch, masks + noise[0], 1 + noise[1])
        (slope,) = torch.autograd.grad(loss, noise)
        moved = (noise.detach() + _EPSILON * slope.sign()).clamp(-_EPSILON, _EPSILON)
        return moved[0], moved[1]


class AnpRemover(Rival):
    """Prunes channels that perturbed weights turn first."""

    name: ClassVar[str] = "anp"
    title: ClassVar[str] = "ANP"
    source: ClassVar[str] = "Wu and Wang, NeurIPS 2021"
    trains: ClassVar[str] = "channels"

    def __init__(self, ready: Preparation) -> None:
        super().__init__(ready)
        self.network = network_of(ready, "ANP needs")
        anatomy = ready.suspect.anatomy
        weights = self.network.weights
        self.layers = find_channels(anatomy.view, anatomy.layer.value, weights)
        if not self.layers:
            raise RepairError(
                "ANP prunes channels of convolutions, and this model has none whose weights the "
                "file stores as they are",
                "Take another method.",
            )

    def remove(self, folds: Sequence[ImageSet]) -> Removal:
        """Prune up to the largest threshold that keeps the accuracy; see `Remover.remove`."""
        network, held_out = self.network, clean_of(folds[-1:])
        teaching = clean_of(folds[:-1]).drawn(_MOST_IMAGES, np.random.default_rng(0))
        judged = self.judged(network.accuracy(held_out))
        pruner = Pruner(network, self.layers, self._centres(teaching))
        apart = _PUBLISHED_APART if self.published else _APART

        def tries() -> Iterator[tuple[tuple[float, float, Tensor], float]]:
            for rate in _RATES:
                network.put(network.start)
                masks = pruner.learn_masks(teaching, rate, self.tell)
                for threshold in _thresholds(apart):
                    network.put(pruner.pruned(masks, threshold))
                    yield (rate, threshold, masks), network.accuracy(held_out)

        chosen, judged = strongest(tries(), judged)
        if chosen is None:
            return self.failed(judged)
        rate, threshold, masks = chosen
        network.put(pruner.pruned(masks, threshold))
        gone = int((masks <= threshold).sum())
        note = f"It prunes {gone} of {len(masks)} channels: those of a mask up to {threshold:.2f}."
        return Removal(network.bridge.write_back(), facts={"rate": rate}, notes=self.told(note))

    def _centres(self, examples: Examples) -> dict[str, Tensor]:
        """Return beta of each offset: the offset of a BatchNorm, the mean of a convolution."""
        folded = [one.output for one in self.layers if one.folded]
        means = channel_means(self.ready, folded, examples)
        start = self.network.start
        return {
            one.offset: torch.from_numpy(means[one.output]) if one.folded else start[one.offset]
            for one in self.layers
            if one.offset is not None
        }


def _thresholds(apart: float) -> NDArray[np.float64]:
    """Return thresholds from the largest under 1 down to 0."""
    steps = np.arange(round(1 / apart) - 1, -1, -1)
    thresholds: NDArray[np.float64] = apart * steps.astype(np.float64)
    return thresholds


def channel_means(
    ready: Preparation, names: Sequence[str], examples: Examples
) -> dict[str, NDArray[np.float32]]:
    """Return the mean of each channel over images and places, by name of the tensor.

    Args:
        ready: The model.
        names: Results of convolutions, channels along the second axis.
        examples: Images.
    """
    layer = ready.layer  # which a body gives in any case
    body = ready.suspect.body_with([name for name in names if name != layer])
    total = {name: np.zeros(1) for name in names}
    for start in range(0, len(examples), body.batch_size):
        seen = body.observe(examples.images[start : start + body.batch_size])
        for name in names:
            values = seen[1] if name == layer else seen[2][name]
            flat = values.reshape(*values.shape[:2], -1).astype(np.float64)
            total[name] = total[name] + flat.mean(axis=2).sum(axis=0)
    return {name: (sums / len(examples)).astype(np.float32) for name, sums in total.items()}
