"""The steps of a repair, from the pair to the repaired model and its proof."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import onnx

from onnx_soda._answers import RepairSummary
from onnx_soda._bridge.bridge import export_anew, torch_threads
from onnx_soda._data.datasets import CleanSet
from onnx_soda._detect.concepts.concept import Concept
from onnx_soda._model.load import load_model
from onnx_soda._options import RepairOptions
from onnx_soda._repair.base import REMOVERS, Remover
from onnx_soda._repair.files import compare_models, with_provenance
from onnx_soda._repair.images import Reconstructor, concepts_to_use, image_sets
from onnx_soda._repair.preparation import ImageSet, Preparation, Task, prepare
from onnx_soda._repair.proof import prove
from onnx_soda._repair.teachers import Teachers
from onnx_soda._suspect import Suspect
from onnx_soda._system import Clock


@dataclass(frozen=True, eq=False)
class Result:
    """What a repair came to.

    Attributes:
        summary: What was done and what it came to.
        model: The repaired model; None where nothing meets the accuracy asked for.
        suspect: The same, loaded anew, for a new scan; None where a scan cannot look at it.
    """

    summary: RepairSummary
    model: onnx.ModelProto | None = None
    suspect: Suspect | None = None


def remove_backdoor(
    suspect: Suspect,
    task: Task,
    options: RepairOptions,
    triggers: CleanSet | None,
    clock: Clock,
    teachers: Teachers | None = None,
) -> Result:
    """Repair a model; see `repair`.

    Args:
        suspect: The model, with clean images.
        task: What is to be repaired.
        options: See `RepairOptions`.
        triggers: Real trigger images.
        clock: Takes the time of each stage.
        teachers: References that say what changed images should be.
    """
    with torch_threads(options.scan.runtime.thread_count):
        return _remove(suspect, task, options, triggers, clock, teachers)


def _remove(
    suspect: Suspect,
    task: Task,
    options: RepairOptions,
    triggers: CleanSet | None,
    clock: Clock,
    teachers: Teachers | None,
) -> Result:
    with clock.stage("preparation"):
        ready = prepare(suspect, task, options, suspect.progress, teachers)
        # First: what cannot be trained or written is said at once.
        remover = REMOVERS.load(options.method)(ready)
    with clock.stage("conversion"):
        module, notes = ready.whole
    with clock.stage("concepts"):
        concepts = concepts_to_use(ready)
    with clock.stage("reconstruction"):
        climbed = module if ready.climbable else None
        maker = Reconstructor(suspect, task.pair[1], concepts, climbed)
        folds, proof = image_sets(ready, maker)
    summary = _so_far(ready, remover, concepts, folds, proof, notes)
    # A part without any could neither be trained on nor judged.
    if not all(len(part.infected) for part in (*folds, proof)):
        return Result(replace(summary, reason=_no_infected(options)))
    with clock.stage("training"):
        removal = remover.remove(folds)
    summary = replace(
        summary, **removal.facts, reason=removal.reason, notes=(*notes, *removal.notes)
    )
    if removal.model is None:
        return Result(summary)
    with clock.stage("proof"):
        repaired = with_provenance(removal.model, suspect.model, task.pair)
        changes = compare_models(ready.proto, repaired).changes
        if options.export == "torch":
            repaired = export_anew(repaired, ready.sample)
        anew = suspect.with_model(load_model(repaired.SerializeToString()))
        proved = prove(ready, anew, proof, triggers, replace(summary, changes=changes))
        return Result(proved, repaired, anew if removal.scannable else None)


def _so_far(
    ready: Preparation,
    remover: Remover,
    concepts: Sequence[Concept],
    folds: Sequence[ImageSet],
    proof: ImageSet,
    notes: tuple[str, ...],
) -> RepairSummary:
    """Return what is known before the removal."""
    summary = RepairSummary(
        outcome="failed",
        reason="",
        victim_class=ready.task.pair[0],
        target_class=ready.task.pair[1],
        scope=ready.options.scope,
        reconstruction=ready.options.reconstruction,
        method=remover.name,
        also_turned=ready.task.also,
        concepts=tuple(concept.describe() for concept in concepts),
        infected=_count(folds, proof, "infected"),
        clean_images=_count(folds, proof, "labels"),
        notes=notes,
        teachers=len(ready.teachers.references) if ready.teachers else 0,
    )
    return replace(summary, **remover.facts)


def _count(folds: Sequence[ImageSet], proof: ImageSet, kind: str) -> tuple[int, int]:
    """Return how many images there are to train on, and to measure with."""
    return sum(len(getattr(fold, kind)) for fold in folds), len(getattr(proof, kind))


def _no_infected(options: RepairOptions) -> str:
    way = {
        "concepts": "no concept turns any image",
        "ascent": "gradient ascent turns no image",
        "both": "neither a concept nor gradient ascent turns any image",
    }[options.reconstruction]
    return (
        f"No infected image could be reconstructed in some part of the clean set: {way} of the "
        "victim there into the target. More images of the victim may help."
    )
