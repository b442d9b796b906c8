"""The steps of a repair, from the clean set and the pair to the repaired model and its proof."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import onnx

from onnx_soda._answers import RepairSummary, WeightChange
from onnx_soda._bridge.bridge import TorchModel, to_torch
from onnx_soda._bridge.export import export_anew
from onnx_soda._data.datasets import CleanSet
from onnx_soda._detect.concepts.concept import Concept
from onnx_soda._errors import ConversionError, ParityError, RepairError
from onnx_soda._model.load import OnnxModel
from onnx_soda._options import Progress, RepairOptions
from onnx_soda._repair.choosing import Choice, run_best
from onnx_soda._repair.files import compare_models, with_provenance
from onnx_soda._repair.materials import Bench, prepare
from onnx_soda._repair.proof import prove
from onnx_soda._repair.reconstruct import Reconstructor, find_concepts, materials
from onnx_soda._repair.remove import Trial
from onnx_soda._repair.training import (
    Material,
    Trainee,
    head_trainee,
    threads_put_back,
    trainees_of,
)
from onnx_soda._system import Clock


@dataclass(frozen=True, eq=False)
class Result:
    """What the work came to; `model` is None where nothing meets the accuracy asked for."""

    summary: RepairSummary
    model: onnx.ModelProto | None


def work(
    model: OnnxModel,
    clean: CleanSet,
    pair: tuple[int, int],
    options: RepairOptions,
    triggers: CleanSet | None,
    progress: Progress,
    clock: Clock,
    also: Sequence[int] = (),
) -> Result:
    """Repair a model; see `repair.repair`.

    Args:
        model: The model.
        clean: Clean images.
        pair: Victim and target.
        options: See `RepairOptions`.
        triggers: Real trigger images.
        progress: Called as it goes on.
        clock: Takes the time of each stage.
        also: Other classes that go to the target under the same changes.
    """
    with clock.stage("preparation"):
        bench = prepare(model, clean, pair, tuple(also), options, progress)
    head = _head(bench)  # first: what cannot be trained or written is said at once
    module, notes = _whole_module(bench, clock)
    with clock.stage("concepts"):
        concepts = find_concepts(bench)
    with clock.stage("reconstruction"):
        climbed = module if bench.climbable else None
        folds, proof = materials(bench, Reconstructor(bench.subject, pair[1], concepts, climbed))
    summary = _so_far(bench, concepts, folds, proof, notes)
    # A part without any could neither be trained on nor judged.
    if not all(len(part.infected) for part in (*folds, proof)):
        return Result(replace(summary, reason=_no_infected(options)), None)
    with clock.stage("training"), threads_put_back():
        trainees, more = trainees_of(
            options.scope, head, module, bench.sample(), bench.neurons_at, pair[1], folds
        )
        trainee, choice = run_best(trainees, pair[1], folds, options.max_accuracy_drop)
    summary = replace(summary, scope=trainee.scope, notes=(*notes, *more))
    if choice.kept is None:
        return Result(replace(summary, reason=_too_costly(choice, options)), None)
    with clock.stage("proof"):
        repaired = with_provenance(trainee.write_back(choice.weights), model, pair)
        summary = _trained(summary, choice.kept, compare_models(bench.proto, repaired).changes)
        if options.export == "torch":
            repaired = export_anew(repaired, bench.sample())
        return Result(prove(bench, repaired, proof, triggers, summary), repaired)


def _so_far(
    bench: Bench,
    concepts: Sequence[Concept],
    folds: Sequence[Material],
    proof: Material,
    notes: tuple[str, ...],
) -> RepairSummary:
    """Return what is known before training."""
    return RepairSummary(
        outcome="failed",
        reason="",
        victim_class=bench.pair[0],
        target_class=bench.pair[1],
        scope=bench.options.scope,
        reconstruction=bench.options.reconstruction,
        also_turned=bench.also,
        concepts=tuple(concept.describe() for concept in concepts),
        infected=_count(folds, proof, "infected"),
        clean_images=_count(folds, proof, "labels"),
        neurons=bench.count,
        outstanding=len(bench.neurons),
        notes=notes,
    )


def _count(folds: Sequence[Material], proof: Material, kind: str) -> tuple[int, int]:
    """Return how many images there are to train on, and to measure with."""
    return sum(len(getattr(fold, kind)) for fold in folds), len(getattr(proof, kind))


def _trained(
    summary: RepairSummary, kept: Trial, changes: tuple[WeightChange, ...]
) -> RepairSummary:
    """Add how the weights were trained, and which changed."""
    how = kept.settings
    return replace(
        summary,
        rate=how.rate,
        alpha=how.alpha,
        epochs=how.epochs,
        share=how.shares[0],
        changes=changes,
    )


def _whole_module(bench: Bench, clock: Clock) -> tuple[TorchModel | None, tuple[str, ...]]:
    """Return the whole model in torch where it is needed, and what is to be said about it."""
    options = bench.options
    if options.scope == "head" and options.reconstruction == "concepts":
        return None, ()
    with clock.stage("conversion"):
        try:
            module = to_torch(
                bench.proto, images=bench.sample(), outputs=[bench.logits, bench.layer]
            )
        except (ConversionError, ParityError) as error:
            if options.scope in ("path", "deep") or options.reconstruction == "ascent":
                raise
            return None, (f"Neither gradient ascent nor training of all layers: {error.message}.",)
    return module, module.notes


def _head(bench: Bench) -> Trainee:
    sample = bench.sample()
    bridge = to_torch(bench.proto, images=sample, head_only=True)
    if bridge.inputs != (bench.layer,):
        raise RepairError(
            "the last layers read more than one tensor, and cannot be trained apart",
            "Please report it, with the model.",
        )
    encode = bench.subject.activations
    return head_trainee(bridge, encode, encode(sample), *bench.neurons_at)


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


def _too_costly(choice: Choice, options: RepairOptions) -> str:
    return (
        f"Every result loses more than {options.max_accuracy_drop:.1%} of clean accuracy, in which "
        f"the target class counts a tenth at least (before {choice.before:.1%}, at best "
        f"{choice.best_accuracy:.1%})."
    )
