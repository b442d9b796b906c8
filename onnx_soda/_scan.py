"""The scan: a model and a clean set in, a report out."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from typing import Any

import numpy as np
import onnxruntime

from onnx_soda._data.datasets import CleanSet
from onnx_soda._data.inference import PreprocessingChoice, SizeChoice
from onnx_soda._data.preprocessing import Preprocessing
from onnx_soda._detect.base import DETECTORS, Decision, Detector, shortfalls
from onnx_soda._errors import NotAClassifierError
from onnx_soda._model.anatomy import Anatomy
from onnx_soda._model.graph import GraphView
from onnx_soda._model.load import OnnxModel
from onnx_soda._model.logits import find_logits
from onnx_soda._model.runtime import CPU
from onnx_soda._options import (
    Progress,
    ReferenceFlows,
    ScanOptions,
    no_progress,
)
from onnx_soda._results import (
    SCHEMA_VERSION,
    Coverage,
    DatasetInfo,
    Environment,
    Evidence,
    ExternalDataInfo,
    Halted,
    InputInfo,
    ModelInfo,
    ScanReport,
    StopCause,
    ToolInfo,
)
from onnx_soda._rules import RULES
from onnx_soda._suspect import Summary, Suspect
from onnx_soda._system import Clock, as_utc, installed_versions
from onnx_soda._verdict import (
    AFTERWARDS,
    ALONE,
    ALWAYS,
    afterwards_of,
    cut_short,
    decide,
    detectors_of,
    in_order,
    is_weighty,
    joined,
    needs_more,
    with_advice,
    with_afterwards,
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


def no_interim(_: ScanReport) -> None:
    """Take no notice of what there is to report so far."""


def scan_suspect(
    suspect: Suspect, interim: Callable[[ScanReport], None] = no_interim
) -> ScanReport:
    """Let the detectors of a method look at a suspect, and decide.

    Where `suspect.progress` or `interim` raises `Halted`, or the time is over that the options
    give, the report tells what was done by then.

    Args:
        suspect: The classifier, with its clean images and the options.
        interim: Called before what takes long, with what there is to report if the time limit ends
            the scan there.

    Raises:
        SodaError: The model cannot be scanned or the clean set does not fit it.
    """
    with suspect.stopwatch.within(suspect.options.time_limit):
        return _Course(suspect, interim).run()


class _Course:
    """A scan as it goes on: what is done, and what there is to report of it at any moment."""

    def __init__(self, suspect: Suspect, interim: Callable[[ScanReport], None]) -> None:
        self._suspect, self._interim = suspect, interim
        self._clock = Clock()
        self._detectors = load_detectors(suspect.options.method, bool(suspect.references))
        self._evidence: dict[str, Evidence] = {}
        self._stopped: StopCause | None = None
        # Whether preprocessing and clean images are known: what asks for them waits for them.
        self._prepared = False

    def run(self) -> ScanReport:
        """Scan, as far as it comes."""
        with self._clock.stage("graph"):
            view = self._suspect.view
            # What has no scores has no backdoor to look for, whatever its graph decides.
            find_logits(view, self._suspect.options.logits)
        for detector in self._detectors:
            if detector.name in ALWAYS:
                self._evidence[detector.name] = _run(detector, self._suspect, self._clock)
        try:
            with self._clock.stage("graph"):
                _ = self._suspect.anatomy
        except NotAClassifierError as error:
            # Logic in front of the scores may hide the layers behind it; it is reason enough.
            if not any(map(is_weighty, self._evidence.values())):
                raise
            reason = f"The model's behaviour was not examined: {error.message}."
            decision = Decision("inconclusive", (reason,), ())
            return self._report(_describe(self._suspect.model, view), decision, self._stopped)
        self._examine_behaviour()
        return self._so_far(self._stopped)

    def _examine_behaviour(self) -> None:
        try:
            self._interim(self._so_far("time limit"))
            _prepare(self._suspect, self._clock)
            self._prepared = True
        except Halted as halt:
            self._stopped = halt.why
            return
        for detector in self._detectors:
            if detector.name not in ALWAYS:
                self._examine(detector)
        if needs_more(self._suspect.options.method, self._evidence):
            self._examine(DETECTORS.load(ALONE)())
        options = self._suspect.options
        for name in afterwards_of(options.method, options.patches):
            self._examine(DETECTORS.load(name)())

    def _examine(self, detector: Detector) -> None:
        if self._stopped:
            return
        try:
            # What is ended from outside, in the middle of a library's work, can tell no more.
            self._interim(self._so_far("time limit"))
            self._evidence[detector.name] = _run(detector, self._suspect, self._clock)
        except Halted as halt:
            self._stopped = halt.why
            if halt.evidence:
                self._evidence[detector.name] = halt.evidence

    def _so_far(self, stopped: StopCause | None) -> ScanReport:
        """Return what there is to report now.

        Args:
            stopped: Why nothing more comes; None where the scan is complete.
        """
        evidence = self._evidence
        if stopped:
            unseen = {one.name: _unseen(one.name) for one in self._detectors}
            evidence = {**unseen, **evidence}
            if needs_more(self._suspect.options.method, evidence):
                evidence.setdefault(ALONE, _unseen(ALONE))
        described = describe_model(self._suspect.anatomy)
        if self._prepared:
            method, decision = _decide(self._suspect, evidence, self._detectors[-1].name)
            return self._report(described, decision, stopped, method, evidence)
        reasons = tuple(reason for one in evidence.values() for reason in one.unexamined)
        decision = Decision("inconclusive", reasons, ())
        return self._report(described, decision, stopped, evidence=evidence)

    def _report(
        self,
        described: ModelInfo,
        decision: Decision,
        stopped: StopCause | None,
        method: str | None = None,
        evidence: Mapping[str, Evidence] | None = None,
    ) -> ScanReport:
        suspect, evidence = self._suspect, evidence or self._evidence
        observation = suspect.observation if self._prepared else None
        for name in ALWAYS:
            decision = with_always(decision, evidence[name])
        decision = with_file_findings(decision, suspect.model.findings)
        if stopped:
            decision = cut_short(decision, stopped)
        return ScanReport(
            schema_version=SCHEMA_VERSION,
            tool=ToolInfo("onnx-soda", version("onnx-soda")),
            model=described,
            dataset=_describe_dataset(suspect, observation) if observation else None,
            method=method or self._detectors[-1].name,
            verdict=decision.verdict,
            reasons=decision.reasons,
            findings=in_order(decision.findings),
            evidence=evidence,
            coverage=_coverage(observation, suspect.meter.passes),
            environment=_environment(self._providers(observation), suspect.options),
            timing=self._clock.result(),
            stopped=stopped,
            created=as_utc(time.time()),
        )

    def _providers(self, observation: Summary | None) -> tuple[str, ...]:
        if not self._prepared:
            return (CPU,)
        part = self._suspect.tail.session if observation is None else self._suspect.body
        return part.providers


def _unseen(detector: str) -> Evidence:
    """Return the evidence of a detector that had no time."""
    told = (f"Not examined by the detector {detector}: the scan ended before it was done.",)
    return Evidence(detector, detector, "inconclusive", told, unexamined=told, notes=told)


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
        try:
            evidence = detector.run(suspect, suspect.tell)
        except Halted as halt:
            known = halt.evidence and _advised(halt.evidence, detector)
            raise Halted(halt.why, known) from None
    return _advised(evidence, detector)


def _advised(evidence: Evidence, detector: Detector) -> Evidence:
    rules = {**RULES, **{rule.id: rule for rule in detector.rules}}
    return replace(evidence, findings=with_advice(evidence.findings, rules))


def _decide(
    suspect: Suspect, evidence: Mapping[str, Evidence], method: str
) -> tuple[str, Decision]:
    """Return the name of the detector that decides, and the decision."""
    both = needs_more(suspect.options.method, evidence)
    deciding = joined(evidence) if both else evidence[method]
    after = [evidence[name] for name in AFTERWARDS if name in evidence and name != method]
    apart = (*ALWAYS, *(one.detector for one in after), deciding.detector)
    beside = [one for name, one in evidence.items() if name not in apart]
    decision = decide(deciding, beside, suspect.examined, suspect.anatomy.notes)
    for one in after:
        decision = with_afterwards(decision, one)
    return deciding.detector, decision


def _describe_dataset(suspect: Suspect, observation: Summary) -> DatasetInfo | None:
    clean, choice = suspect.clean, suspect.choice
    if clean is None:
        return None
    sized, order = suspect.inferred_size, suspect.examined.relabelling
    counts = np.bincount(observation.labels)
    return DatasetInfo(
        file=clean.file,
        sha256=clean.sha256,
        classes=int((counts > 0).sum()),
        samples=len(observation.labels),
        samples_per_class=int(counts.max()),
        accuracy=observation.accuracy,
        preprocessing=_describe_preprocessing(suspect.preprocessing, choice, sized),
        class_names=clean.class_names,
        notes=(
            *clean.notes,
            *(sized.notes() if sized else ()),
            *(choice.notes() if choice else ()),
            *_unread(len(suspect.read), len(suspect.sample)),
        ),
        suggested_class_map=None
        if order is None
        else order.class_map(suspect.options.data.class_map),
    )


def _unread(read: int, sample: int) -> Sequence[str]:
    """Say what there was no time to read."""
    if read == sample:
        return ()
    return (
        f"There was time to read {read:,} of {sample:,} clean images for the accuracy; "
        "a longer `time_limit` reads more.",
    )


def _describe_preprocessing(
    preprocessing: Preprocessing, choice: PreprocessingChoice | None, sized: SizeChoice | None
) -> Mapping[str, Any]:
    described = preprocessing.as_dict()
    if sized is not None:
        described["size_trial"] = {
            "images": sized.images,
            "accuracy": sized.accuracy,
            "runner_up": sized.runner_up,
            "runner_up_accuracy": sized.runner_up_accuracy,
        }
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


def _coverage(observation: Summary | None, passes: int) -> Coverage:
    if observation is None:
        return Coverage(0, 0, passes)
    return Coverage(len(np.unique(observation.labels)), len(observation.labels), passes)


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
