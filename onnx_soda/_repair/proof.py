"""What a model does on images, in ONNX Runtime, and the proof of a repair by it.

The repaired model is loaded anew and measured beside the old one.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from onnx_soda._answers import (
    Behaviour,
    FlowGrade,
    FlowProof,
    RepairSummary,
    TriggerBehaviour,
)
from onnx_soda._data.datasets import CleanSet
from onnx_soda._data.sources import IntArray
from onnx_soda._detect.references.bank import grades_of, strength_of
from onnx_soda._detect.references.decide import load_calibration
from onnx_soda._detect.references.flows import Flows, own_flows
from onnx_soda._detect.references.opinion import SecondOpinion
from onnx_soda._model.parts import Body
from onnx_soda._repair.images import answers
from onnx_soda._repair.preparation import ImageSet, Preparation
from onnx_soda._repair.teachers import Teachers
from onnx_soda._suspect import Suspect


def prove(
    ready: Preparation,
    repaired: Suspect,
    proof: ImageSet,
    triggers: CleanSet | None,
    summary: RepairSummary,
) -> RepairSummary:
    """Measure a repaired model, and the old one, in ONNX Runtime.

    Args:
        ready: The old model.
        repaired: The new one, loaded anew.
        proof: Images that took no part in training.
        triggers: Real trigger images.
        summary: What is known so far.

    Returns:
        The summary with the outcome and what was measured.
    """
    bodies = (ready.suspect.body, repaired.body)
    given = [answers(one, proof.clean) for one in bodies]
    before, after = (
        _behaviour(one, clean, proof, ready.task.pair[1])
        for one, clean in zip(bodies, given, strict=True)
    )
    done = replace(
        summary,
        outcome="repaired" if after.target_rate <= CURED_RATE else "partly repaired",
        reason=f"Of reconstructed infected images not trained on, {after.target_rate:.1%} are "
        f"given to the target; {before.target_rate:.1%} were before.",
        before=before,
        after=after,
        agreement=float((given[0] == given[1]).mean()),
        notes=(*summary.notes, *_tipping(before, after)),
    )
    if ready.teachers is not None:
        done = _with_flows(done, ready.teachers, repaired)
    if triggers is None:
        return done
    real = ready.suspect.inputs(ready.suspect.pixels(clean=triggers))
    shown = [on_triggers(answers(one, real), ready.task.pair) for one in bodies]
    return replace(done, triggers_before=shown[0], triggers_after=shown[1])


def _with_flows(summary: RepairSummary, teachers: Teachers, repaired: Suspect) -> RepairSummary:
    """Add how the pair stands out against the references, and what else stands out now."""
    found = own_flows(repaired)
    after = teachers.after(found)
    assert summary.victim_class is not None and summary.target_class is not None  # noqa: S101, PT018
    pair = (summary.victim_class, summary.target_class)
    shown = dict.fromkeys((pair, after.ranked()[0]))
    flows = tuple(_flow_proof(teachers, found, after, one) for one in shown)
    worst = flows[-1]
    limit = load_calibration(len(teachers.references)).threshold
    if worst.after <= limit:
        return replace(summary, flows=flows)
    named = f"{worst.victim_class} -> {worst.target_class}"
    note = f"Against the references {named} still stands out, by {worst.after:.2f}."
    return replace(summary, flows=flows, outcome="partly repaired", notes=(*summary.notes, note))


def _flow_proof(
    teachers: Teachers, found: Flows, after: SecondOpinion, pair: tuple[int, int]
) -> FlowProof:
    victim, target = pair
    place = int(teachers.opinion.concepts[0][pair])
    told = (teachers.own, found, *teachers.references)
    grades = []
    for one in grades_of(teachers.bank, place):
        # Sums of softmaxes in float32 may be a little over 1.
        shares = [float(flows.shares[one + 1, :, victim, target].mean()) for flows in told]
        before, then, *others = (min(share, 1.0) for share in shares)
        strength = strength_of(teachers.bank[one])
        grades.append(FlowGrade(strength, before, then, float(np.mean(others))))
    return FlowProof(
        victim,
        target,
        teachers.opinion.beyond(pair),
        after.beyond(pair),
        teachers.bank[place].describe(),
        tuple(grades),
    )


def _behaviour(body: Body, clean: IntArray, proof: ImageSet, target: int) -> Behaviour:
    infected = answers(body, proof.infected)
    beside = answers(body, proof.bystanders)
    return behaviour(clean, proof.labels, infected, proof.infected_labels, target, beside)


def _tipping(before: Behaviour, after: Behaviour) -> tuple[str, ...]:
    if not tips_over(before, after):
        return ()
    return (
        f"The same changes now turn {after.tipped_rate:.0%} of other classes' images into the "
        f"victim class ({before.tipped_rate:.0%} before): the repair tips over.",
    )


# Share of the reconstructed images not trained on that may still go to the target, and of other
# classes' images under the same changes that may go to the victim.
CURED_RATE = 0.05


def behaviour(
    clean: IntArray,
    labels: IntArray,
    infected: IntArray,
    truth: IntArray,
    target: int,
    bystanders: IntArray,
) -> Behaviour:
    """Sum up answers to clean and to changed images.

    Args:
        clean: Answers to clean images.
        labels: Their classes.
        infected: Answers to reconstructed images.
        truth: Classes of those.
        target: Target class.
        bystanders: Answers to images of other classes under the same changes; there may be none.
    """
    right = clean == labels
    by_class = {str(label): float(right[labels == label].mean()) for label in np.unique(labels)}
    to_target, to_their_class = (float((infected == label).mean()) for label in (target, truth))
    tipped = float(np.isin(bystanders, truth).mean()) if len(bystanders) else None
    return Behaviour(float(right.mean()), by_class, to_target, to_their_class, tipped)


def on_triggers(given: IntArray, pair: tuple[int, int]) -> TriggerBehaviour:
    """Sum up answers to real trigger images."""
    victim, target = (float((given == label).mean()) for label in pair)
    return TriggerBehaviour(len(given), target, victim)


def tips_over(before: Behaviour, after: Behaviour) -> bool:
    """Tell whether what turned the victim now turns other classes into the victim."""
    if before.tipped_rate is None or after.tipped_rate is None:
        return False
    return after.tipped_rate - before.tipped_rate > CURED_RATE
