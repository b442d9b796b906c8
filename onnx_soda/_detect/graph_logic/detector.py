"""The detector of decisions written into the graph: it needs no images.

A decision that surely steers the scores makes the verdict "backdoor", a lesser one keeps it from
being "clean" (`onnx_soda._verdict`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import onnx_ir as ir

from onnx_soda._detect.base import Detector
from onnx_soda._detect.graph_logic.confirm import Proof, Scene, confirm
from onnx_soda._detect.graph_logic.decisions import find_controls, find_decisions, find_slopes
from onnx_soda._detect.graph_logic.flow import Flow, build_flow, find_trunk
from onnx_soda._detect.graph_logic.suspicions import (
    Suspicion,
    find_bypasses,
    suspect,
    suspect_bypasses,
)
from onnx_soda._detect.graph_logic.triggers import ImageRunner
from onnx_soda._errors import NotAClassifierError
from onnx_soda._model.graph import GraphView
from onnx_soda._model.logits import find_logits
from onnx_soda._numbers import LogicNumbers, plain
from onnx_soda._options import Progress, RuntimeOptions
from onnx_soda._results import Column, Evidence, Finding, Table
from onnx_soda._rules import SEVERITIES, WEIGHTY, Severity
from onnx_soda._suspect import Suspect


@dataclass(frozen=True)
class LogicFinding:
    """A decision in the graph that steers the scores.

    Attributes:
        rule_id: Rule, see onnx_soda._rules.
        severity: How severe.
        status: "confirmed" where forcing the decision flips the class and an image that takes it
            was found.
        nodes: Names of the nodes that decide, then of those through which the decision acts.
        reason: Why it is reported.
        trigger: An image that takes the decision, in words; None where nothing is confirmed.
        flipped: Class that the decision leads to; None where it is not known.
    """

    rule_id: str
    severity: Severity
    status: Literal["suspected", "confirmed"]
    nodes: tuple[str, ...]
    reason: str
    trigger: str | None = None
    flipped: int | None = None


@dataclass(frozen=True)
class LogicEvidence:
    """All findings about a graph, and what was looked at.

    Attributes:
        findings: The findings, the most severe first.
        nodes_examined: Number of nodes, those in bodies of If, Loop and Scan included.
        images_run: Number of images shown to find triggers; 0 where nothing was suspected.
        notes: Sentences about what was not examined.
    """

    findings: tuple[LogicFinding, ...]
    nodes_examined: int
    images_run: int
    notes: tuple[str, ...]


# Together for all suspicions of a graph: enough for small images, bearable for large ones.
_SECONDS = 20.0
_IMAGES = 8000
# More suspicions than this are not tried out.
_MOST_TRIED = 6


class GraphLogicDetector(Detector):
    """Looks for decisions in the graph that steer its scores; needs no images."""

    name: ClassVar[str] = "graph-logic"

    def run(self, suspect: Suspect, progress: Progress) -> Evidence:
        """Read the graph, and try out what is suspected; see `Detector.run`."""
        del progress
        view, options = suspect.view, suspect.options
        scores = find_logits(view, options.logits).value if options.logits else None
        folder = suspect.model.folder
        return as_evidence(
            examine_logic(view, options.runtime, options.seed, scores, folder=folder)
        )


def examine_logic(
    view: GraphView,
    runtime: RuntimeOptions,
    seed: int = 0,
    logits: ir.Value | None = None,
    try_out: bool = True,
    folder: Path | None = None,
) -> LogicEvidence:
    """Look for decisions in a graph that steer its scores, and try to take them.

    Nothing is run where nothing is suspected.

    Args:
        view: The graph.
        runtime: Where ONNX Runtime runs.
        seed: The same seed gives the same evidence, unless time runs out.
        logits: The scores; found where not given.
        try_out: Force decisions and look for their triggers; without, the graph is only read.
        folder: Where the model's external weights lie; None where it has none.
    """
    flow = build_flow(view)
    targets = _targets(view, flow, logits)
    trunk = find_trunk(flow, targets)
    slopes = find_slopes(flow)
    decisions = find_decisions(flow, slopes, trunk)
    controls = find_controls(flow, decisions, trunk, targets)
    suspicions = suspect(flow, decisions, trunk, controls)
    suspicions += suspect_bypasses(find_bypasses(flow, decisions, trunk, slopes))
    suspicions.sort(key=lambda suspicion: SEVERITIES.index(suspicion.severity))
    probe = ImageRunner(view, runtime, _SECONDS, _IMAGES, folder)
    scene = Scene(view, flow, decisions, slopes, targets[0], probe)
    notes = list[str]()
    findings = list[LogicFinding]()
    tried = _MOST_TRIED if try_out else 0
    for number, suspicion in enumerate(suspicions):
        proof = None
        if number < tried:
            proof, note = confirm(scene, suspicion, np.random.default_rng(seed))
            notes += [note] if note else []
        findings += _findings(suspicion, proof)
    if len(suspicions) > tried:
        notes.append(f"Only {tried} of {len(suspicions)} decisions were tried out.")
    findings.sort(key=lambda f: (SEVERITIES.index(f.severity), f.status, f.rule_id))
    return LogicEvidence(tuple(findings), flow.nodes, probe.shown, tuple(dict.fromkeys(notes)))


def _targets(view: GraphView, flow: Flow, logits: ir.Value | None) -> list[ir.Value]:
    """Return the scores, and the outputs that are not computed from them."""
    if logits is None:
        try:
            logits = find_logits(view).value
        except NotAClassifierError:
            logits = next(v for v in view.model.graph.outputs if v in flow.active)
    others = [v for v in view.model.graph.outputs if v in flow.active and v is not logits]
    return [logits, *(output for output in others if logits not in view.cuts(output))]


def _findings(suspicion: Suspicion, proof: Proof | None) -> list[LogicFinding]:
    wholesale = proof is not None and proof.forced_class is not None
    # Experts that are chosen change single answers too: where the structure leaves doubt, only
    # one class for all images is proof.
    single = proof is not None and proof.image_class is not None and suspicion.severity == "high"
    confirmed = proof is not None and proof.satisfied and (wholesale or single)
    target = None
    if proof is not None:
        target = proof.image_class if confirmed and not wholesale else proof.forced_class
    words = [suspicion.reason]
    if proof is not None and wholesale:
        words.append(
            f"forced, it sends images to class {proof.forced_class} "
            f"and changes the class of {100 * proof.flipped:.0f} % of them"
        )
    return [
        LogicFinding(
            rule,
            "high" if confirmed else suspicion.severity,
            "confirmed" if confirmed else "suspected",
            suspicion.nodes,
            "; ".join(words) + ".",
            proof.trigger if proof and confirmed else None,
            target,
        )
        for rule in suspicion.rules
    ]


def as_evidence(found: LogicEvidence) -> Evidence:
    """Return what was found in its form in the report.

    A confirmed or severe decision needs no images to be a backdoor. Nothing is "clean" by the graph
    alone: the verdict of this detector only adds to what the model's behaviour says.
    """
    findings = tuple(map(_logic_finding, found.findings))
    high = any(finding.severity == "high" for finding in findings)
    return Evidence(
        detector=GraphLogicDetector.name,
        title="Decisions written into the graph",
        verdict="backdoor" if high else "inconclusive",
        # Several rules may speak of one decision.
        reasons=tuple(dict.fromkeys(f.message for f in findings if f.severity in WEIGHTY)),
        findings=findings,
        unexamined=found.notes,
        tables=(_table(found),),
        numbers=plain(LogicNumbers(found.nodes_examined, found.images_run)),
    )


def _table(found: LogicEvidence) -> Table:
    return Table(
        "Decisions written into the graph",
        f"{found.nodes_examined} nodes were examined, and {found.images_run} images were run to "
        "find one that takes a decision.",
        (Column("rule"), Column("severity"), Column("status"), Column("trigger"), Column("nodes")),
        tuple(
            (one.rule_id, one.severity, one.status, one.trigger, ", ".join(one.nodes))
            for one in found.findings
        ),
        tuple(row for row, one in enumerate(found.findings) if one.severity in WEIGHTY),
    )


def _logic_finding(finding: LogicFinding) -> Finding:
    proof = f" {finding.status.capitalize()}"
    proof += f"; {finding.trigger} takes the decision." if finding.trigger else "."
    return Finding(
        rule_id=finding.rule_id,
        severity=finding.severity,
        victim_class=None,
        target_class=finding.flipped,
        score=None,
        threshold=None,
        message=finding.reason + proof,
        location=finding.nodes,
    )
