"""What a model does on images, in ONNX Runtime, and the proof of a repair by it.

The repaired model is loaded anew and measured beside the old one.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from onnx_soda._answers import Behaviour, RepairSummary, TriggerBehaviour
from onnx_soda._data.datasets import CleanSet
from onnx_soda._data.sources import IntArray
from onnx_soda._model.parts import Body
from onnx_soda._repair.images import answers
from onnx_soda._repair.preparation import ImageSet, Preparation
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
    if triggers is None:
        return done
    real = ready.suspect.inputs(ready.suspect.pixels(clean=triggers))
    shown = [on_triggers(answers(one, real), ready.task.pair) for one in bodies]
    return replace(done, triggers_before=shown[0], triggers_after=shown[1])


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
