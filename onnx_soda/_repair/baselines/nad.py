"""NAD, neural attention distillation (Li et al., ICLR 2021).

A teacher is a copy of the model that is fine-tuned on clean images. The student is the model
itself, trained on the same images so that it attends to what the teacher attends to:

    CE + sum over layers l of beta_l * MSE(A(F_l of the student), A(F_l of the teacher)),
    A(F) = sum over channels of F^2, divided by its length over the places

Where nothing but the parameters differs, steps, rates and the choice of the rates are those of
`fine_tuning`, for teacher and student alike; both are run for 10 epochs, of which the paper has 10
and 20. The teacher's maps are computed once, since images are shown as they are.

Layers: the paper takes the ends of the three groups of a residual network. Here they are the last
tensors of each spatial resolution of 4 x 4 or more that all paths pass through; of more than three
the deepest. Betas are the program's: 500, 1000, 1000. Where there is no such tensor, and where maps
have one place alone, the attention is constant and nothing is distilled: as in the published
comparison's VGG11, whose three layers all are of 1 x 1. It is fine-tuning then, and says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from onnx_soda._model.anatomy import Anatomy, neuron_axis, weighted_operand
from onnx_soda._repair.baselines.base import Examples
from onnx_soda._repair.baselines.fine_tuning import FineTuningRemover
from onnx_soda._repair.baselines.networks import ExtraLoss, Network, network_of

# Sides of a map, in places, under which there is nothing to attend to.
_SMALLEST_SIDE = 4
# Of the deepest layers, the last one for the deepest (github.com/bboylyg/NAD, config.py).
_BETAS = (500.0, 1000.0, 1000.0)
# Added to the length, as in that program.
_EPSILON = 1e-6
# A map has images, channels, height and width.
_MAP_AXES = 4


@dataclass(frozen=True)
class MapLayer:
    """A tensor to distil.

    Attributes:
        name: Of the tensor.
        axis: Axis of its channels.
        places: Height and width.
    """

    name: str
    axis: int
    places: tuple[int, ...]


def map_layers(anatomy: Anatomy) -> tuple[MapLayer, ...]:
    """Return the last tensor of each spatial resolution, from the image on; three at most.

    Args:
        anatomy: The classifier. Tensors that some path goes round do not count, nor those that no
            layer with weights comes before.
    """
    view = anatomy.view
    found: dict[tuple[int, ...], MapLayer] = {}
    for value in view.cuts(anatomy.logits.value):
        shape, axis = view.shape(value) or (), neuron_axis(view, value)
        sizes = [size or 0 for place, size in enumerate(shape) if place not in (0, axis)]
        weighted = any(weighted_operand(view, node) is not None for node in view.ancestors(value))
        if len(shape) == _MAP_AXES and weighted and min(sizes) >= _SMALLEST_SIDE:
            places = tuple(sizes)
            found.pop(places, None)  # so that the order is that of the last ones
            found[places] = MapLayer(value.name or "", axis, places)
    return tuple(found.values())[-len(_BETAS) :]


def attention(maps: Tensor, axis: int) -> Tensor:
    """Return where a layer attends to, shape (images, places): A(F) of the paper.

    Args:
        maps: Shape (images, channels, height, width), or with the channels elsewhere.
        axis: Axis of the channels.
    """
    energy = maps.float().square().sum(axis).flatten(1)
    share: Tensor = energy / (energy.norm(dim=1, keepdim=True) + _EPSILON)
    return share


class NadRemover(FineTuningRemover):
    """Distils the attention of a fine-tuned teacher."""

    name: ClassVar[str] = "nad"
    title: ClassVar[str] = "NAD"
    source: ClassVar[str] = "Li et al., ICLR 2021"
    trains: ClassVar[str] = "all"

    def converted(self) -> Network:
        """See `FineTuningRemover.converted`; the maps are further outputs."""
        return network_of(self.ready, "NAD needs", [layer.name for layer in self.layers])

    @cached_property
    def layers(self) -> tuple[MapLayer, ...]:
        """What is distilled."""
        return map_layers(self.ready.suspect.anatomy)

    def begin(self, teaching: Examples, held_out: Examples) -> tuple[str, ...]:
        """Say which layers are distilled."""
        del teaching, held_out
        if not self.layers:
            side = _SMALLEST_SIDE
            return (
                f"No tensor that all paths pass through is a map of {side} x {side} or more, so "
                "there is no attention to distil: NAD is fine-tuning here.",
            )
        named = ", ".join(
            f"{layer.name} ({' x '.join(map(str, layer.places))})" for layer in self.layers
        )
        return (f"Its attention is distilled at {named}.",)

    def trained(self, examples: Examples, factor: float) -> bool:
        """Train a teacher, and then the student; see `FineTuningRemover.trained`."""
        network, recipe = self.network, self.recipe.times(factor)
        if not self.layers:
            return super().trained(examples, factor)
        network.put(network.start)
        if not network.train(examples, recipe, self.teller("NAD's teacher")):
            return False
        extra = self.distillation(examples)
        network.put(network.start)
        return network.train(examples, recipe, self.teller("NAD's student"), extra)

    def attentions(self, outputs: Sequence[Tensor]) -> list[Tensor]:
        """Return the attention of each layer distilled, from the network's outputs."""
        maps = zip(outputs[1:], self.layers, strict=True)
        return [attention(one, layer.axis) for one, layer in maps]

    def distillation(self, examples: Examples) -> ExtraLoss:
        """Return the distance of the attention to that of the network as it is now.

        Args:
            examples: Images that will be trained on, in this order.
        """
        taught = self.network.seen(examples.images, self.attentions)
        betas = _BETAS[-len(self.layers) :]

        def distance(outputs: Sequence[Tensor], rows: Tensor) -> Tensor:
            parts = [
                beta * mse_loss(own, goal[rows])
                for beta, own, goal in zip(betas, self.attentions(outputs), taught, strict=True)
            ]
            return torch.stack(parts).sum()

        return distance
