"""The probe: concept in front of the model, confusion behind it.

Image pixels from 0 to 1 go in once and stay on the device. A probe sends the few numbers of a
concept (`fields`) and gets back, for each group of images, how much probability the model and each
reference head give to every class.

Where styles are asked about, the model is cut in two at their layer. A style leaves the image as it
is. So what the first half makes of it is kept, and each style runs the second half alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from functools import partial
from weakref import WeakKeyDictionary

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnx_soda._detect.concepts.concept import Concept
from onnx_soda._detect.concepts.families import Shape
from onnx_soda._detect.concepts.folds import FOLDS
from onnx_soda._detect.concepts.layers import StyleLayer
from onnx_soda._detect.concepts.pipeline import (
    PREFIX,
    Transform,
    Uploaded,
    Wiring,
    form_of,
    graph_input,
)
from onnx_soda._detect.concepts.reference import ReferenceHead
from onnx_soda._detect.concepts.styles import Change, Style
from onnx_soda._model.parts import cut_in_two, extract_body, serialise
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


def names_read(suspect: Suspect, heads: Sequence[ReferenceHead]) -> list[str]:
    """Return the tensors that a probe reads: the logits, then the layer of each reference head."""
    return [suspect.anatomy.logits.value.name or "", *(head.pooling.name for head in heads)]


def build_probe(
    body: ir.Model,
    names: Sequence[str],
    heads: Sequence[ReferenceHead],
    classes: int,
    style_layer: StyleLayer | None = None,
) -> ir.Model:
    """Return a model, or its second half, with the flows behind.

    Args:
        body: What computes the tensors that are read; changed.
        names: Of these tensors: the logits, then the layer that each head reads.
        heads: Reference heads.
        classes: Number of classes.
        style_layer: The first input of the body, if it may be given a style there.
    """
    graph = body.graph
    known = {value.name: value for value in (*graph.inputs, *graph.outputs)}
    styles = style_layer.inputs() if style_layer else {}
    if style_layer:
        known[style_layer.name] = _restyle(graph, style_layer, styles)
    groups = [graph_input(f"groups_{fold}", ["images", "groups"]) for fold in range(FOLDS)]
    back = Wiring("flows_")
    flows = _flows(back, [known[name] for name in names], groups, heads, classes)
    graph.extend(back.nodes)
    for constant in back.constants:
        graph.register_initializer(constant)
    graph.inputs.extend([*groups, *styles.values()])
    flows.dtype, flows.shape = ir.DataType.FLOAT, ir.Shape(["groups", "flows"])
    graph.outputs[:] = [flows]
    return body


def _restyle(graph: ir.Graph, layer: StyleLayer, inputs: dict[str, ir.Value]) -> ir.Value:
    """Put the change of style behind the first input; return the tensor with the new style."""
    wiring, old = Wiring("style_"), graph.inputs[0]
    readers = tuple(old.uses())
    new = layer.wire(wiring, old, inputs)
    for user, index in readers:
        user.replace_input_with(index, new)
    graph.insert_before(graph[0], wiring.nodes)
    for constant in wiring.constants:
        graph.register_initializer(constant)
    return new


# Of what the first half of a model makes of images, and is kept: that of 80 images of 224 x 224 in
# a VGG-16, of 660 in a ResNet-18.
KEPT_BYTES = 256 * 2**20


class FirstHalf:
    """The first half of a model; keeps what it makes of images as they are.

    Args:
        session: From the image to the tensors between the halves.
        room: Bytes that may be kept. What was asked for longest ago goes first, and what is kept of
            images goes with them.
    """

    def __init__(self, session: Session, room: int) -> None:
        self._session, self._room = session, room
        self._kept: WeakKeyDictionary[Uploaded, Batch] = WeakKeyDictionary()

    def unchanged(self, images: Uploaded, transform: Transform) -> Batch:
        """Return what it makes of images as they are."""
        made = self._kept.pop(images, None) or self.run(transform.apply(images, {}))
        if made.size <= self._room:
            while made.size + sum(batch.size for batch in self._kept.values()) > self._room:
                del self._kept[next(iter(self._kept))]
            self._kept[images] = made
        return made

    def run(self, batch: Batch) -> Batch:
        """Return what it makes of images in the form that the model takes."""
        return self._session.leave(batch)


class Probe:
    """A classifier that is asked about concepts and styles.

    Args:
        suspect: The classifier.
        images: Images to probe with.
        heads: Reference heads; none where the model alone is asked.
        classes: Number of classes.
        style_layer: One of the layers that heads read; styles are asked about there.
        room: Bytes of the first half of the network that may be kept.
    """

    def __init__(
        self,
        suspect: Suspect,
        images: ProbeImages,
        heads: Sequence[ReferenceHead],
        classes: int,
        style_layer: StyleLayer | None = None,
        room: int = KEPT_BYTES,
    ) -> None:
        channels, height, width = images.pixels.shape[1:]
        self.shape: Shape = (channels, height, width)
        self._heads = 1 + len(heads)
        self._unstyled = style_layer.unchanged() if style_layer else {}
        self._first: FirstHalf | None = None
        self._session = self._open(suspect, heads, classes, style_layer, room)
        view, options = suspect.anatomy.view, suspect.options.runtime
        form = form_of(view.image, suspect.preprocessing, self.shape)
        self._transform = Transform(self.shape, form, options)
        self._size = view.image.batch or choose_batch_size(list(view.shapes.values()), options)
        self._take(images)

    def _open(
        self,
        suspect: Suspect,
        heads: Sequence[ReferenceHead],
        classes: int,
        style_layer: StyleLayer | None,
        room: int,
    ) -> Session:
        """Open the session that tells the flows, and one for the first half where there is one."""
        view, folder = suspect.anatomy.view, suspect.anatomy.model.folder
        names, share = names_read(suspect, heads), 1.0
        open_part = partial(
            Session,
            options=suspect.options.runtime,
            fixed_batch=view.image.batch,
            meter=suspect.meter,
        )
        if style_layer:
            halves = cut_in_two(view, view.values[style_layer.name], names)
            body, share = halves.second, halves.share
            first = open_part(serialise(halves.first, folder), share=1 - share)
            self._first = FirstHalf(first, room)
        else:
            body = extract_body(view, names)
        model = build_probe(body, names, heads, classes, style_layer)
        return open_part(serialise(model, folder), share=share)

    def _take(self, images: ProbeImages) -> None:
        self._images = images
        self._pixels = [self._transform.upload(images.pixels[rows]) for rows in self._rows()]
        self._groups = self._grouped(images.membership)

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
        """Return each batch's groups; images that fill a batch up are in none."""
        batches = []
        for rows in self._rows():
            fold, own = self._images.fold[rows], membership[rows]
            missing = max((self._session.fixed_batch or 0) - len(own), 0)
            # A head is read on the images that it was not fitted to.
            read = (np.where((fold != fitted_to)[:, None], own, 0) for fitted_to in range(FOLDS))
            groups = {
                f"{PREFIX}groups_{fitted_to}": np.pad(part, ((0, missing), (0, 0)))
                for fitted_to, part in enumerate(read)
            }
            batches.append(self._session.upload(groups))
        return batches

    def regrouped(self, membership: NDArray[np.float32]) -> Probe:
        """Return the same probe over the same images in other groups; nothing else is copied.

        Args:
            membership: As in `ProbeImages`.
        """
        other = copy(self)
        other._groups = self._grouped(membership)
        return other

    def flows(self, change: Change | None) -> NDArray[np.float64]:
        """Return where each group's probability goes under a concept or a style.

        Args:
            change: What is done; None for the images as they are.

        Returns:
            Shape (1 + heads, groups, classes): mean probability of each class, by the model
            first, then by each reference head.
        """
        style = change.feeds(self.shape) if isinstance(change, Style) else {}
        fields = change.feeds(self.shape) if isinstance(change, Concept) else {}
        extra = {PREFIX + name: array for name, array in {**self._unstyled, **style}.items()}
        parts = []
        for images, groups in zip(self._pixels, self._groups, strict=True):
            shown = self._shown(images, fields)
            batch = Batch({**shown.values, **groups.values}, images.rows)
            # A run's output has the groups as rows, not the images.
            parts.append(self._session.run(batch, extra, whole=True)[0])
        # The sum over batches: membership is a share of the whole group.
        total: NDArray[np.float64] = np.asarray(parts, dtype=np.float64).sum(axis=0)
        return total.reshape(len(total), self._heads, -1).transpose(1, 0, 2)

    def _shown(self, images: Uploaded, fields: dict[str, NDArray[np.float32]]) -> Batch:
        """Return images under a concept as the session takes them, by way of the first half."""
        if self._first is None:
            return self._transform.apply(images, fields)
        if not fields:
            return self._first.unchanged(images, self._transform)
        return self._first.run(self._transform.apply(images, fields))
