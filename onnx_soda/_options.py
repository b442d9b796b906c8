"""What a caller can choose: scans, repairs, conversions, running models, and a child's limits.

The ground floor: nothing here imports a runtime. The command line reads the same `Literal`s.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

Progress = Callable[[str, int, int], None]
"""Called with the stage's name, the steps done, and the steps in all.

Behind the name may stand what is known by then, after `NOTE`: "concepts tried; best pair so far
8 -> 3". With no steps in all (0), what stands for the name is a sentence about what is going to be
done.
"""
NOTE = "; "
"""Stands between the name of a stage and what is known by then."""


def no_progress(stage: str, done: int, total: int) -> None:
    """Ignore progress."""


# Without a limit of the user's, activations may take this much: enough for 64 images of
# 224 x 224 in a ResNet-50, little enough for a laptop.
_DEFAULT_MEMORY = 2 * 2**30


ProviderName = Literal["auto", "cpu", "cuda"]
SplitName = Literal["auto", "train", "val", "test", "all"]


@dataclass(frozen=True)
class RuntimeOptions:
    """How sessions run.

    Attributes:
        provider: "auto" (CUDA where it loads), "cpu" or "cuda".
        threads: Threads for one operator; None for all that this process may use.
        batch_size: Images per run; None chooses one that keeps within `memory_limit`.
        memory_limit: Bytes for the activations of one batch. The images that all changes are shown
            on may take half as much again.
    """

    provider: ProviderName = "auto"
    threads: int | None = None
    batch_size: int | None = None
    memory_limit: int = _DEFAULT_MEMORY

    @property
    def thread_count(self) -> int:
        """Threads for one operator, as a number."""
        return self.threads or usable_cores()


def usable_cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


# A scan of a network of 200 million weights needs about 5 GiB: its weights lie in memory as read,
# as graph, and in each session.
_USUAL_MEMORY = 8 * 2**30
# Not more than this share of what the machine has.
_MOST_OF_MACHINE = 0.75
# Seconds that a scan aims at where the user does not say: as long as people wait for a check of
# what they have downloaded.
USUAL_AIM = 900.0
# Ten times the longest scan measured (docs/performance.md).
DEFAULT_SECONDS = 3600.0


def usual_memory() -> int:
    """Return the bytes a child may use where the user does not say."""
    try:
        machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):  # not a POSIX system
        return _USUAL_MEMORY
    return min(_USUAL_MEMORY, int(machine * _MOST_OF_MACHINE))


@dataclass(frozen=True)
class Limits:
    """What a child process may take.

    Attributes:
        memory: Bytes of memory beyond what the program itself needs.
        seconds: Wall-clock time; also, times the number of cores, processor time.

    Raises:
        ValueError: A limit is 0 or less, or endless.
    """

    memory: int = field(default_factory=usual_memory)
    seconds: float = DEFAULT_SECONDS

    def __post_init__(self) -> None:
        for name, value in (("memory", self.memory), ("seconds", self.seconds)):
            if not 0 < value < math.inf:
                raise ValueError(f"{name} must be over 0 and finite, not {value}")

    def after(self, seconds: float) -> Limits:
        """Return the same limits with so much time gone; a second is left at least."""
        return replace(self, seconds=max(self.seconds - seconds, 1.0))


AttributionMethod = Literal["auto", "closed-form", "batched", "first-order"]
NeuronKind = Literal["channels", "places"]
BudgetName = Literal["quick", "default", "thorough"]
Spread = Literal["median", "mean"]
Parameters = Literal["paper", "published"]
"""Whose parameters a method of other authors runs with: its own paper's, or those with which the
comparison of the SODA paper was published, where they differ."""

DEFAULT_THRESHOLD = 2.0
"""Anomaly index over which a class is abnormal. Paper, section 3.2.1: "Any data point with an
anomaly index > 2 has > 95 % probability of being an outlier"."""


@dataclass(frozen=True)
class Setting:
    """What a neuron is set to: x' = a x + b for any a and b. With 0 and 0 it is taken out.

    Attributes:
        a: Scaling factor.
        b: Offset.
    """

    a: float = 1.0
    b: float = 1.0


@dataclass(frozen=True)
class Intervention(Setting):
    """do(x = a x + b), paper Equation 2.

    Attributes:
        a: Scaling factor, not 0. The paper's experiments use 1.
        b: Offset, not 0: it moves neurons that clean images never activate. The paper uses 1.

    Raises:
        ValueError: a or b is 0 or not finite.
    """

    def __post_init__(self) -> None:
        for name, value in (("a", self.a), ("b", self.b)):
            if value == 0 or not math.isfinite(value):
                raise ValueError(f"{name} must be a finite number other than 0, not {value}")


LARGEST_SIDE = 4096
"""Pixels; no image classifier takes more."""


def _check_size(size: tuple[int, int] | None) -> None:
    if size is not None and not all(1 <= side <= LARGEST_SIDE for side in size):
        raise ValueError(f"size must be from 1 to {LARGEST_SIDE} pixels, not {size}")


def check_class_order(order: Sequence[int], what: str = "reference classes") -> None:
    """Make sure that there are classes, and different ones.

    Args:
        order: The classes.
        what: What to call them in the error.

    Raises:
        ValueError: There is none, they are not different, or one is negative.
    """
    if min(order, default=-1) < 0 or len(set(order)) < len(order):
        twice = next((number for number in order if list(order).count(number) > 1), None)
        named = "" if twice is None else f"; {twice} is named more than once"
        raise ValueError(f"{what} must be different class numbers, 0 or more{named}")


@dataclass(frozen=True)
class DataOptions:
    """How a clean set is read.

    Attributes:
        class_map: Where the model numbers the classes otherwise than the clean set: for each label
            of the clean set the class of the model. A label is the name of a class, or its number
            as text. None in place of a class leaves its images out.
        labels: File with the labels, where it does not lie beside the images: `.npy` for images in
            a `.npy` file; CSV, JSON lines or COCO for a folder or an archive of images.
        data_root: Links in a folder of images may lead below this folder, and not only below the
            folder itself.

    Raises:
        ValueError: The class map is empty, or has a negative class or one twice.
    """

    class_map: Mapping[str, int | None] | None = None
    labels: str | None = None
    data_root: str | None = None

    def __post_init__(self) -> None:
        if self.class_map is not None:
            kept = [number for number in self.class_map.values() if number is not None]
            check_class_order(kept, "the classes of class_map")


AUTO = "auto"
"""The method that takes what there is to compare with."""


@dataclass(frozen=True)
class ScanOptions:
    """Options of a scan.

    Attributes:
        method: Name of the detector that decides about the model's behaviour: "concepts" changes
            what the images show; "second-opinion" compares with reference models; "soda" is the
            paper's last-layer statistic alone. "auto" takes the second opinion where there are
            references that can be used, and concepts otherwise.
        budget: How many concepts to try, where there is time.
        time_limit: Seconds that the scan aims at; None for 15 minutes. Changes of images are
            planned so that they fit, and the report says what was left out. It is an aim: what
            ends a scan in any case is `Limits.seconds`.
        layer: "last", "deep", "middle", "shallow" or the name of a tensor; "tensor:deep" is the
            tensor of the name "deep".
        neurons: What a neuron of a feature map is, for the paper's statistic: a channel, or every
            place of every channel, as the paper counts.
        logits: Name of the logits; found where not given.
        intervention: a and b of do(x = a x + b); the paper uses 1 and 1.
        attribution: How to compute the causal attribution. "auto" takes the closed form where
            the tail is affine, else runs every intervention; of many places it estimates them by
            slopes ("first-order", which needs torch).
        threshold: Anomaly index over which a class is abnormal; the paper's 2.
        spread: Median or mean absolute deviation, see `anomaly_index`.
        toolkit_zeros: Put in the zeros that the paper's published toolkit puts in, where source
            and prediction (or target) class are the same; the paper has none.
        preprocess: Preset or JSON file; inferred where not given.
        size: Height and width of images, for a model that takes any; inferred where not given.
        samples_per_class: The most clean images of each class for the accuracy and the last-layer
            analysis; changes of the image use up to 400 of each.
        allow_missing_classes: Go on where classes have no clean images.
        min_accuracy: Clean accuracy under which nothing is concluded; None takes one surely above
            chance, by the numbers of classes and of images (`needed_accuracy`).
        seed: For the choice of images and the affinity test.
        runtime: Provider, threads, batch size, memory.
        reference_classes: Where references number the classes otherwise: for each class of the
            clean images, in order, what it is in the references. They may have further classes.
        data: How the clean set is read. Its class map holds for the references, too.
        parameters: Whose parameters a detector of other authors runs with, see `Parameters`.
        patches: Search for patch triggers, too, where the method is "auto", "concepts" or
            "second-opinion". That needs torch.

    Raises:
        ValueError: A number is out of its range, or none (NaN); two classes are the same one in
            the references.
    """

    method: str = AUTO
    budget: BudgetName = "default"
    time_limit: float | None = None
    layer: str = "last"
    neurons: NeuronKind = "channels"
    logits: str | None = None
    intervention: Intervention = field(default_factory=Intervention)
    attribution: AttributionMethod = "auto"
    threshold: float = DEFAULT_THRESHOLD
    spread: Spread = "median"
    toolkit_zeros: bool = False
    preprocess: str | None = None
    size: tuple[int, int] | None = None
    samples_per_class: int = 100
    allow_missing_classes: bool = False
    min_accuracy: float | None = None
    seed: int = 0
    runtime: RuntimeOptions = field(default_factory=RuntimeOptions)
    reference_classes: tuple[int, ...] | None = None
    data: DataOptions = field(default_factory=DataOptions)
    parameters: Parameters = "paper"
    patches: bool = True

    def __post_init__(self) -> None:
        _check_size(self.size)
        if self.reference_classes is not None:
            check_class_order(self.reference_classes)
        if self.min_accuracy is not None and not 0 <= self.min_accuracy <= 1:
            raise ValueError(f"min_accuracy must be between 0 and 1, not {self.min_accuracy}")
        if self.time_limit is not None and not 0 < self.time_limit < math.inf:
            raise ValueError(f"time_limit must be over 0 and finite, not {self.time_limit}")
        if not 0 <= self.threshold < math.inf:
            raise ValueError(f"threshold must be 0 or more and finite, not {self.threshold}")
        if self.samples_per_class < 1:
            raise ValueError(f"samples_per_class must be 1 or more, not {self.samples_per_class}")

    @property
    def aim(self) -> float:
        """Seconds that the scan aims at, as a number."""
        return USUAL_AIM if self.time_limit is None else self.time_limit

    def for_references(self) -> ScanOptions:
        """Return what holds for reference models too; the rest is about the suspect."""
        # Where the classes are told, references may have further ones.
        further = self.reference_classes is not None
        return ScanOptions(
            samples_per_class=self.samples_per_class,
            allow_missing_classes=self.allow_missing_classes or further,
            runtime=self.runtime,
            reference_classes=self.reference_classes,
            data=self.data,
        )


Scope = Literal["auto", "head", "path", "deep"]
Export = Literal["weights", "torch"]
Reconstruction = Literal["concepts", "ascent", "both"]


@dataclass(frozen=True)
class RepairOptions:
    """Options of a repair.

    Attributes:
        scope: "head" trains the weights that read the outstanding neurons; "path" also those that
            feed them and no others; "deep" those on all paths from the image through them; "auto"
            tries deep and head and takes what removes more, or head alone where the model cannot
            be trained whole, or not in reasonable time.
        reconstruction: How infected images are made: by the concepts that turn the pair, by the
            paper's gradient ascent, or both.
        top: Share of the layer's neurons whose weights are trained, those of the largest causal
            attribution to the target; None takes the outliers by median absolute deviation.
        max_accuracy_drop: The most clean accuracy that may be lost, as a share, on held-out images;
            those of the target class count a tenth, at least.
        export: "weights" puts the weights into the file's own graph; "torch" exports the whole
            model anew by torch.onnx.
        rescan: Scan the repaired model.
        scan: Options of the scans; preprocessing, seed and runtime hold for the repair too. It
            repairs the model's own logits at their last layer, so these two stay as they are.
        method: Name of the remover: "soda" is the paper's Algorithm 5.
        whole: Repair what stands out most against the reference models, whether or not a scan names
            it, and train all neurons.
        parameters: Whose parameters a remover of other authors runs with, see `Parameters`.
    """

    scope: Scope = "auto"
    reconstruction: Reconstruction = "both"
    top: float | None = 0.3
    max_accuracy_drop: float = 0.01
    export: Export = "weights"
    rescan: bool = True
    scan: ScanOptions = field(default_factory=ScanOptions)
    method: str = "soda"
    whole: bool = False
    parameters: Parameters = "paper"


@dataclass(frozen=True)
class ConvertOptions:
    """What a caller can choose about a conversion.

    Attributes:
        arch: Architecture to put bare weights into, as "torchvision:resnet18" or "timm:NAME".
        opset: Version of the `ai.onnx` operator set; the converter's usual one where None.
        size: Height and width of the images where the file does not tell; the architecture's
            usual one where None.
        seed: For the images on which source and result are compared.
    """

    arch: str | None = None
    opset: int | None = None
    size: int | None = None
    seed: int = 0


TWIN_ARCHITECTURES = ("vgg", "resnet", "mobilenet", "densenet")
"""Families that twins are of, in turn; see `onnx_soda._twins.networks`."""


@dataclass(frozen=True)
class TwinOptions:
    """What a caller can choose about twins.

    Attributes:
        count: How many to train. Four are of four architectures; more take these in turn, with
            other first weights.
        epochs: Passes over the images; chosen by their number where None.
        seed: For the images held out, and for all that is drawn in training.
        threads: Threads to train with. Other numbers give slightly other weights, and more are
            slower where another program holds a core.
        data: How the clean set is read.

    Raises:
        ValueError: A number is under its least.
    """

    count: int = 4
    epochs: int | None = None
    seed: int = 0
    threads: int = 1
    data: DataOptions = field(default_factory=DataOptions)

    def __post_init__(self) -> None:
        for name, value in (("count", self.count), ("threads", self.threads)):
            if value < 1:
                raise ValueError(f"{name} must be 1 or more, not {value}")
        if self.epochs is not None and self.epochs < 1:
            raise ValueError(f"epochs must be 1 or more, not {self.epochs}")
        if self.seed < 0:
            raise ValueError(f"seed must be 0 or more, not {self.seed}")

    @property
    def architectures(self) -> tuple[str, ...]:
        """The architecture of each twin."""
        families = TWIN_ARCHITECTURES
        return tuple(families[place % len(families)] for place in range(self.count))

    @property
    def files(self) -> tuple[str, ...]:
        """The name of each twin's file."""
        return tuple(f"twin-{place + 1}-{one}.onnx" for place, one in enumerate(self.architectures))


@dataclass(frozen=True)
class ReferenceFlows:
    """What a reference model makes of the bank of concepts, in a form that processes can exchange.

    Attributes:
        file: Its name.
        problem: Why it cannot be used; empty where it can, and then all else is known.
        sha256: Digest of its file.
        accuracy: Clean accuracy on the images of the scan.
        preprocessing: Name of its preprocessing.
        bank: Version of the bank.
        shape: 1 + concepts, folds, classes, classes.
        shares: Mean probabilities of this shape, float32, little endian.
        images: Images of each fold and class.
        external_data: Its weights lie in other files, of which the digest does not tell.
    """

    file: str
    problem: str = ""
    sha256: str = ""
    accuracy: float = 0.0
    preprocessing: str = ""
    bank: int = 0
    shape: tuple[int, int, int, int] = (0, 0, 0, 0)
    shares: bytes = b""
    images: tuple[tuple[int, ...], ...] = ()
    external_data: bool = False


@dataclass(frozen=True)
class ScanRequest:
    """A scan of a model file of any kind.

    Attributes:
        model: The model.
        data: The clean set.
        split: Part of it.
        options: See `ScanOptions`.
        convert: How models of other frameworks are converted.
        limits: What a child process may take; None does without a child.
        references: What other models of the same classes make of the bank of concepts.
    """

    model: Path
    data: Path | None = None
    split: SplitName = "auto"
    options: ScanOptions = field(default_factory=ScanOptions)
    convert: ConvertOptions = field(default_factory=ConvertOptions)
    limits: Limits | None = field(default_factory=Limits)
    references: tuple[ReferenceFlows, ...] = ()
