"""What all steps of a repair share: the split, the sets of images, the suspect, the two modules."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnx_soda._bridge.bridge import to_torch
from onnx_soda._data.datasets import CleanSet
from onnx_soda._data.sources import IntArray, SubsetSource
from onnx_soda._data.splits import balanced_sample, check_labels
from onnx_soda._detect.concepts.concept import Concept
from onnx_soda._errors import ConversionError, LabelError, ParityError, RepairError
from onnx_soda._options import Progress, RepairOptions
from onnx_soda._repair.files import read_proto
from onnx_soda._repair.teachers import Lessons, Teachers
from onnx_soda._suspect import Summary, Suspect

if TYPE_CHECKING:
    from onnx_soda._bridge.bridge import TorchModel

# Fewer images of the victim cannot be split in three.
_FEWEST_VICTIMS = 8
# Images that a torch module is compared with ONNX Runtime on.
_COMPARED = 8
# Share of each class to measure with; the rest is split evenly into folds.
_MEASURE, _FOLDS = 0.25, 3
# The most images of one fold, and to measure with. More teach a last layer little and cost time.
_MOST = 2000


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images of one part, as the model takes them, with their labels.

    Attributes:
        clean: Clean images, of all classes.
        labels: Their classes.
        infected: Reconstructed infected images.
        infected_labels: Their true classes.
        bystanders: Images of other classes, changed as the infected ones are.
        bystander_labels: Their classes.
        lessons: What references say of changed images; None where there are no references, or where
            nothing is trained on the part.
    """

    clean: NDArray[Any]
    labels: NDArray[np.int64]
    infected: NDArray[Any]
    infected_labels: NDArray[np.int64]
    bystanders: NDArray[Any]
    bystander_labels: NDArray[np.int64]
    lessons: Lessons | None = None

    def __add__(self, other: ImageSet) -> ImageSet:
        names = [one.name for one in fields(self) if one.name != "lessons"]
        joined = {
            name: np.concatenate([getattr(self, name), getattr(other, name)]) for name in names
        }
        both = self.lessons + other.lessons if self.lessons and other.lessons else None
        return replace(self, lessons=both, **joined)


@dataclass(frozen=True, eq=False)
class Partition:
    """Positions in a clean set; no two parts share one.

    Attributes:
        folds: What weights are trained on. Each setting is judged on each fold after training on
            the others (cross-validation); the one chosen is trained on all.
        measure: What the result is measured with; nothing else sees it.
    """

    folds: tuple[IntArray, ...]
    measure: IntArray

    @property
    def train(self) -> IntArray:
        """All folds together."""
        return np.sort(np.concatenate(self.folds))


def partition(labels: IntArray, seed: int) -> Partition:
    """Split each class: a quarter to measure with, three folds to train on and to choose by.

    Args:
        labels: Shape (images,).
        seed: For the draw.
    """
    rng = np.random.default_rng(seed)
    parts: tuple[list[IntArray], ...] = tuple([] for _ in range(_FOLDS + 1))
    present = np.unique(labels)
    most = max(_MOST // len(present), 2)
    for label in present:
        own = rng.permutation(np.flatnonzero(labels == label))
        measure, rest = np.split(own, [round(_MEASURE * len(own))])
        for part, rows in zip(parts, (measure, *np.array_split(rest, _FOLDS)), strict=True):
            part.append(rows[:most])
    measured, *folds = (np.sort(np.concatenate(part)).astype(np.int64) for part in parts)
    return Partition(tuple(folds), measured)


@dataclass(frozen=True)
class Task:
    """What is to be repaired.

    Attributes:
        pair: Victim and target class.
        also: Other classes that the same changes turn into the target.
        concepts: Concepts that turn the pair, where a scan has found them.
    """

    pair: tuple[int, int]
    also: tuple[int, ...] = ()
    concepts: tuple[Concept, ...] = ()


@dataclass(frozen=True, eq=False)
class Preparation:
    """What all steps of a repair share.

    Attributes:
        suspect: The model at work on the clean images.
        task: What is to be repaired; of the other classes those with enough images.
        parts: Which images train, and which measure.
        options: As asked for.
        progress: Called as the repair goes on.
        teachers: References that say what changed images should be; None where there are none.
    """

    suspect: Suspect
    task: Task
    parts: Partition
    options: RepairOptions
    progress: Progress
    teachers: Teachers | None = None

    @cached_property
    def proto(self) -> onnx.ModelProto:
        """The model as its file has it, with all weights."""
        return read_proto(self.suspect.model)

    @property
    def clean(self) -> CleanSet:
        """Clean images, all of them."""
        assert self.suspect.clean is not None  # noqa: S101 - `prepare` has looked
        return self.suspect.clean

    @property
    def classes(self) -> int:
        """Number of classes of the model."""
        return self.suspect.classes or 0

    @property
    def layer(self) -> str:
        """Name of the last layer with weights' input."""
        return self.suspect.anatomy.layer.name

    @cached_property
    def observation(self) -> Summary:
        """What the model makes of images that train, as many of each class."""
        train = self.parts.train
        rng = np.random.default_rng(self.options.scan.seed)
        labels, most = self.clean.labels[train], self.options.scan.samples_per_class
        rows = train[balanced_sample(labels, self.classes, most, rng)]
        return self.suspect.summary(rows, self.progress)

    def inputs_of(self, rows: IntArray) -> NDArray[Any]:
        """Return clean images as the model takes them."""
        return self.suspect.inputs(self.suspect.pixels(rows))

    @cached_property
    def sample(self) -> NDArray[Any]:
        """A few inputs to compare torch with ONNX Runtime on."""
        return self.inputs_of(self.parts.train[:_COMPARED])

    @property
    def climbable(self) -> bool:
        """Whether the image can be changed by gradients, and is to be."""
        floating = np.issubdtype(self.suspect.anatomy.view.image.numpy_dtype(), np.floating)
        return bool(floating) and self.options.reconstruction != "concepts"

    @cached_property
    def head(self) -> TorchModel:
        """The last layers in torch, from the analysed layer on.

        Raises:
            RepairError: They cannot be converted, or read more than one tensor.
        """
        bridge = to_torch(self.proto, images=self.sample, head_only=True)
        if bridge.inputs != (self.layer,):
            raise RepairError(
                "the last layers read more than one tensor, and cannot be trained apart",
                "Please report it, with the model.",
            )
        return bridge

    @cached_property
    def whole(self) -> tuple[TorchModel | None, tuple[str, ...]]:
        """The whole model in torch where it is needed, and what is to be said about it.

        Raises:
            RepairError: It cannot be converted, and the options insist on it.
        """
        options = self.options
        if options.scope == "head" and options.reconstruction == "concepts":
            return None, ()
        logits = self.suspect.anatomy.logits.value.name or ""
        try:
            module = to_torch(self.proto, images=self.sample, outputs=[logits, self.layer])
        except (ConversionError, ParityError) as error:
            if options.scope in ("path", "deep") or options.reconstruction == "ascent":
                raise
            return None, (f"Neither gradient ascent nor training of all layers: {error.message}.",)
        return module, module.notes


def prepare(
    suspect: Suspect,
    task: Task,
    options: RepairOptions,
    progress: Progress,
    teachers: Teachers | None = None,
) -> Preparation:
    """Check what is asked for, and split the clean set.

    Args:
        suspect: The model, with clean images.
        task: What is to be repaired; classes with too few images are left out of `also`.
        options: See `RepairOptions`.
        progress: Called as it goes on.
        teachers: See `Preparation`.

    Raises:
        RepairError: The pair is none of this model's, or the options or the images are none that a
            repair can go by.
        LabelError: The clean set does not fit the model, or has too few images of the victim.
    """
    clean = suspect.clean
    if clean is None:
        raise RepairError("a repair needs clean images", "Give a clean set.")
    _check_asked(options, clean)
    if suspect.anatomy.layer.only_read:
        raise RepairError(
            "a repair trains the layer that all scores come from, and this model has no such layer",
            "Repair the networks that it is put together from, one by one.",
        )
    _check_pair(task.pair, suspect.classes or 0, clean)
    _ = suspect.sample  # which checks that all classes have images
    others = (label for label in task.also if label not in task.pair)
    also = tuple(label for label in others if _images_of(label, clean) >= _FEWEST_VICTIMS)
    parts = partition(clean.labels, options.scan.seed)
    return Preparation(suspect, replace(task, also=also), parts, options, progress, teachers)


def subset(clean: CleanSet, rows: IntArray) -> CleanSet:
    """Return some images of a clean set as a clean set."""
    return replace(clean, labels=clean.labels[rows], images=SubsetSource(clean.images, rows))


FloatArray = NDArray[np.float32]


def _check_asked(options: RepairOptions, clean: CleanSet) -> None:
    if options.scan.layer != "last" or options.scan.logits is not None:
        raise RepairError(
            "a repair trains the layer before the model's own logits",
            "Leave layer and logits of the scan's options as they are.",
        )
    if clean.preprocessed:
        raise RepairError(
            "infected images are made of pixels, and these are numbers on no scale of pixels",
            "Give the images before preprocessing.",
        )


def _check_pair(pair: tuple[int, int], classes: int, clean: CleanSet) -> None:
    check_labels(clean.labels, classes, clean.class_names, allow_missing=True)
    victim, target = pair
    if victim == target or not (0 <= victim < classes and 0 <= target < classes):
        raise RepairError(
            f"{victim} and {target} are no pair of the model's classes 0..{classes - 1}",
            "Give two different ones.",
        )
    images = _images_of(victim, clean)
    if images < _FEWEST_VICTIMS:
        raise LabelError(
            f"the clean set has {images} images of the victim class {victim}",
            f"Repair needs at least {_FEWEST_VICTIMS}.",
        )


def _images_of(label: int, clean: CleanSet) -> int:
    return int((clean.labels == label).sum())
