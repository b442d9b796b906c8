"""The probe graph: concept in front of the model, confusion behind it.

Image pixels from 0 to 1 go in once and stay on the device. A probe sends the few numbers of a
concept (`fields`) and gets back, for each group of images, how much probability the model and each
reference head give to every class.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnx_soda.concepts.concept import Concept
from onnx_soda.concepts.families import Shape
from onnx_soda.concepts.fields import identity_fields
from onnx_soda.concepts.pipeline import wire_preprocessing, wire_transform
from onnx_soda.concepts.reference import ReferenceHeads
from onnx_soda.concepts.wiring import PREFIX, Wiring, graph_input
from onnx_soda.data.preprocessing import Preprocessing
from onnx_soda.model.anatomy import Anatomy
from onnx_soda.model.providers import RuntimeOptions
from onnx_soda.model.runtime import Session, choose_batch_size
from onnx_soda.model.split import extract_body, serialise

__all__ = ["Probe", "ProbeImages"]


@dataclass(frozen=True, eq=False)
class ProbeImages:
    """Images to probe with.

    Attributes:
        pixels: Shape (images, channels, height, width), float32 from 0 to 1.
        membership: Share of each image in each group, shape (images, groups): 1 over the size
            of the group for its members, 0 for others.
    """

    pixels: NDArray[np.float32]
    membership: NDArray[np.float32]


def _flows(
    wiring: Wiring, anatomy: Anatomy, graph: ir.Graph, groups: ir.Value, heads: ReferenceHeads
) -> ir.Value:
    """Wire the probabilities of model and copies, averaged over each group of images."""
    logits, layer = (_as_float(wiring, value) for value in graph.outputs[:2])
    classes = heads.biases.shape[1]
    per_class = wiring.constant([-1, classes], np.int64)
    original = wiring.op("Softmax", wiring.op("Reshape", logits, per_class), axis=1)
    features = _pooled(wiring, layer, anatomy)
    weights = heads.weights.transpose(1, 0, 2).reshape(heads.weights.shape[1], -1)
    scores = wiring.op(
        "Add",
        wiring.op("MatMul", features, wiring.constant(weights)),
        wiring.constant(heads.biases.reshape(-1)),
    )
    copies = wiring.op("Softmax", wiring.op("Reshape", scores, per_class), axis=1)
    together = wiring.constant([-1, heads.copies * classes], np.int64)
    all_heads = wiring.op("Concat", original, wiring.op("Reshape", copies, together), axis=1)
    return wiring.op("MatMul", wiring.op("Transpose", groups, perm=[1, 0]), all_heads)


def _as_float(wiring: Wiring, value: ir.Value) -> ir.Value:
    if value.dtype == ir.DataType.FLOAT:
        return value
    return wiring.op("Cast", value, to=int(ir.DataType.FLOAT))


def _pooled(wiring: Wiring, layer: ir.Value, anatomy: Anatomy) -> ir.Value:
    """Wire `reference.pooled_features`: the mean of each neuron over all places."""
    rank, axis = len(anatomy.layer.shape or (0, 0)), anatomy.layer.axis
    if rank == 2:
        return layer
    if axis != 1:
        order = [0, axis, *(i for i in range(1, rank) if i != axis)]
        layer = wiring.op("Transpose", layer, perm=order)
    mean = wiring.op("GlobalAveragePool", layer)
    return wiring.op("Reshape", mean, wiring.constant([0, -1], np.int64))


def build_probe(
    anatomy: Anatomy, how: Preprocessing, shape: Shape, heads: ReferenceHeads
) -> ir.Model:
    """Return the model with the concept pipeline in front and the flows behind.

    Args:
        anatomy: The classifier.
        how: Its preprocessing.
        shape: Channels, height and width of the images.
        heads: Reference heads on the pooled layer.
    """
    body = extract_body(anatomy.view, [anatomy.logits.value.name or "", anatomy.layer.name])
    graph = body.graph
    batch = anatomy.view.image.batch or "images"
    pixels = graph_input("pixels", [batch, *shape])
    groups = graph_input("groups", [batch, "groups"])
    fields = identity_fields(*shape).as_feeds("")
    inputs = {name: graph_input(name, array.shape) for name, array in fields.items()}
    front, back = Wiring(), Wiring()
    changed = wire_transform(front, pixels, inputs, shape)
    image = wire_preprocessing(front, changed, how, anatomy, shape)
    old = graph.inputs[0]
    for user, index in tuple(old.uses()):
        user.replace_input_with(index, image)
    flows = _flows(back, anatomy, graph, groups, heads)
    graph.insert_before(graph[0], front.nodes)
    graph.extend(back.nodes)
    for constant in (*front.constants, *back.constants):
        graph.register_initializer(constant)
    graph.inputs[:] = [pixels, groups, *inputs.values()]
    flows.dtype, flows.shape = ir.DataType.FLOAT, ir.Shape(["groups", "flows"])
    graph.outputs[:] = [flows]
    return body


class Probe:
    """A classifier that is asked about concepts.

    Args:
        anatomy: The classifier.
        how: Its preprocessing.
        images: Images to probe with.
        heads: Reference heads.
        options: How sessions run.
    """

    def __init__(
        self,
        anatomy: Anatomy,
        how: Preprocessing,
        images: ProbeImages,
        heads: ReferenceHeads,
        options: RuntimeOptions,
    ) -> None:
        channels, height, width = images.pixels.shape[1:]
        self.shape: Shape = (channels, height, width)
        self._heads = 1 + heads.copies
        fixed = anatomy.view.image.batch
        model = serialise(build_probe(anatomy, how, self.shape, heads), anatomy.model.folder)
        self._session = Session(model, options, fixed)
        size = fixed or choose_batch_size(list(anatomy.view.shapes.values()), options)
        self._batches = [
            self._session.upload(_feeds(images, start, size, bool(fixed)))
            for start in range(0, len(images.pixels), size)
        ]

    def flows(self, concept: Concept | None) -> NDArray[np.float64]:
        """Return where each group's probability goes under a concept.

        Args:
            concept: The concept; None for the images as they are.

        Returns:
            Shape (1 + copies, groups, classes): mean probability of each class, by the original
            head first, then by each reference head.
        """
        fields = concept.render(self.shape) if concept else identity_fields(*self.shape)
        extra = fields.as_feeds(PREFIX)
        # The sum over batches: membership is a share of the whole group. A run's output has the
        # groups as rows, not the images.
        parts = [self._session.run(batch, extra, whole=True)[0] for batch in self._batches]
        total: NDArray[np.float64] = np.asarray(parts, dtype=np.float64).sum(axis=0)
        return total.reshape(len(total), self._heads, -1).transpose(1, 0, 2)


def _feeds(images: ProbeImages, start: int, size: int, fixed: bool) -> dict[str, NDArray[Any]]:
    """Return one batch; where the batch is fixed, filled up with images of no group."""
    pixels = images.pixels[start : start + size]
    groups = images.membership[start : start + size]
    missing = size - len(pixels) if fixed else 0
    return {
        f"{PREFIX}pixels": np.concatenate([pixels, np.zeros((missing, *pixels.shape[1:]), "f")]),
        f"{PREFIX}groups": np.concatenate([groups, np.zeros((missing, groups.shape[1]), "f")]),
    }
