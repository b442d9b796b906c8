"""The steps of a repair, from the clean set and the pair to the repaired model and its proof."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnx_soda.causal.analyse import attribute
from onnx_soda.causal.tail import Tail
from onnx_soda.clock import Clock
from onnx_soda.concepts.concept import Concept
from onnx_soda.concepts.examine import MOST_CLASSES
from onnx_soda.concepts.focus import concepts_for_pair
from onnx_soda.concepts.score import class_likeness
from onnx_soda.data.datasets import CleanSet
from onnx_soda.data.sampling import check_labels
from onnx_soda.data.sources import IntArray
from onnx_soda.errors import ConversionError, LabelError, ParityError, RepairError
from onnx_soda.model.anatomy import Anatomy, dissect
from onnx_soda.model.body import Body
from onnx_soda.model.load import OnnxModel, load_model
from onnx_soda.observe import Observation, choose_preprocessing, observe, sample_images
from onnx_soda.options import Progress
from onnx_soda.repair.bridge import TorchModel, to_torch
from onnx_soda.repair.difference import compare_models
from onnx_soda.repair.files import read_proto, with_provenance
from onnx_soda.repair.neurons import outstanding_neurons
from onnx_soda.repair.options import RepairOptions
from onnx_soda.repair.partition import Partition, partition, subset
from onnx_soda.repair.proof import CURED_RATE, answers, behaviour, on_triggers
from onnx_soda.repair.reconstruct import Reconstructor
from onnx_soda.repair.subject import Subject
from onnx_soda.report.repair_schema import RepairSummary

if TYPE_CHECKING:  # it imports torch
    from onnx_soda.repair.choosing import Choice
    from onnx_soda.repair.training import Material, Trainee

__all__ = ["Result", "work"]

# Concepts to reconstruct with, besides their neighbours.
_CONCEPTS = 6
# Fewer images of the victim cannot be split in three.
_FEWEST_VICTIMS = 8
# Images that the torch module is compared with ONNX Runtime on.
_COMPARED = 8


@dataclass(frozen=True, eq=False)
class Result:
    """What the work came to; `model` is None where nothing meets the accuracy asked for."""

    summary: RepairSummary
    model: onnx.ModelProto | None


@dataclass(frozen=True, eq=False)
class _Bench:
    """What all steps need."""

    proto: onnx.ModelProto
    anatomy: Anatomy
    subject: Subject
    clean: CleanSet
    parts: Partition
    seen: Observation
    neurons: NDArray[np.intp]
    count: int
    pair: tuple[int, int]
    also: tuple[int, ...]
    options: RepairOptions
    progress: Progress
    clock: Clock

    @property
    def layer(self) -> str:
        return self.anatomy.layer.name

    @property
    def logits(self) -> str:
        return self.anatomy.logits.value.name or ""

    @property
    def climbable(self) -> bool:
        """Whether the image can be changed by gradients, and is to be."""
        floating = np.issubdtype(self.anatomy.view.image.numpy_dtype(), np.floating)
        return bool(floating) and self.options.reconstruction != "concepts"

    def sample(self) -> NDArray[Any]:
        """Return a few inputs to compare torch with ONNX Runtime on."""
        return self.subject.inputs(self.subject.pixels(self.clean, self.parts.train[:_COMPARED]))


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
    from onnx_soda.repair.choosing import run_best  # imports torch
    from onnx_soda.repair.scopes import threads_put_back, trainees_of

    bench = _prepare(model, clean, pair, tuple(also), options, progress, clock)
    head = _head(bench)  # first: what cannot be trained or written is said at once
    with clock.stage("concepts"):
        concepts = _find_concepts(bench)
    module, notes = _whole_module(bench)
    with clock.stage("reconstruction"):
        climbed = module if bench.climbable else None
        maker = Reconstructor(bench.subject, pair[1], concepts, climbed)
        *folds, proof = (
            _material(bench, maker, rows, seed)
            for seed, rows in enumerate((*bench.parts.folds, bench.parts.measure))
        )
    infected = _count(folds, proof, "infected")
    summary = RepairSummary(
        outcome="failed",
        reason="",
        victim_class=pair[0],
        target_class=pair[1],
        scope=options.scope,
        reconstruction=options.reconstruction,
        also_turned=bench.also,
        concepts=tuple(concept.describe() for concept in concepts),
        infected=infected,
        clean_images=_count(folds, proof, "labels"),
        neurons=bench.count,
        outstanding=len(bench.neurons),
        notes=notes,
        seconds=clock.seconds,
    )
    if not all(infected):
        return Result(replace(summary, reason=_no_infected(options)), None)
    with clock.stage("training"), threads_put_back():
        neurons = (bench.anatomy.layer.axis, bench.neurons)
        trainees, more = trainees_of(
            options.scope, head, module, bench.sample(), neurons, pair[1], folds
        )
        trainee, choice = run_best(trainees, pair[1], folds, options.max_accuracy_drop)
    summary = replace(summary, scope=trainee.scope, notes=(*notes, *more))
    if choice.kept is None:
        return Result(replace(summary, reason=_too_costly(choice, options)), None)
    with clock.stage("proof"):
        return _prove(bench, model, trainee, choice, proof, summary, triggers)


def _count(folds: Sequence[Material], proof: Material, kind: str) -> tuple[int, int]:
    """Return how many images there are to train on, and to measure with."""
    return sum(len(getattr(fold, kind)) for fold in folds), len(getattr(proof, kind))


def _prepare(
    model: OnnxModel,
    clean: CleanSet,
    pair: tuple[int, int],
    also: tuple[int, ...],
    options: RepairOptions,
    progress: Progress,
    clock: Clock,
) -> _Bench:
    with clock.stage("preparation"):
        anatomy = dissect(model)
        tail = Tail(anatomy, options.scan.runtime)
        body = Body(anatomy, options.scan.runtime, tail.needed)
        image = anatomy.view.image
        zeros = np.zeros(image.concrete_shape(image.batch or 1), image.numpy_dtype())
        classes = body.logits(zeros).shape[1]
        _check_pair(pair, classes, clean)
        others = (label for label in also if label not in pair)
        also = tuple(label for label in others if _images_of(label, clean) >= _FEWEST_VICTIMS)
        parts = partition(clean.labels, options.scan.seed)
        training = subset(clean, parts.train)
        rows = sample_images(training, classes, options.scan)
        how, _ = choose_preprocessing(body, training, rows, options.scan, progress)
        seen = observe(body, training, rows, how, progress)
        found = attribute(tail, seen, options.scan, partial(progress, "interventions on neurons"))
        if found is None:
            raise RepairError("the neurons' causal attribution cannot be computed")
        neurons = outstanding_neurons(found, pair[1], options.top, options.scan.threshold)
    if not len(neurons):
        raise RepairError(
            f"no neuron stands out for class {pair[1]}", "Give a share of them by --top."
        )
    count = seen.layer.shape[anatomy.layer.axis]
    return _Bench(
        read_proto(model), anatomy, Subject(body, how), clean, parts, seen, neurons, count, pair,
        also, options, progress, clock,
    )  # fmt: skip


def _check_pair(pair: tuple[int, int], classes: int, clean: CleanSet) -> None:
    check_labels(clean.labels, classes, clean.class_names, allow_missing=True)
    victim, target = pair
    if victim == target or not (0 <= victim < classes and 0 <= target < classes):
        raise RepairError(
            f"{victim} and {target} are no pair of the model's classes 0..{classes - 1}",
            "Give two different ones.",
        )
    images = _images_of(victim, clean)
    if images < _FEWEST_VICTIMS:
        raise LabelError(
            f"the clean set has {images} images of the victim class {victim}",
            f"Repair needs at least {_FEWEST_VICTIMS}.",
        )


def _images_of(label: int, clean: CleanSet) -> int:
    return int((clean.labels == label).sum())


def _find_concepts(bench: _Bench) -> tuple[Concept, ...]:
    classes = bench.seen.logits.shape[1]
    if bench.options.reconstruction == "ascent" or classes > MOST_CLASSES:
        return ()
    labels = bench.clean.labels[bench.parts.train]
    return concepts_for_pair(
        bench.anatomy,
        bench.subject.how,
        bench.subject.pixels(bench.clean, bench.parts.train),
        labels,
        _likeness(bench, classes),
        bench.pair,
        np.random.default_rng(bench.options.scan.seed),
        _CONCEPTS,
        bench.options.scan.runtime,
        partial(bench.progress, "concepts tried"),
    )


def _likeness(bench: _Bench, classes: int) -> NDArray[np.float64]:
    layer, axis = bench.seen.layer, bench.anatomy.layer.axis
    places = tuple(i for i in range(1, layer.ndim) if i != axis)
    return class_likeness(layer.astype(np.float64).mean(axis=places), bench.seen.labels, classes)


def _whole_module(bench: _Bench) -> tuple[TorchModel | None, tuple[str, ...]]:
    """Return the whole model in torch where it is needed, and what is to be said about it."""
    options = bench.options
    if options.scope == "head" and options.reconstruction == "concepts":
        return None, ()
    with bench.clock.stage("conversion"):
        try:
            module = to_torch(
                bench.proto, images=bench.sample(), outputs=[bench.logits, bench.layer]
            )
        except (ConversionError, ParityError) as error:
            if options.scope in ("path", "deep") or options.reconstruction == "ascent":
                raise
            return None, (f"Neither gradient ascent nor training of all layers: {error.message}.",)
    return module, module.notes


def _material(bench: _Bench, maker: Reconstructor, rows: IntArray, seed: int) -> Material:
    from onnx_soda.repair.training import Material

    labels = bench.clean.labels[rows]
    pixels = bench.subject.pixels(bench.clean, rows)
    victims = (bench.pair[0], *bench.also)
    infected = [maker.infect(pixels[labels == victim], seed) for victim in victims]
    infected_labels = np.repeat(np.array(victims, np.int64), [len(images) for images in infected])
    bystanders = maker.bystanders(pixels, labels, victims, seed)
    return Material(
        bench.subject.inputs(pixels),
        labels,
        np.concatenate(infected),
        infected_labels,
        *bystanders,
    )


def _head(bench: _Bench) -> Trainee:
    from onnx_soda.repair.training import head_trainee

    sample = bench.sample()
    bridge = to_torch(bench.proto, images=sample, head_only=True)
    if bridge.inputs != (bench.layer,):
        raise RepairError(
            "the last layers read more than one tensor, and cannot be trained apart",
            "Please report it, with the model.",
        )
    encode = bench.subject.activations
    return head_trainee(bridge, encode, encode(sample), bench.anatomy.layer.axis, bench.neurons)


def _prove(
    bench: _Bench,
    model: OnnxModel,
    trainee: Trainee,
    choice: Choice,
    proof: Material,
    summary: RepairSummary,
    triggers: CleanSet | None,
) -> Result:
    """Put the weights into the file's model, load that anew, and measure both."""
    assert choice.kept is not None  # noqa: S101 - the caller has looked
    repaired = with_provenance(trainee.write_back(choice.weights), model, bench.pair)
    changes = compare_models(bench.proto, repaired).changes
    if bench.options.export == "torch":
        from onnx_soda.repair.export import export_anew  # imports torch

        repaired = export_anew(repaired, bench.sample())
    anew = Body(dissect(load_model(repaired.SerializeToString())), bench.options.scan.runtime)
    old, new = bench.subject.body, anew
    given = [(answers(one, proof.clean), answers(one, proof.infected)) for one in (old, new)]
    before, after = (
        behaviour(clean, proof.labels, infected, proof.infected_labels, bench.pair[1])
        for clean, infected in given
    )
    shown = None
    if triggers is not None:
        real = bench.subject.inputs(bench.subject.pixels(triggers))
        shown = [on_triggers(answers(one, real), bench.pair) for one in (old, new)]
    trial = choice.kept
    done = replace(
        summary,
        outcome="repaired" if after.target_rate <= CURED_RATE else "partly repaired",
        reason=_achieved(after.target_rate, before.target_rate),
        rate=trial.settings.rate,
        alpha=trial.settings.alpha,
        epochs=trial.settings.epochs,
        share=trial.settings.shares[0],
        before=before,
        after=after,
        agreement=float((given[0][0] == given[1][0]).mean()),
        triggers_before=shown[0] if shown else None,
        triggers_after=shown[1] if shown else None,
        changes=changes,
    )
    return Result(done, repaired)


def _achieved(after: float, before: float) -> str:
    return (
        f"Of reconstructed infected images not trained on, {after:.1%} are given to the target; "
        f"{before:.1%} were before."
    )


def _no_infected(options: RepairOptions) -> str:
    way = {"concepts": "no concept turns the victim into the target"}.get(
        options.reconstruction, "neither a concept nor gradient ascent turns any image"
    )
    return f"No infected image could be reconstructed: {way}."


def _too_costly(choice: Choice, options: RepairOptions) -> str:
    return (
        f"Every result loses more than {options.max_accuracy_drop:.1%} of clean accuracy, in which "
        f"the target class counts a tenth at least (before {choice.before:.1%}, at best "
        f"{choice.best_accuracy:.1%})."
    )
