"""Puts together what the other modules of this room find: the anatomy of a classifier."""

from __future__ import annotations

from dataclasses import dataclass

from onnx_soda.model.graph import GraphView, view_graph
from onnx_soda.model.load import OnnxModel
from onnx_soda.model.logits import Logits, find_logits
from onnx_soda.model.penultimate import Layer, find_layers, find_penultimate, layer_named

__all__ = ["Anatomy", "dissect", "dissect_view"]

ROLES = ("last", "deep", "middle", "shallow")


@dataclass(frozen=True, eq=False)
class Anatomy:
    """Where a classifier takes images, scores classes, and can be intervened on.

    Attributes:
        model: The file.
        view: Its graph, prepared.
        logits: The pre-softmax scores.
        layer: The layer to analyse.
        candidates: The layers offered for `--layer`; the penultimate one first.
    """

    model: OnnxModel
    view: GraphView
    logits: Logits
    layer: Layer
    candidates: tuple[Layer, ...]

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences about choices that the graph left open."""
        return (*self.logits.notes, *self.layer.notes)


def dissect(model: OnnxModel, layer: str = "last", logits: str | None = None) -> Anatomy:
    """Find the image input, the logits and the layer to analyse.

    Args:
        model: The model.
        layer: "last", "deep", "middle", "shallow", or the name of a tensor.
        logits: Name of the tensor to take as logits; found where not given.

    Raises:
        NotAClassifierError: No image input, no scores over classes, or no hidden layer.
        TensorNotFoundError: A name given is not in the graph or cannot serve.
    """
    return dissect_view(model, view_graph(model), layer, logits)


def dissect_view(
    model: OnnxModel, view: GraphView, layer: str = "last", logits: str | None = None
) -> Anatomy:
    """Do what `dissect` does with a graph that is prepared already."""
    scores = find_logits(view, logits)
    if layer in ROLES or layer not in view.values:
        last = find_penultimate(view, scores.value)
        candidates = find_layers(view, scores.value, last)
        by_role = {candidate.role: candidate for candidate in candidates}
        chosen = by_role.get(layer) or layer_named(view, layer, scores.value)
    else:
        chosen, candidates = layer_named(view, layer, scores.value), ()
    return Anatomy(model, view, scores, chosen, candidates)
