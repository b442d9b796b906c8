"""The proof of a repair: the repaired model loaded anew, and measured beside the old one."""

from __future__ import annotations

from dataclasses import replace

import onnx

from onnx_soda._answers import Behaviour, RepairSummary
from onnx_soda._data.datasets import CleanSet
from onnx_soda._data.sources import IntArray
from onnx_soda._model.anatomy import dissect
from onnx_soda._model.load import load_model
from onnx_soda._model.parts import Body
from onnx_soda._repair.behaviour import (
    CURED_RATE,
    answers,
    behaviour,
    on_triggers,
    tips_over,
)
from onnx_soda._repair.materials import Bench
from onnx_soda._repair.training import Material


def prove(
    bench: Bench,
    repaired: onnx.ModelProto,
    proof: Material,
    triggers: CleanSet | None,
    summary: RepairSummary,
) -> RepairSummary:
    """Load a repaired model anew and measure it, and the old one, in ONNX Runtime.

    Args:
        bench: The old model.
        repaired: The new one.
        proof: Images that took no part in training.
        triggers: Real trigger images.
        summary: What is known so far.

    Returns:
        The summary with the outcome and what was measured.
    """
    anew = Body(dissect(load_model(repaired.SerializeToString())), bench.options.scan.runtime)
    bodies = (bench.subject.body, anew)
    given = [answers(one, proof.clean) for one in bodies]
    before, after = (
        _behaviour(one, clean, proof, bench.pair[1])
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
    real = bench.subject.inputs(bench.subject.pixels(triggers))
    shown = [on_triggers(answers(one, real), bench.pair) for one in bodies]
    return replace(done, triggers_before=shown[0], triggers_after=shown[1])


def _behaviour(body: Body, clean: IntArray, proof: Material, target: int) -> Behaviour:
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
