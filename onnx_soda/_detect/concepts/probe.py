"""The probe graph: concept in front of the model, confusion behind it.

Image pixels from 0 to 1 go in once and stay on the device. A probe sends the few numbers of a
concept (`fields`) and gets back, for each group of images, how much probability the model and each
reference head give to every class.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnx_soda._data.preprocessing import Preprocessing
from onnx_soda._detect.concepts.families import Shape
from onnx_soda._detect.concepts.fields import identity_fields
from onnx_soda._detect.concepts.folds import FOLDS
from onnx_soda._detect.concepts.layers import StyleLayer
from onnx_soda._detect.concepts.pipeline import (
    PREFIX,
    Wiring,
    graph_input,
    wire_preprocessing,
    wire_transform,
)
from onnx_soda._detect.concepts.reference import ReferenceHead
from onnx_soda._detect.concepts.styles import Change
from onnx_soda._model.anatomy import Anatomy
from onnx_soda._model.parts import extract_body, serialise
from onnx_soda._model.runtime import Batch, Session, choose_batch_size
from onnx_soda._suspect import Suspect


@dataclass(frozen=True, eq=False)
class ProbeImages:
    """Images to probe with.

    Attributes:
        pixels: Shape (images, channels, height, width), float32 from 0 to 1.
        membership: Share of each image in each group, shape (images, groups): 1 over the size
            of the group for its members, 0 for others.
        fold: Fold of each image, 0 or 1; reference heads fitted to the other one are read on it.
    """

    pixels: NDArray[np.float32]
    membership: NDArray[np.float32]
    fold: NDArray[np.integer]


def _flows(
    wiring: Wiring,
    tensors: Sequence[ir.Value],
    groups: Sequence[ir.Value],
    heads: Sequence[ReferenceHead],
    classes: int,
) -> ir.Value:
    """Wire the probabilities of model and reference heads, averaged over each group of images.

    Args:
        wiring: Takes the nodes.
        tensors: The logits, then the layer that each head reads.
        groups: Per fold that heads were fitted to, the membership of the images they are read on.
        heads: Reference heads.
        classes: Number of classes.
    """
    logits, *layers = (_as_float(wiring, value) for value in tensors)
    original = _probabilities(wiring, logits, classes)
    features = [head.pooling.wire(wiring, layer) for head, layer in zip(heads, layers, strict=True)]
    parts = []
    for fold, members in enumerate(groups):
        columns = [original]
        for head, values in zip(heads, features, strict=True):
            product = wiring.op("MatMul", values, wiring.constant(head.weights[fold]))
            scores = wiring.op("Add", product, wiring.constant(head.biases[fold]))
            columns.append(_probabilities(wiring, scores, classes))
        together = wiring.op("Concat", *columns, axis=1)
        parts.append(wiring.op("MatMul", wiring.op("Transpose", members, perm=[1, 0]), together))
    return wiring.op("Sum", *parts)


def _probabilities(wiring: Wiring, scores: ir.Value, classes: int) -> ir.Value:
    rows = wiring.op("Reshape", scores, wiring.constant([-1, classes], np.int64))
    return wiring.op("Softmax", rows, axis=1)


def _as_float(wiring: Wiring, value: ir.Value) -> ir.Value:
    if value.dtype == ir.DataType.FLOAT:
        return value
    return wiring.op("Cast", value, to=int(ir.DataType.FLOAT))


def build_probe(
    anatomy: Anatomy,
    preprocessing: Preprocessing,
    shape: Shape,
    heads: Sequence[ReferenceHead],
    classes: int,
    style_layer: StyleLayer | None = None,
) -> ir.Model:
    """Return the model with the concept pipeline in front and the flows behind.

    Args:
        anatomy: The classifier.
        preprocessing: How pixels become its input.
        shape: Channels, height and width of the images.
        heads: Reference heads.
        classes: Number of classes.
        style_layer: One of the layers that heads read, which images may be given a style in.
    """
    names = [anatomy.logits.value.name or "", *(head.pooling.name for head in heads)]
    body = extract_body(anatomy.view, names)
    graph = body.graph
    batch = anatomy.view.image.batch or "images"
    pixels = graph_input("pixels", [batch, *shape])
    groups = [graph_input(f"groups_{fold}", [batch, "groups"]) for fold in range(FOLDS)]
    fields = identity_fields(*shape).as_feeds("")
    inputs = {name: graph_input(name, array.shape) for name, array in fields.items()}
    front, back = Wiring(), Wiring()
    changed = wire_transform(front, pixels, inputs, shape)
    image = wire_preprocessing(front, changed, preprocessing, anatomy, shape)
    old = graph.inputs[0]
    for user, index in tuple(old.uses()):
        user.replace_input_with(index, image)
    tensors = list(graph.outputs)
    if style_layer:
        styles = style_layer.inputs()
        tensors = _restyle(graph, tensors, style_layer, styles)
        inputs |= styles
    flows = _flows(back, tensors, groups, heads, classes)
    graph.insert_before(graph[0], front.nodes)
    graph.extend(back.nodes)
    for constant in (*front.constants, *back.constants):
        graph.register_initializer(constant)
    graph.inputs[:] = [pixels, *groups, *inputs.values()]
    flows.dtype, flows.shape = ir.DataType.FLOAT, ir.Shape(["groups", "flows"])
    graph.outputs[:] = [flows]
    return body


def _restyle(
    graph: ir.Graph, tensors: Sequence[ir.Value], layer: StyleLayer, inputs: dict[str, ir.Value]
) -> list[ir.Value]:
    """Put the change of style behind a layer; return the tensors with that one replaced."""
    wiring = Wiring()
    old = next(value for value in tensors if value.name == layer.name)
    new = layer.wire(wiring, old, inputs)
    for user, index in tuple(old.uses()):
        if user not in wiring.nodes:
            user.replace_input_with(index, new)
    graph.insert_after(_producer(old), wiring.nodes)
    for constant in wiring.constants:
        graph.register_initializer(constant)
    return [new if value is old else value for value in tensors]


def _producer(value: ir.Value) -> ir.Node:
    node = value.producer()
    if node is None:
        raise ValueError(f"{value.name} is no hidden tensor")
    return node


class Probe:
    """A classifier that is asked about concepts and styles.

    Args:
        suspect: The classifier.
        images: Images to probe with.
        heads: Reference heads; none where the model alone is asked.
        classes: Number of classes.
        style_layer: One of the layers that heads read; styles are asked about there.
    """

    def __init__(
        self,
        suspect: Suspect,
        images: ProbeImages,
        heads: Sequence[ReferenceHead],
        classes: int,
        style_layer: StyleLayer | None = None,
    ) -> None:
        anatomy, options = suspect.anatomy, suspect.options.runtime
        channels, height, width = images.pixels.shape[1:]
        self.shape: Shape = (channels, height, width)
        self._heads = 1 + len(heads)
        fixed = anatomy.view.image.batch
        model = serialise(
            build_probe(anatomy, suspect.preprocessing, self.shape, heads, classes, style_layer),
            anatomy.model.folder,
        )
        self._unchanged = identity_fields(*self.shape).as_feeds("")
        if style_layer:
            self._unchanged |= style_layer.unchanged()
        self._session = Session(model, options, fixed, suspect.meter)
        self._size = fixed or choose_batch_size(list(anatomy.view.shapes.values()), options)
        self._take(images)

    def _take(self, images: ProbeImages) -> None:
        self._images = images
        self._pixels = [
            self._session.upload({PREFIX + "pixels": images.pixels[rows]}) for rows in self._rows()
        ]
        self._batches = self._grouped(images.membership)

    def over(self, images: ProbeImages) -> Probe:
        """Return a probe of the same session over other images of the same size."""
        other = copy(self)
        other._take(images)
        return other

    def _rows(self) -> list[slice]:
        """Return the images of each batch."""
        starts = range(0, len(self._images.pixels), self._size)
        return [slice(start, start + self._size) for start in starts]

    def _grouped(self, membership: NDArray[np.float32]) -> list[Batch]:
        """Put each batch's groups beside its images; images that fill a batch up are in none."""
        batches = []
        for rows, pixels in zip(self._rows(), self._pixels, strict=True):
            fold, own = self._images.fold[rows], membership[rows]
            missing = max((self._session.fixed_batch or 0) - pixels.rows, 0)
            # A head is read on the images that it was not fitted to.
            read = (np.where((fold != fitted_to)[:, None], own, 0) for fitted_to in range(FOLDS))
            groups = {
                f"{PREFIX}groups_{fitted_to}": np.pad(part, ((0, missing), (0, 0)))
                for fitted_to, part in enumerate(read)
            }
            values = {**pixels.values, **self._session.upload(groups).values}
            batches.append(Batch(values, pixels.rows))
        return batches

    def regrouped(self, membership: NDArray[np.float32]) -> Probe:
        """Return the same probe over the same images in other groups; nothing else is copied.

        Args:
            membership: As in `ProbeImages`.
        """
        other = copy(self)
        other._batches = self._grouped(membership)
        return other

    def flows(self, change: Change | None) -> NDArray[np.float64]:
        """Return where each group's probability goes under a concept or a style.

        Args:
            change: What is done; None for the images as they are.

        Returns:
            Shape (1 + heads, groups, classes): mean probability of each class, by the model
            first, then by each reference head.
        """
        feeds = {**self._unchanged, **(change.feeds(self.shape) if change else {})}
        extra = {PREFIX + name: array for name, array in feeds.items()}
        # The sum over batches: membership is a share of the whole group. A run's output has the
        # groups as rows, not the images.
        parts = [self._session.run(batch, extra, whole=True)[0] for batch in self._batches]
        total: NDArray[np.float64] = np.asarray(parts, dtype=np.float64).sum(axis=0)
        return total.reshape(len(total), self._heads, -1).transpose(1, 0, 2)
