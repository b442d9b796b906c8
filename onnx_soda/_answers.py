"""What the other commands answer: repairs, differences, looks into files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from onnx_soda._numbers import NO_DECISIONS, GraphDecisions
from onnx_soda._results import Finding, ModelInfo, ScanFailure, ScanReport, Verdict

RepairOutcome = Literal[
    "repaired", "partly repaired", "nothing to repair", "inconclusive", "failed"
]


@dataclass(frozen=True)
class Behaviour:
    """What a model does, in ONNX Runtime, on images that no training saw.

    Attributes:
        accuracy: On clean images.
        accuracy_by_class: The same by class number.
        target_rate: Share of the reconstructed infected images given to the target.
        victim_rate: Share of them given to their true class.
        tipped_rate: Share of images of other classes, under the same changes, given to a class that
            the changes turn; None where there are none, as without concepts.
    """

    accuracy: float
    accuracy_by_class: Mapping[str, float]
    target_rate: float
    victim_rate: float
    tipped_rate: float | None = None


@dataclass(frozen=True)
class TriggerBehaviour:
    """What a model does with real trigger images.

    Attributes:
        images: Their number.
        target_rate: Share given to the target: the attack's success rate.
        victim_rate: Share given to the victim.
    """

    images: int
    target_rate: float
    victim_rate: float


@dataclass(frozen=True)
class WeightChange:
    """A stored tensor that differs.

    Attributes:
        name: Of the initializer.
        size: Number of its values.
        changed: Number of values that differ.
        largest: The largest difference.
        relative: The largest difference as a share of the tensor's largest value.
    """

    name: str
    size: int
    changed: int
    largest: float
    relative: float


@dataclass(frozen=True)
class ModelDifference:
    """How two models differ.

    Attributes:
        changes: Tensors of the same name, shape and type with other values.
        reshaped: Names of tensors whose shape or type differs.
        only_first: Names that only the first model has.
        only_second: Names that only the second model has.
        same_graph: Nodes, inputs and outputs are the same.
        same_tensors: Number of tensors that are equal.
    """

    changes: tuple[WeightChange, ...]
    reshaped: tuple[str, ...]
    only_first: tuple[str, ...]
    only_second: tuple[str, ...]
    same_graph: bool
    same_tensors: int


@dataclass(frozen=True)
class FlowGrade:
    """What goes to a target under a change of some strength, before and after a repair.

    Attributes:
        strength: Of the change.
        before: Mean probability of the target over images of the victim.
        after: The same of the repaired model.
        references: The mean of the references.
    """

    strength: float
    before: float
    after: float
    references: float


@dataclass(frozen=True)
class FlowProof:
    """How a pair stands out against the references, before and after a repair.

    Attributes:
        victim_class: Source class.
        target_class: Class that it is turned into.
        before: How far the pair stands out over what honest differences reach.
        after: The same of the repaired model.
        concept: The change that shows it best before, in words.
        grades: The same change from weak to strong.
    """

    victim_class: int
    target_class: int
    before: float
    after: float
    concept: str
    grades: tuple[FlowGrade, ...]


@dataclass(frozen=True)
class RepairSummary:
    """Result of a repair.

    Attributes:
        outcome: "repaired"; "partly repaired" where more than 5 % of the reconstructed images that
            were not trained on still go to the target, where the new scan finds a backdoor, or
            where a pair still stands out against the references; "nothing to repair" where the scan
            finds no backdoor, "inconclusive" where it cannot tell; "failed" where no result keeps
            the accuracy asked for, or nothing could be reconstructed.
        reason: Why, in one sentence.
        victim_class: The pair; None where there is none.
        target_class: The pair.
        scope: What was trained: "head", "path" or "deep"; "auto" where nothing was. Methods of
            other authors: "all" weights, "channels", the "head", or "none".
        reconstruction: "concepts", "ascent" or "both".
        method: Name of the remover.
        teachers: References that taught what changed images should be.
        flows: How the pair stands out against them, and then the pair that stands out most after
            the repair; none without references.
        also_turned: Other classes that the same changes turn, repaired with the victim.
        concepts: Those that infected images were made with, in words.
        infected: Images reconstructed to train on and to choose settings by, and to measure with.
        clean_images: Clean images in the same parts.
        neurons: Number of the layer's neurons.
        outstanding: Number of those whose weights were trained.
        rate: Learning rate chosen, see `repair.remove.Settings`.
        alpha: Weight of the target's loss.
        epochs: Passes over the clean images.
        share: How far on the way from the old weights to the trained ones the written ones lie.
        before: The model as it was.
        after: The repaired model, loaded anew.
        agreement: Share of clean images on which both agree.
        triggers_before: On real trigger images, where given.
        triggers_after: The same for the repaired model.
        changes: Tensors that differ.
        rescan: Verdict of a scan of the repaired model; None where it was not asked for.
        rescan_pairs: Pairs that this scan names, the strongest first.
        notes: Sentences about what is not as usual.
        seconds: Time per stage.
        created: When the repair was done, as 2026-01-31T12:00:00Z: in UTC.
    """

    outcome: RepairOutcome
    reason: str
    victim_class: int | None
    target_class: int | None
    scope: str
    reconstruction: str
    method: str = "soda"
    teachers: int = 0
    flows: tuple[FlowProof, ...] = ()
    also_turned: tuple[int, ...] = ()
    concepts: tuple[str, ...] = ()
    infected: tuple[int, ...] = ()
    clean_images: tuple[int, ...] = ()
    neurons: int = 0
    outstanding: int = 0
    rate: float | None = None
    alpha: float | None = None
    epochs: int | None = None
    share: float | None = None
    before: Behaviour | None = None
    after: Behaviour | None = None
    agreement: float | None = None
    triggers_before: TriggerBehaviour | None = None
    triggers_after: TriggerBehaviour | None = None
    changes: tuple[WeightChange, ...] = ()
    rescan: Verdict | None = None
    rescan_pairs: tuple[tuple[int, int], ...] = ()
    notes: tuple[str, ...] = ()
    seconds: Mapping[str, float] | None = None
    created: str = ""


@dataclass(frozen=True)
class TensorSummary:
    """A graph input or output: name, element type, declared shape."""

    name: str
    dtype: str
    shape: tuple[int | str | None, ...] | None


@dataclass(frozen=True)
class LogitsSummary:
    """The logits: tensor, number of classes, and the operators between them and an output."""

    name: str
    classes: int | None
    output: str
    stripped: tuple[str, ...]


@dataclass(frozen=True)
class LayerSummary:
    """A layer that `layer` takes: role, tensor, shape for one image, neurons, depth."""

    role: str
    name: str
    shape: tuple[int | None, ...] | None
    neurons: int | None
    depth: int


@dataclass(frozen=True)
class ModelSummary:
    """What is in a model file.

    Attributes:
        file: Its name.
        sha256: Its digest.
        opset: Version of the `ai.onnx` operator set.
        ir_version: Version of the file format.
        producer: Program that wrote it.
        parameters: Number of weights.
        external_data: Names of the files beside it that hold weights.
        inputs: Graph inputs.
        outputs: Graph outputs.
        layout: Layout of the image input; None where it is no image classifier.
        logits: The logits picked; None where it is no image classifier.
        layers: Candidate layers, the penultimate one first.
        notes: Sentences about choices that the graph left open.
        findings: What is unusual about the file.
        problem: Why it cannot be scanned; None where it can.
        advice: What to do about that.
        decisions: What the graph decides, and on what; by the graph alone.
    """

    file: str
    sha256: str
    opset: int
    ir_version: int
    producer: str
    parameters: int
    external_data: tuple[str, ...]
    inputs: tuple[TensorSummary, ...]
    outputs: tuple[TensorSummary, ...]
    layout: str | None
    logits: LogitsSummary | None
    layers: tuple[LayerSummary, ...]
    notes: tuple[str, ...]
    findings: tuple[Finding, ...]
    problem: str | None
    advice: str | None
    decisions: GraphDecisions = NO_DECISIONS


@dataclass(frozen=True)
class FileLook:
    """What a look at a file came to: a report, or why there is none.

    Attributes:
        report: What is in the file; its method is "files".
        failure: Why the file cannot be read.
        skipped: It is of no kind that is looked into.
        what: What a skipped file seems to be; "" where nobody knows.
    """

    report: ScanReport | None = None
    failure: ScanFailure | None = None
    skipped: bool = False
    what: str = ""


@dataclass(frozen=True)
class Conversion:
    """What a conversion came to.

    Attributes:
        converter: Name of the converter.
        file: Name of the source, without folders.
        sha256: Its digest, hexadecimal.
        versions: Versions of the packages that took part, by name.
        opset: Version of the `ai.onnx` operator set of the result.
        input_shape: Shape of one batch as the source takes it; None for the free batch.
        layout: "NCHW", "NHWC", "flat" or "other".
        batches: Numbers of images that were tried at once.
        free_batch: Whether the result takes any number of images.
        difference: Largest difference between source and result on random images, as a share of
            the largest score.
        notes: Sentences about choices made.
    """

    converter: str
    file: str
    sha256: str
    versions: dict[str, str]
    opset: int
    input_shape: tuple[int | None, ...]
    layout: str
    batches: tuple[int, ...]
    free_batch: bool
    difference: float
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class RepairAnswer:
    """What a repair came to.

    Attributes:
        summary: The repair.
        scan: The scan that found the pair; None where the pair was given.
        model: The model that was repaired.
        class_names: Of the clean set.
        written: Whether there is a repaired model.
    """

    summary: RepairSummary
    scan: ScanReport | None
    model: ModelInfo
    class_names: tuple[str, ...] | None
    written: bool


@dataclass(frozen=True)
class Twin:
    """A small network trained on the clean set alone.

    Attributes:
        file: Name of its file.
        sha256: Digest of the file, hexadecimal; empty where it was not written.
        architecture: "vgg", "resnet", "mobilenet" or "densenet".
        epochs: Passes over the images.
        accuracy: Share of the images held out that it gives their class, in ONNX Runtime, as the
            mean over the classes.
        kept: It was there already and was not trained again.
        sound: It is accurate enough to be a reference. One that is not is not written.
    """

    file: str
    sha256: str
    architecture: str
    epochs: int
    accuracy: float
    kept: bool
    sound: bool


@dataclass(frozen=True)
class TwinsAnswer:
    """What a training of twins came to.

    Attributes:
        twins: The twins, in the order of their numbers.
        classes: Number of classes of the clean set.
        images: Images that they were trained on.
        held_out: Images that only measured.
        bound: Accuracy from which a twin is sound: half way from guessing to always right.
        problem: Why nothing was trained, in a sentence; empty where it was.
        notes: Sentences on what is to be known about the images and the folder.
        seconds: Time taken.
    """

    twins: tuple[Twin, ...]
    classes: int
    images: int
    held_out: int
    bound: float
    problem: str = ""
    notes: tuple[str, ...] = ()
    seconds: float = 0.0

    @property
    def sound(self) -> bool:
        """Whether there is a twin to use as a reference."""
        return any(twin.sound for twin in self.twins)
