"""What a scan reports. The JSON report is these classes, field by field.

`scan-report.schema.json` beside this file describes the JSON form. Fields are only added; a
change of meaning raises `SCHEMA_VERSION`. Files appear by name, never by path.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from onnx_soda._errors import explained
from onnx_soda._rules import Severity

SCHEMA_VERSION = "1.5"

Verdict = Literal["clean", "backdoor", "inconclusive"]


@dataclass(frozen=True)
class ToolInfo:
    """The program that wrote the report."""

    name: str
    version: str


@dataclass(frozen=True)
class InputInfo:
    """The image input: its name, declared shape (None for free sizes), dtype and layout."""

    name: str
    shape: tuple[int | str | None, ...]
    dtype: str
    layout: str


@dataclass(frozen=True)
class ExternalDataInfo:
    """A file beside the model that holds weights."""

    file: str
    sha256: str


@dataclass(frozen=True)
class ModelInfo:
    """The model that was scanned, and the tensors picked in it; "" where none could be."""

    file: str
    sha256: str
    external_data: tuple[ExternalDataInfo, ...]
    opset: int
    ir_version: int
    producer: str
    parameters: int
    input: InputInfo
    logits: str
    penultimate: str


@dataclass(frozen=True)
class DatasetInfo:
    """The clean set, what was taken of it, and how well the model does on that.

    Attributes:
        file: Name of the file or folder.
        sha256: Its digest.
        classes: Number of classes with images.
        samples: Number of images used.
        samples_per_class: The most of one class.
        accuracy: Share of the images used whose label the model gives.
        preprocessing: How pixels were turned into input; where it was inferred, with the accuracy
            and the runner-up.
        class_names: Names of the classes, where known.
        notes: Sentences about how the file was read.
    """

    file: str
    sha256: str
    classes: int
    samples: int
    samples_per_class: int
    accuracy: float
    preprocessing: Mapping[str, Any]
    class_names: tuple[str, ...] | None
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Acceptance:
    """A finding that is known; see `onnx_soda._baseline`.

    Attributes:
        reason: Why it is accepted.
        expires: The last day on which it is, as YYYY-MM-DD.
    """

    reason: str
    expires: str


@dataclass(frozen=True)
class Finding:
    """Something that speaks against the model.

    Attributes:
        rule_id: Stable identifier of the rule, see `onnx_soda._rules`.
        severity: "high" where it is reason enough not to use the model, "medium" where it is to be
            looked at, "low" and "info" where it is merely unusual.
        victim_class: Class whose images are turned; None where it cannot be told, or for rules
            that are not about classes.
        target_class: Class they are turned into; None as above.
        score: Value of the statistic; larger is more abnormal. For concepts the bound that it is
            above. None for rules without one.
        threshold: The score over which the rule reports.
        message: What was found, in one sentence.
        location: Where: names of nodes, tensors or files; empty where it is the model's behaviour.
        advice: What to do about it: the rule's, see `onnx_soda._rules`.
        accepted: Why it does not count; None where it does.
    """

    rule_id: str
    severity: Severity
    victim_class: int | None
    target_class: int | None
    score: float | None
    threshold: float | None
    message: str
    location: tuple[str, ...] = ()
    advice: str = ""
    accepted: Acceptance | None = None


@dataclass(frozen=True)
class SodaEvidence:
    """Evidence of SODA's causal analysis (paper, Algorithms 1 to 3).

    Attributes:
        pcc: Per class: correlation of its causal attribution with that of the other classes.
        anomaly_index: Signed anomaly index of each; abnormal below minus the threshold.
        target_logit_by_source: For each target class looked at, the mean target logit over the
            clean images of each source class. Keys are class numbers.
        method: How the attribution was computed: "closed-form" or "batched".
        a: Scaling factor of the intervention (Equation 2).
        b: Offset of the intervention.
        layer: Tensor that was intervened on.
        neurons: Number of its neurons.
        spread: "median" or "mean" absolute deviation.
        threshold: Anomaly index over which a class is abnormal.
        responsible: For each class the neurons with the largest causal attribution, and that.
    """

    pcc: tuple[float, ...]
    anomaly_index: tuple[float, ...]
    target_logit_by_source: Mapping[str, Mapping[str, float]]
    method: str
    a: float
    b: float
    layer: str
    neurons: int
    spread: str
    threshold: float
    responsible: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


ChangeKind = Literal["concept", "style"]


@dataclass(frozen=True)
class ConceptExample:
    """An image before and under a concept.

    Attributes:
        victim_class: Source class of the pair that it is an example for.
        target_class: Target class of that pair.
        label: The image's own class.
        before: The image as a PNG data URI.
        under: The same under the concept; for a style, the image that it is from.
        predicted_before: The model's answer.
        predicted_under: The same under the concept.
        target_probability: Probability of the target class under the concept.
        kind: As that of the pair.
    """

    victim_class: int
    target_class: int
    label: int
    before: str
    under: str
    predicted_before: int
    predicted_under: int
    target_probability: float
    kind: ChangeKind = "concept"


@dataclass(frozen=True)
class ConceptPair:
    """A pair of classes and the concept that best turns one into the other.

    Counts and shares are of clean images that did not choose the concept.

    Attributes:
        victim_class: Source class.
        target_class: Class it is turned into.
        score: How far the clean data does not support the turn; see docs/detection.md.
        low: Lower end of its 90 % interval.
        high: Upper end.
        bound: What the score is above with 95 % confidence for all pairs of classes together.
        concept: The concept in words.
        kind: "concept" where the image is changed, "style" where features half way through the
            network are given the style of another image.
        shown: Images of the victim.
        turned: Those that the model gives to the target under the concept.
        turned_before: Those that it gives to the target as they are.
        reference: Mean probability of the target under the concept in the reference heads.
        others_right_before: Share of the other classes' images given their label as they are.
        others_right_under: The same under the concept.
        answers_under: How many images of a class get which answer under the concept: class,
            answer, images; where there are none it is left out.
        also_turned: Other classes that the concept surely turns into the target, too, the most
            turned first.
    """

    victim_class: int
    target_class: int
    score: float
    low: float
    high: float
    bound: float
    concept: str
    shown: int
    turned: int
    turned_before: int
    reference: float
    others_right_before: float
    others_right_under: float
    answers_under: tuple[tuple[int, int, int], ...] = ()
    kind: ChangeKind = "concept"
    also_turned: tuple[int, ...] = ()


@dataclass(frozen=True)
class ConceptReport:
    """Evidence of interventions on what the images show.

    Attributes:
        pairs: The pairs with the highest scores, highest bound first.
        examples: Images for those pairs.
        threshold: Bound over which a pair is reported.
        budget: "quick", "default" or "thorough".
        concepts: Number of concepts tried.
        probe_images: Images that they were tried on.
        fit_images: Images that the reference heads were fitted to.
        fewest_images: Those of the class with the fewest, in each half of them.
        reference_accuracies: Of each reference head, on images it was not fitted to.
    """

    pairs: tuple[ConceptPair, ...]
    examples: tuple[ConceptExample, ...]
    threshold: float
    budget: str
    concepts: int
    probe_images: int
    fit_images: int
    fewest_images: int
    reference_accuracies: tuple[float, ...]


@dataclass(frozen=True)
class LogicReport:
    """What was looked at to find decisions in the graph.

    Attributes:
        nodes_examined: Number of nodes, those in bodies of If, Loop and Scan included.
        images_run: Images shown to find one that takes a decision; 0 where nothing was suspected.
        notes: Sentences about what was not examined.
    """

    nodes_examined: int
    images_run: int
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Evidence:
    """Evidence by method; None where a method was not or could not be applied."""

    soda: SodaEvidence | None
    concepts: ConceptReport | None
    logic: LogicReport | None


@dataclass(frozen=True)
class Coverage:
    """What was examined: number of source classes and of images."""

    classes: int
    samples: int


@dataclass(frozen=True)
class SandboxInfo:
    """What held the process that opened the model.

    Attributes:
        active: It was a child process made for this; otherwise the caller's own, and nothing held.
        files: It could read nothing but the program and its inputs, and write nowhere else.
        network: It had no network and could start no program.
        memory: Bytes that it could take; None without a limit.
        seconds: Time that it could take; None without a limit.
        gaps: What could not be held, in words.
    """

    active: bool
    files: bool
    network: bool
    memory: int | None
    seconds: float | None
    gaps: tuple[str, ...]


NO_SANDBOX = SandboxInfo(
    False, False, False, None, None, ("the model was opened in the caller's own process",)
)


@dataclass(frozen=True)
class Environment:
    """Where the scan ran, and what held it there."""

    versions: Mapping[str, str]
    providers: tuple[str, ...]
    seed: int
    threads: int
    sandbox: SandboxInfo = NO_SANDBOX


@dataclass(frozen=True)
class ScanReport:
    """Result of a scan.

    Attributes:
        schema_version: Version of this form.
        tool: The program.
        model: The model.
        dataset: The clean set; None without one.
        verdict: "clean", "backdoor" or "inconclusive".
        reasons: Why, in sentences; the first one is the main one.
        findings: What speaks for a backdoor, the strongest first.
        evidence: The numbers behind it.
        coverage: What was examined.
        environment: Where the scan ran.
        timing: Seconds per stage, and in all.
    """

    schema_version: str
    tool: ToolInfo
    model: ModelInfo
    dataset: DatasetInfo | None
    verdict: Verdict
    reasons: tuple[str, ...]
    findings: tuple[Finding, ...]
    evidence: Evidence
    coverage: Coverage
    environment: Environment
    timing: Mapping[str, float]


@dataclass(frozen=True)
class ScanFailure:
    """A model that could not be scanned.

    Attributes:
        file: Name of the file, without its folder.
        message: Why not, in one sentence.
        advice: What to do about it; may be empty.
        rule_id: The rule by which the file was refused, as "SODA303"; None where none applies.
    """

    file: str
    message: str
    advice: str
    rule_id: str | None


Outcome = ScanReport | ScanFailure


def failure_of(file: str, error: Exception) -> ScanFailure:
    """Return what is reported of an error that ended a scan."""
    told = explained(error)
    return ScanFailure(file, told.message, told.advice, told.rule_id)
