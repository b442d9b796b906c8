"""The scan: model and clean set in, report out."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from typing import Any

import numpy as np
import onnxruntime

from onnx_soda._data.datasets import CleanSet
from onnx_soda._data.inference import PreprocessingChoice
from onnx_soda._data.preprocessing import Preprocessing
from onnx_soda._detect.concepts.battery import BUDGETS
from onnx_soda._detect.concepts.detector import ConceptEvidence, examine_concepts, why_not_tried
from onnx_soda._detect.concepts.evidence import decide_on_concepts, report_concepts
from onnx_soda._detect.concepts.judge import load_calibration
from onnx_soda._detect.graph_logic.detector import (
    examine_logic,
    is_weighty,
    with_file_findings,
    with_logic,
)
from onnx_soda._detect.soda.attribution import Attribution
from onnx_soda._detect.soda.detector import SodaResult, analyse
from onnx_soda._errors import NotAClassifierError
from onnx_soda._model.anatomy import Anatomy, dissect_view
from onnx_soda._model.graph import GraphView, view_graph
from onnx_soda._model.load import OnnxModel
from onnx_soda._model.logits import find_logits
from onnx_soda._model.parts import Body, Tail
from onnx_soda._model.runtime import CPU
from onnx_soda._observe import (
    Observation,
    choose_preprocessing,
    count_classes,
    observe,
    sample_images,
)
from onnx_soda._options import Progress, ScanOptions, no_progress
from onnx_soda._report.words import in_order
from onnx_soda._results import (
    SCHEMA_VERSION,
    ConceptReport,
    Coverage,
    DatasetInfo,
    Environment,
    Evidence,
    ExternalDataInfo,
    InputInfo,
    LogicReport,
    ModelInfo,
    ScanReport,
    SodaEvidence,
    ToolInfo,
)
from onnx_soda._system import Clock, installed_versions
from onnx_soda._verdict import Decision, Examined, decide, too_inaccurate

# Neurons that a report names for each class.
_RESPONSIBLE = 10
_REPORTED_PACKAGES = ("numpy", "onnx", "onnx-ir", "scipy", "h5py", "pillow")


def scan(
    model: OnnxModel,
    clean: CleanSet | None = None,
    options: ScanOptions | None = None,
    progress: Progress = no_progress,
) -> ScanReport:
    """Look for a semantic backdoor.

    By interventions on what the clean images show, or with method "soda" by the paper's causal
    analysis of the last layer alone (sections 3.1 and 3.2), whose figures are reported either way.

    Args:
        model: The model, from `load_model`.
        clean: Clean labelled images, from `load_dataset`. Without them only the data-free part
            of the analysis runs, and the verdict is "inconclusive" unless something is found.
        options: See `ScanOptions`.
        progress: Called as the scan goes on.

    Raises:
        SodaError: The model cannot be scanned or the clean set does not fit it.
    """
    options = options or ScanOptions()
    clock = Clock()
    with clock.stage("graph"):
        view = view_graph(model)
    with clock.stage("graph logic"):
        scores = find_logits(view, options.logits).value if options.logits else None
        logic = examine_logic(view, options.runtime, options.seed, scores, folder=model.folder)
    try:
        with clock.stage("graph"):
            anatomy = dissect_view(model, view, options.layer, options.logits)
    except NotAClassifierError as error:
        # Logic in front of the scores may hide the layers behind it; it is reason enough.
        if not is_weighty(logic):
            raise
        described, seen = _describe(model, view), _unseen(error)
    else:
        described = describe_model(anatomy)
        seen = _look_at_behaviour(anatomy, clean, options, progress, clock)
    decision = with_file_findings(with_logic(seen.decision, logic), model.findings)
    return ScanReport(
        schema_version=SCHEMA_VERSION,
        tool=ToolInfo("onnx-soda", version("onnx-soda")),
        model=described,
        dataset=seen.dataset,
        verdict=decision.verdict,
        reasons=decision.reasons,
        findings=in_order(decision.findings),
        evidence=Evidence(
            seen.soda,
            seen.concepts,
            LogicReport(logic.nodes_examined, logic.images_run, logic.notes),
        ),
        coverage=_coverage(seen.images),
        environment=_environment(seen.providers, options),
        timing=clock.result(),
    )


@dataclass(frozen=True, eq=False)
class _Behaviour:
    """What the model does, and what that says.

    Attributes:
        decision: By the method chosen.
        soda: The paper's analysis; None where it was not possible.
        concepts: The interventions on what the images show.
        images: The clean images as the model sees them; None without any.
        dataset: What the report says about them.
        providers: Where the model ran.
    """

    decision: Decision
    soda: SodaEvidence | None
    concepts: ConceptReport | None
    images: Observation | None
    dataset: DatasetInfo | None
    providers: tuple[str, ...]


def _look_at_behaviour(
    anatomy: Anatomy,
    clean: CleanSet | None,
    options: ScanOptions,
    progress: Progress,
    clock: Clock,
) -> _Behaviour:
    with clock.stage("sessions"):
        tail = Tail(anatomy, options.runtime)
        body = Body(anatomy, options.runtime, tail.needed) if clean else None
    classes = _count_classes(anatomy, tail)
    if classes is None and body is not None and clean is not None:
        classes = _at_least_two(count_classes(body, clean))
    seen, dataset, how = None, None, None
    if body is not None and clean is not None and classes is not None:
        seen, dataset, how = _look(body, clean, classes, options, progress, clock)
    result = _analyse(tail, seen, options, progress, clock)
    examined = _examined(classes, seen, options, anatomy.logits.unexamined)
    names = clean.class_names if clean else None
    concepts = None
    if options.method == "soda":
        decision = decide(result, examined, names)
    else:
        calibration = load_calibration()
        untried = why_not_tried(clean, classes or 0)
        found = None
        if untried is None:
            found = _try_concepts(body, clean, how, examined, options, progress, clock)
        decision = decide_on_concepts(found, result, calibration, examined, names, untried)
        if found is not None:
            concepts = report_concepts(found, calibration.threshold, options.budget)
    decision = replace(decision, reasons=(*decision.reasons, *anatomy.notes))
    providers = (body or tail.session).providers
    evidence = _evidence(result, anatomy, options) if result else None
    return _Behaviour(decision, evidence, concepts, seen, dataset, providers)


def _unseen(error: NotAClassifierError) -> _Behaviour:
    reason = f"The model's behaviour was not examined: {error.message}."
    return _Behaviour(Decision("inconclusive", (reason,), ()), None, None, None, None, (CPU,))


def _analyse(
    tail: Tail,
    seen: Observation | None,
    options: ScanOptions,
    progress: Progress,
    clock: Clock,
) -> SodaResult | None:
    advance = partial(progress, "interventions on neurons")
    # Whether the numbers are finite is looked at afterwards.
    with clock.stage("causal analysis"), np.errstate(over="ignore", invalid="ignore"):
        return analyse(tail, seen, options, advance)


def _try_concepts(
    body: Body | None,
    clean: CleanSet | None,
    how: Preprocessing | None,
    examined: Examined,
    options: ScanOptions,
    progress: Progress,
    clock: Clock,
) -> ConceptEvidence | None:
    """Intervene on what the images show, where there are images that the model knows."""
    if body is None or clean is None or how is None or too_inaccurate(examined):
        return None
    advance = partial(progress, "concepts tried")
    with clock.stage("concepts"):
        return examine_concepts(
            body.anatomy,
            clean,
            how,
            examined.classes or 0,
            options.runtime,
            options.seed,
            BUDGETS[options.budget],
            advance,
        )


def _count_classes(anatomy: Anatomy, tail: Tail) -> int | None:
    """Return the number of classes, from the graph or by running the tail on zeros."""
    if anatomy.logits.classes is not None or not tail.reads_layer_alone:
        return anatomy.logits.classes
    classes = tail.logits(np.zeros((1, *(tail.element_shape or ())))).shape[1]
    return _at_least_two(classes)


def _at_least_two(classes: int) -> int:
    if classes < 2:
        raise NotAClassifierError(
            f"the output has {classes} class", "A one-score model has no victim and target class."
        )
    return classes


def _look(
    body: Body,
    clean: CleanSet,
    classes: int,
    options: ScanOptions,
    progress: Progress,
    clock: Clock,
) -> tuple[Observation, DatasetInfo, Preprocessing]:
    with clock.stage("preprocessing"):
        chosen = sample_images(clean, classes, options)
        preprocessing, choice = choose_preprocessing(body, clean, chosen, options, progress)
    with clock.stage("clean images"):
        seen = observe(body, clean, chosen, preprocessing, progress)
    counts = np.bincount(seen.labels)
    info = DatasetInfo(
        file=clean.file,
        sha256=clean.sha256,
        classes=int((counts > 0).sum()),
        samples=len(seen.labels),
        samples_per_class=int(counts.max()),
        accuracy=seen.accuracy,
        preprocessing=_describe_preprocessing(preprocessing, choice),
        class_names=clean.class_names,
        notes=(*clean.notes, *(choice.notes() if choice else ())),
    )
    return seen, info, preprocessing


def _describe_preprocessing(
    preprocessing: Preprocessing, choice: PreprocessingChoice | None
) -> Mapping[str, Any]:
    described = preprocessing.as_dict()
    if choice is None:
        return {**described, "inferred": False}
    runner_up = choice.runner_up
    return {
        **described,
        "inferred": True,
        "trial": {
            "images": choice.images,
            "accuracy": choice.accuracy,
            "runner_up": runner_up.name if runner_up else None,
            "runner_up_accuracy": choice.runner_up_accuracy,
        },
    }


def _examined(
    classes: int | None, seen: Observation | None, options: ScanOptions, apart: tuple[str, ...]
) -> Examined:
    if seen is None:
        return Examined(classes, 0, 0, None, options.min_accuracy, unexamined_outputs=apart)
    counts = np.bincount(seen.labels)
    counts = counts[counts > 0]
    return Examined(
        classes,
        len(counts),
        int(counts.min()),
        seen.accuracy,
        options.min_accuracy,
        seen.misread(),
        apart,
    )


def _coverage(seen: Observation | None) -> Coverage:
    if seen is None:
        return Coverage(0, 0)
    return Coverage(len(np.unique(seen.labels)), len(seen.labels))


def describe_model(anatomy: Anatomy) -> ModelInfo:
    """Return what the report says about the model."""
    logits = anatomy.logits.value.name or ""
    return _describe(anatomy.model, anatomy.view, logits, anatomy.layer.name)


def _describe(
    model: OnnxModel, view: GraphView, logits: str = "", penultimate: str = ""
) -> ModelInfo:
    image = view.image
    return ModelInfo(
        file=model.file,
        sha256=model.sha256,
        external_data=tuple(ExternalDataInfo(f.file, f.sha256) for f in model.external_data),
        opset=model.opset,
        ir_version=model.ir_version,
        producer=model.producer,
        parameters=model.parameters,
        input=InputInfo(image.name, image.shape, image.dtype, image.layout),
        logits=logits,
        penultimate=penultimate,
    )


def _evidence(result: SodaResult, anatomy: Anatomy, options: ScanOptions) -> SodaEvidence:
    return SodaEvidence(
        pcc=tuple(map(float, result.targets.pcc)),
        anomaly_index=tuple(map(float, result.targets.index)),
        target_logit_by_source={
            str(victim.target_class): {str(j): y for j, y in victim.target_logits.items()}
            for victim in result.victims
        },
        method=result.attribution.method,
        a=options.intervention.a,
        b=options.intervention.b,
        layer=anatomy.layer.name,
        neurons=result.neurons,
        spread=options.spread,
        threshold=options.threshold,
        responsible=_responsible(result.attribution),
    )


def _responsible(found: Attribution) -> dict[str, dict[str, float]]:
    """Return for each class the neurons with the largest attribution, the mean over sources."""
    sources = [None] if found.same_for_all else found.sources
    attribution = np.mean([np.abs(found.shift(source)) for source in sources], axis=0)
    most = np.argsort(-attribution, axis=0, kind="stable")[:_RESPONSIBLE]
    return {
        str(label): {str(neuron): float(attribution[neuron, label]) for neuron in neurons}
        for label, neurons in enumerate(most.T)
    }


def _environment(providers: tuple[str, ...], options: ScanOptions) -> Environment:
    versions = installed_versions(_REPORTED_PACKAGES)
    versions["onnxruntime"] = onnxruntime.__version__
    versions["python"] = platform.python_version()
    return Environment(versions, providers, options.seed, options.runtime.thread_count)
