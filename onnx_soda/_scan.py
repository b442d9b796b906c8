"""The scan: a model and a clean set in, a report out."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from typing import Any

import numpy as np
import onnxruntime

from onnx_soda._data.datasets import CleanSet
from onnx_soda._data.inference import PreprocessingChoice
from onnx_soda._data.preprocessing import Preprocessing
from onnx_soda._detect.base import DETECTORS, Decision, Detector, shortfalls
from onnx_soda._errors import NotAClassifierError
from onnx_soda._model.anatomy import Anatomy
from onnx_soda._model.graph import GraphView
from onnx_soda._model.load import OnnxModel
from onnx_soda._model.logits import find_logits
from onnx_soda._model.runtime import CPU
from onnx_soda._options import Progress, ReferenceFlows, ScanOptions, no_progress
from onnx_soda._results import (
    SCHEMA_VERSION,
    Coverage,
    DatasetInfo,
    Environment,
    Evidence,
    ExternalDataInfo,
    InputInfo,
    ModelInfo,
    ScanReport,
    ToolInfo,
)
from onnx_soda._rules import RULES
from onnx_soda._suspect import Observation, Suspect
from onnx_soda._system import Clock, installed_versions
from onnx_soda._verdict import (
    ALONE,
    ALWAYS,
    decide,
    detectors_of,
    in_order,
    is_weighty,
    joined,
    needs_more,
    with_advice,
    with_always,
    with_file_findings,
)

_REPORTED_PACKAGES = ("numpy", "onnx", "onnx-ir", "scipy", "h5py", "pillow")


def scan(
    model: OnnxModel,
    clean: CleanSet | None = None,
    options: ScanOptions | None = None,
    progress: Progress = no_progress,
    references: Sequence[OnnxModel | ReferenceFlows] = (),
) -> ScanReport:
    """Look for a semantic backdoor, in this process.

    Args:
        model: The model, from `load_model`.
        clean: Clean labelled images, from `load_dataset`. Without them only the data-free part
            of the analysis runs, and the verdict is "inconclusive" unless something is found.
        options: See `ScanOptions`; `method` names the detector that decides.
        progress: Called as the scan goes on.
        references: Other models of the same classes, which need not be trusted. They decide where
            the method is "auto": a pair is reported where the suspect does what they do not.

    Raises:
        SodaError: The model cannot be scanned or the clean set does not fit it.
    """
    options = options or ScanOptions()
    return scan_suspect(Suspect(model, clean, options, progress, references=tuple(references)))


def scan_suspect(suspect: Suspect) -> ScanReport:
    """Let the detectors of a method look at a suspect, and decide.

    Args:
        suspect: The classifier, with its clean images and the options.

    Raises:
        SodaError: The model cannot be scanned or the clean set does not fit it.
    """
    clock, options = Clock(), suspect.options
    detectors = load_detectors(options.method, bool(suspect.references))
    method = detectors[-1].name
    with clock.stage("graph"):
        view = suspect.view
        # What has no scores has no backdoor to look for, whatever its graph decides.
        find_logits(view, options.logits)
    evidence = {one.name: _run(one, suspect, clock) for one in detectors if one.name in ALWAYS}
    try:
        with clock.stage("graph"):
            anatomy = suspect.anatomy
    except NotAClassifierError as error:
        # Logic in front of the scores may hide the layers behind it; it is reason enough.
        if not any(map(is_weighty, evidence.values())):
            raise
        described, observation = _describe(suspect.model, view), None
        reason = f"The model's behaviour was not examined: {error.message}."
        decision = Decision("inconclusive", (reason,), ())
        providers: tuple[str, ...] = (CPU,)
    else:
        described = describe_model(anatomy)
        _prepare(suspect, clock)
        evidence |= {
            one.name: _run(one, suspect, clock) for one in detectors if one.name not in ALWAYS
        }
        if needs_more(options.method, evidence):
            evidence[ALONE] = _run(DETECTORS.load(ALONE)(), suspect, clock)
        observation = suspect.observation
        providers = (suspect.tail.session if observation is None else suspect.body).providers
        method, decision = _decide(suspect, evidence, method)
    for name in ALWAYS:
        decision = with_always(decision, evidence[name])
    decision = with_file_findings(decision, suspect.model.findings)
    return ScanReport(
        schema_version=SCHEMA_VERSION,
        tool=ToolInfo("onnx-soda", version("onnx-soda")),
        model=described,
        dataset=_describe_dataset(suspect, observation) if observation else None,
        method=method,
        verdict=decision.verdict,
        reasons=decision.reasons,
        findings=in_order(decision.findings),
        evidence=evidence,
        coverage=_coverage(observation),
        environment=_environment(providers, options),
        timing=clock.result(),
    )


def load_detectors(method: str, references: bool = False) -> list[Detector]:
    """Import the detectors that run for a method, the one that decides last.

    Args:
        method: Name of the one that decides.
        references: Whether there are reference models.

    Raises:
        OptionError: There is none of this name, or it cannot be imported.
    """
    names = dict.fromkeys((*ALWAYS, *detectors_of(method, references)))
    return [DETECTORS.load(name)() for name in names]


def _prepare(suspect: Suspect, clock: Clock) -> None:
    """Do what all detectors of the behaviour need, each under its own time."""
    with clock.stage("sessions"):
        _ = suspect.tail
        _ = suspect.body if suspect.clean else None
    if suspect.clean is not None and suspect.classes is not None:
        with clock.stage("preprocessing"):
            _ = suspect.sample, suspect.preprocessing
        with clock.stage("clean images"):
            _ = suspect.observation


def _run(detector: Detector, suspect: Suspect, clock: Clock) -> Evidence:
    """Run a detector, where there is what it needs."""
    if "clean images" in detector.needs and suspect.observation is None:
        reasons = shortfalls(suspect.examined)
        return Evidence(detector.name, detector.name, "inconclusive", reasons)
    with clock.stage(detector.name):
        evidence = detector.run(suspect, suspect.progress)
    rules = {**RULES, **{rule.id: rule for rule in detector.rules}}
    return replace(evidence, findings=with_advice(evidence.findings, rules))


def _decide(
    suspect: Suspect, evidence: Mapping[str, Evidence], method: str
) -> tuple[str, Decision]:
    """Return the name of the detector that decides, and the decision."""
    both = needs_more(suspect.options.method, evidence)
    deciding = joined(evidence) if both else evidence[method]
    apart = (*ALWAYS, deciding.detector)
    beside = [one for name, one in evidence.items() if name not in apart]
    decision = decide(deciding, beside, suspect.examined, suspect.anatomy.notes)
    return deciding.detector, decision


def _describe_dataset(suspect: Suspect, observation: Observation) -> DatasetInfo | None:
    clean, choice = suspect.clean, suspect.choice
    if clean is None:
        return None
    counts = np.bincount(observation.labels)
    return DatasetInfo(
        file=clean.file,
        sha256=clean.sha256,
        classes=int((counts > 0).sum()),
        samples=len(observation.labels),
        samples_per_class=int(counts.max()),
        accuracy=observation.accuracy,
        preprocessing=_describe_preprocessing(suspect.preprocessing, choice),
        class_names=clean.class_names,
        notes=(*clean.notes, *(choice.notes() if choice else ())),
    )


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


def _coverage(observation: Observation | None) -> Coverage:
    if observation is None:
        return Coverage(0, 0)
    return Coverage(len(np.unique(observation.labels)), len(observation.labels))


def describe_model(anatomy: Anatomy) -> ModelInfo:
    """Return what the report says about the model."""
    logits = anatomy.logits.value.name or ""
    analysed = "" if anatomy.layer.only_read else anatomy.layer.name
    return _describe(anatomy.model, anatomy.view, logits, analysed)


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


def _environment(providers: Sequence[str], options: ScanOptions) -> Environment:
    versions = installed_versions(_REPORTED_PACKAGES)
    versions["onnxruntime"] = onnxruntime.__version__
    versions["python"] = platform.python_version()
    return Environment(versions, tuple(providers), options.seed, options.runtime.thread_count)
