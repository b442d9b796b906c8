"""Examines the logic of a graph: the public face of this room."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir

from onnx_soda.errors import NotAClassifierError
from onnx_soda.logic.bypass import find_bypasses
from onnx_soda.logic.confirm import Scene, confirm
from onnx_soda.logic.controls import find_controls
from onnx_soda.logic.decisions import find_decisions
from onnx_soda.logic.evidence import LogicEvidence, LogicFinding, Proof
from onnx_soda.logic.flow import Flow, build_flow
from onnx_soda.logic.judge import Suspicion, suspect, suspect_bypasses
from onnx_soda.logic.probe import Probe
from onnx_soda.logic.steepness import find_slopes
from onnx_soda.logic.weights import find_trunk
from onnx_soda.model.graph import GraphView
from onnx_soda.model.logits import find_logits
from onnx_soda.model.runtime_options import RuntimeOptions
from onnx_soda.rules.rule import SEVERITIES

__all__ = ["examine_logic"]

# Together for all suspicions of a graph: enough for small images, bearable for large ones.
_SECONDS = 20.0
_IMAGES = 8000
# More suspicions than this are not tried out.
_MOST_TRIED = 6


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
    probe = Probe(view, runtime, _SECONDS, _IMAGES, folder)
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
