"""The detector of decisions written into the graph: it needs no images.

A decision that surely steers the scores makes the verdict "backdoor", a lesser one keeps it from
being "clean" (`onnx_soda._verdict`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import onnx_ir as ir

from onnx_soda._detect.base import Detector
from onnx_soda._detect.graph_logic.confirm import confirm, spare_quantization
from onnx_soda._detect.graph_logic.flow import Flow, build_flow
from onnx_soda._detect.graph_logic.forcing import Proof, Scene, count_taken
from onnx_soda._detect.graph_logic.images import Clean, ImageRunner, ranges_of
from onnx_soda._detect.graph_logic.paths import most_moved
from onnx_soda._detect.graph_logic.showing import draw_decision, show_trigger
from onnx_soda._detect.graph_logic.suspicions import Suspicion, read
from onnx_soda._detect.graph_logic.telling import Place, places_in, severest, tell
from onnx_soda._errors import NotAClassifierError, SodaError
from onnx_soda._model.graph import GraphView
from onnx_soda._model.logits import find_logits
from onnx_soda._numbers import NO_DECISIONS, GraphDecisions, LogicNumbers, decisions_table, plain
from onnx_soda._options import Progress, RuntimeOptions
from onnx_soda._results import Column, Drawing, Evidence, Finding, Gallery, Table
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
        leads: It is the first of the findings about the decision, which says most.
    """

    rule_id: str
    severity: Severity
    status: Literal["suspected", "confirmed"]
    nodes: tuple[str, ...]
    reason: str
    trigger: str | None = None
    flipped: int | None = None
    leads: bool = True


@dataclass(frozen=True)
class LogicEvidence:
    """All findings about a graph, and what was looked at.

    Attributes:
        findings: The findings, the most severe first.
        nodes_examined: Number of nodes, those in bodies of If, Loop and Scan included.
        images_run: Number of images shown to find triggers; 0 where nothing was suspected.
        notes: Sentences about what was not examined.
        decisions: What the graph decides, and on what.
        drawings: Of the decisions that findings are about.
        galleries: Images that take them.
    """

    findings: tuple[LogicFinding, ...]
    nodes_examined: int
    images_run: int
    notes: tuple[str, ...]
    decisions: GraphDecisions = NO_DECISIONS
    drawings: tuple[Drawing, ...] = ()
    galleries: tuple[Gallery, ...] = ()


# Together for all suspicions of a graph: enough for small images, bearable for large ones.
_SECONDS = 20.0
_IMAGES = 8000
# More suspicions than this are not tried out.
_MOST_TRIED = 6
# Nodes named where a finding stands for several places.
_MOST_NAMED = 12
# Decisions that are drawn, the most severe first.
_MOST_DRAWN = 3
# Clean images that decisions are forced on.
_CLEAN_IMAGES = 12


class GraphLogicDetector(Detector):
    """Looks for decisions in the graph that steer its scores; needs no images."""

    name: ClassVar[str] = "graph-logic"

    def run(self, suspect: Suspect, progress: Progress) -> Evidence:
        """Read the graph, and try out what is suspected; see `Detector.run`."""
        del progress
        view, options = suspect.view, suspect.options
        scores = find_logits(view, options.logits).value if options.logits else None
        folder = suspect.model.folder
        found = examine_logic(
            view,
            options.runtime,
            options.seed,
            scores,
            folder=folder,
            clean=partial(_clean, suspect),
        )
        return as_evidence(found)


def _clean(suspect: Suspect) -> Clean:
    """Return some clean images as the model takes them, and a little changed.

    None where they cannot be shown: the scan says why, later.
    """
    if suspect.clean is None:
        return Clean()
    try:
        rng = np.random.default_rng(suspect.options.seed)
        rows = np.sort(rng.permutation(suspect.sample)[:_CLEAN_IMAGES])
        pixels = suspect.pixels(rows)
        changed = [pixels, 0.8 * pixels, np.clip(pixels + rng.normal(0, 0.05, pixels.shape), 0, 1)]
        shown = suspect.inputs(np.concatenate(changed).astype(np.float32))
        ends = suspect.inputs(np.stack([np.zeros_like(pixels[0]), np.ones_like(pixels[0])]))
        return Clean(tuple(shown), (float(ends.min()), float(ends.max())))
    except SodaError:
        return Clean()


def examine_logic(
    view: GraphView,
    runtime: RuntimeOptions,
    seed: int = 0,
    logits: ir.Value | None = None,
    try_out: bool = True,
    folder: Path | None = None,
    clean: Callable[[], Clean] = Clean,
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
        clean: Gives clean images as the model takes them, where there are some. It is asked only
            where something is suspected.
    """
    flow = build_flow(view.model.graph, [view.image_value])
    reading = read(flow, _targets(view, flow, logits))
    if not reading.suspicions:
        decided = tell(reading, places_in(reading, {}), {})
        return LogicEvidence((), flow.nodes, 0, (), decided)
    probe = ImageRunner(view, runtime, _SECONDS, _IMAGES, folder)
    given = clean() if try_out else Clean()
    ranges = (given.bounds,) if given.images else ranges_of(view.image)
    scene = Scene(view, reading, probe, given.images, ranges)
    tried, notes = _tried(scene, seed) if try_out else (_read_only(reading.suspicions), [])
    return _evidence(scene, tried, notes, probe.shown, seed if try_out else None)


Tried = tuple[Suspicion, Proof | None]
"""A suspicion, and what was seen when it was tried out; None where it was not."""


def _evidence(
    scene: Scene, tried: list[Tried], notes: list[str], images: int, seed: int | None
) -> LogicEvidence:
    """Put together what was found.

    Args:
        scene: The graph, and the means to run it.
        tried: The suspicions.
        notes: Sentences about what was not tried.
        images: Number of images shown.
        seed: Of the ordinary images on which decisions are read; None where nothing is run.
    """
    reading, image = scene.reading, scene.view.image
    findings = _counted([finding for one in tried for finding in _findings(*one)])
    findings.sort(key=lambda f: (SEVERITIES.index(f.severity), f.status, f.rule_id))
    severities = severest((suspicion, _severity(suspicion, proof)) for suspicion, proof in tried)
    places = places_in(reading, severities)
    quiet = seed is None or scene.probe.exhausted
    seen = {} if quiet else _seen_taken(scene, places, severities, seed or 0)
    shown = sorted(tried, key=lambda one: SEVERITIES.index(_severity(*one)))[:_MOST_DRAWN]
    pictures = (
        show_trigger(image, scene.ranges, suspicion, proof)
        for suspicion, proof in shown
        if proof is not None and _is_confirmed(suspicion, proof)
    )
    return LogicEvidence(
        tuple(findings),
        reading.flow.nodes,
        images,
        tuple(dict.fromkeys(notes)),
        tell(reading, places, severities, seen),
        tuple(draw_decision(reading, suspicion) for suspicion, _ in shown),
        tuple(gallery for gallery in pictures if gallery),
    )


def _read_only(suspicions: Sequence[Suspicion]) -> list[Tried]:
    """Return what the structure says by itself: of skips and rounding it says nothing."""
    return [(one, None) for one in suspicions if one.nature not in ("skip", "rounding")]


def _seen_taken(
    scene: Scene, places: list[Place], severities: Mapping[ir.Node, Severity], seed: int
) -> dict[ir.Node, str]:
    """Say of how many ordinary images a decision holds that findings are about."""
    asked = [place for place in places if place.node in severities]
    tensors = [place.deciding for place in asked if place.deciding is not None]
    rng = np.random.default_rng(seed)
    try:
        counts = count_taken(scene, list(dict.fromkeys(tensors)), rng)
    except SodaError:
        return {}
    kind = "clean" if scene.clean else "plain"
    return {
        place.node: f"; {_HOLDS.get(place.node.op_type, _NOT_ZERO)} for "
        f"{counts[place.deciding][0]} of {counts[place.deciding][1]} {kind} images"
        for place in asked
        if place.deciding in counts
    }


_HOLDS = {"Where": "this holds", "If": "this holds"}
_NOT_ZERO = "the decision is not 0"


def _tried(scene: Scene, seed: int) -> tuple[list[Tried], list[str]]:
    """Try suspicions out, the most severe first, and skips last."""
    rng = np.random.default_rng(seed)
    left = spare_quantization(scene, list(scene.reading.suspicions), rng)
    skips = [one for one in left if one.nature == "skip"]
    gates = [one for one in left if one.nature != "skip"]
    gates.sort(key=lambda one: SEVERITIES.index(one.severity))
    notes = list[str]()
    found = list[Tried]()
    for number, suspicion in enumerate(gates):
        proof = None
        if number < _MOST_TRIED:
            proof, note = confirm(scene, suspicion, np.random.default_rng(seed))
            notes += [note] if note else []
        found.append((suspicion, proof))
    for suspicion in most_moved(scene, skips, rng)[:_MOST_TRIED]:
        proof, _ = confirm(scene, suspicion, np.random.default_rng(seed))
        # An honest network has many; what works like a switch counts.
        found += [(suspicion, proof)] if proof is not None else []
    if len(gates) > _MOST_TRIED:
        notes.append(f"Only {_MOST_TRIED} of {len(gates)} decisions were tried out.")
    return found, notes


def _counted(findings: list[LogicFinding]) -> list[LogicFinding]:
    """Put findings together that say the same of different places."""
    groups: dict[LogicFinding, list[LogicFinding]] = {}
    for finding in findings:
        groups.setdefault(replace(finding, nodes=()), []).append(finding)
    return [_together(group) for group in groups.values()]


def _together(group: list[LogicFinding]) -> LogicFinding:
    first = group[0]
    if len(group) == 1:
        return first
    nodes = tuple(dict.fromkeys(node for one in group for node in one.nodes))
    more = f" It is so in {len(group)} places."
    return replace(first, nodes=nodes[:_MOST_NAMED], reason=first.reason + more)


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
    severity, confirmed = _severity(suspicion, proof), _is_confirmed(suspicion, proof)
    first, target = suspicion.rules[0], None
    reason = "; ".join((suspicion.reason, *_seen(suspicion, proof))) + "."
    if proof is not None:
        whole = proof.forced_class
        target = proof.image_class if confirmed and whole is None else whole
    return [
        LogicFinding(
            rule,
            severity,
            "confirmed" if confirmed else "suspected",
            suspicion.nodes,
            reason if rule == first else suspicion.more[rule],
            proof.trigger if proof and confirmed else None,
            target if severity == "high" else None,
            leads=rule == first,
        )
        for rule in suspicion.rules
    ]


def _severity(suspicion: Suspicion, proof: Proof | None) -> Severity:
    """Return high where the structure says so, or where no layer can do what was seen.

    A network that asks how sure it is decides honestly, whatever its answer is then.
    """
    beyond = proof is not None and proof.beyond and suspicion.nature != "confidence"
    return "high" if beyond else suspicion.severity


def _is_confirmed(suspicion: Suspicion, proof: Proof | None) -> bool:
    """Tell whether a severe decision was seen to change a class, and an image that takes it."""
    if proof is None or _severity(suspicion, proof) != "high" or not proof.satisfied:
        return False
    return proof.forced_class is not None or proof.image_class is not None


def _seen(suspicion: Suspicion, proof: Proof | None) -> list[str]:
    """Say what was seen when a decision was forced."""
    words = list[str]()
    if suspicion.nature == "confidence":
        words.append("it depends on how sure the network is, whatever the class")
    if proof is None:
        return words
    if proof.forced_class is not None:
        words.append(
            f"forced, it sends images to class {proof.forced_class} "
            f"and changes the class of {100 * proof.flipped:.0f} % of them"
        )
    if proof.beyond:
        words.append("no layer reaches such scores by itself")
    elif proof.forced_class is not None and suspicion.severity != "high":
        words.append("the layers reach such scores by themselves")
    return words


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
        tables=(_table(found), decisions_table(found.decisions)),
        galleries=found.galleries,
        drawings=found.drawings,
        numbers=plain(LogicNumbers(found.nodes_examined, found.images_run, found.decisions)),
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
    told = finding.trigger and finding.leads
    proof += f"; {finding.trigger} takes the decision." if told else "."
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
