"""The numbers behind the evidence of the detectors of this package, for programs.

`Evidence.numbers` holds them in plain form; `numbers_of` reads them back as these classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from onnx_soda._options import NeuronKind, Parameters
from onnx_soda._results import Column, Table
from onnx_soda._rules import WEIGHTY, Severity

ChangeKind = Literal["concept", "style"]


@dataclass(frozen=True)
class EstimateNumbers:
    """How first-order estimates agree with interventions that were run, on neurons drawn at random.

    Attributes:
        neurons: Number of neurons drawn.
        images: Number of images that they were run on.
        rank_correlation: Of estimate and intervention over these neurons (Spearman): the median of
            all source and prediction classes.
        lowest_rank_correlation: The lowest of them.
        largest_error: Of an estimate, as a share of the largest attribution of these neurons.
        corrected: Number of further neurons, those of the largest estimates, whose interventions
            were run to correct them.
    """

    neurons: int
    images: int
    rank_correlation: float
    lowest_rank_correlation: float
    largest_error: float
    corrected: int


@dataclass(frozen=True)
class SodaNumbers:
    """Numbers of SODA's causal analysis (paper, Algorithms 1 to 3).

    Attributes:
        pcc: Per class: correlation of its causal attribution with that of the other classes.
        anomaly_index: Signed anomaly index of each; abnormal below minus the threshold.
        target_logit_by_source: For each target class looked at, the mean target logit over the
            clean images of each source class. Keys are class numbers.
        method: How the attribution was computed: "closed-form", "batched" or "first-order".
        a: Scaling factor of the intervention (Equation 2).
        b: Offset of the intervention.
        layer: Tensor that was intervened on.
        neurons: Number of its neurons.
        spread: "median" or "mean" absolute deviation.
        threshold: Anomaly index over which a class is abnormal.
        responsible: For each class the neurons with the largest causal attribution, and that.
        role: "last", "deep", "middle", "shallow", or "named" where the caller named the layer.
        kind: What a neuron is: one of the "channels" (or features), or of the "places" of each.
        estimate: How good estimates are; None where every intervention was run or computed.
    """

    pcc: tuple[float, ...]
    anomaly_index: tuple[float, ...]
    target_logit_by_source: Mapping[str, Mapping[str, float]]
    method: str
    a: float
    b: float
    layer: str
    neurons: int
    spread: str
    threshold: float
    responsible: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    role: str = "last"
    kind: NeuronKind = "channels"
    estimate: EstimateNumbers | None = None


@dataclass(frozen=True)
class EffectValues:
    """A family of concepts, or a place in the image, with its numbers."""

    family: str
    values: Mapping[str, tuple[float, ...]]


@dataclass(frozen=True)
class ConceptValues:
    """A concept in numbers.

    Attributes:
        effects: What is done, one after the other; one or two.
        place: Where in the image.
    """

    effects: tuple[EffectValues, ...]
    place: EffectValues


@dataclass(frozen=True)
class PairNumbers:
    """A pair of classes and the change that best turns one into the other.

    Counts and shares are of clean images that did not choose the change.

    Attributes:
        victim_class: Source class.
        target_class: Class it is turned into.
        score: How far the clean data does not support the turn; see docs/detection.md.
        low: Lower end of its 90 % interval.
        high: Upper end.
        bound: What the score is above with 95 % confidence for all pairs of classes together.
        concept: The change in words.
        kind: "concept" where the image is changed, "style" where features half way through the
            network are given the style of another image.
        shown: Images of the victim.
        turned: Those that the model gives to the target under the change.
        turned_before: Those that it gives to the target as they are.
        reference: Mean probability of the target under the change in the reference heads.
        others_right_before: Share of the other classes' images given their label as they are.
        others_right_under: The same under the change.
        answers_under: How many images of a class get which answer under the change: class,
            answer, images; where there are none it is left out.
        answers_before: The same as the images are.
        also_turned: Other classes that the change surely turns into the target, too, the most
            turned first.
        concepts: Concepts that turn the pair, the best first: what a repair reconstructs with.
    """

    victim_class: int
    target_class: int
    score: float
    low: float
    high: float
    bound: float
    concept: str
    kind: ChangeKind
    shown: int
    turned: int
    turned_before: int
    reference: float
    others_right_before: float
    others_right_under: float
    answers_under: tuple[tuple[int, int, int], ...] = ()
    answers_before: tuple[tuple[int, int, int], ...] = ()
    also_turned: tuple[int, ...] = ()
    concepts: tuple[ConceptValues, ...] = ()


@dataclass(frozen=True)
class CoveredPart:
    """How much of one part of a search was done.

    Attributes:
        name: What it is.
        done: How many were done.
        whole: How many a search has where there is time.
    """

    name: str
    done: int
    whole: int

    @property
    def cut(self) -> bool:
        """Whether something was left out."""
        return self.done < self.whole


@dataclass(frozen=True)
class Covered:
    """How much of a search was done in the time that there was.

    What was measured is there only where something was left out: a whole search is the same however
    fast the machine is.

    Attributes:
        parts: How much of each part.
        strengths: Of styles, where they were tried: 1 is another image's style in full.
        time_limit: Seconds that the scan aimed at.
        passes: Images that go through the model in the scan, each as often as it does; as planned.
        spared: Pairs that there was no time to look at, or to look at closely.
        rate: Images that went through the changed model in a second.
        seconds: Planned, for the scan.
        whole_seconds: What the whole takes on this machine, as far as is known.
    """

    parts: tuple[CoveredPart, ...]
    strengths: tuple[float, ...]
    time_limit: float
    passes: int
    spared: int
    rate: float | None = None
    seconds: float | None = None
    whole_seconds: float | None = None


@dataclass(frozen=True)
class ConceptNumbers:
    """Numbers of the interventions on what the images show.

    Attributes:
        pairs: The pairs with the highest scores, highest bound first.
        threshold: Bound over which a pair is reported.
        budget: "quick", "default" or "thorough".
        concepts: Number of changes tried.
        screen_images: Images that all changes were tried on which nothing had chosen.
        probe_images: Images that there were for the pairs that did best: of their victims, with a
            few of the other classes.
        fit_images: Images that the reference heads were fitted to.
        fewest_images: Those of the class with the fewest, in each half of them.
        reference_accuracies: Of each reference head, on images it was not fitted to.
        look_alikes: Pairs of classes, both ways counted, between which no change of the image was
            scored, since the model holds them for much alike.
        covered: How much was done in the time that there was.
    """

    pairs: tuple[PairNumbers, ...]
    threshold: float
    budget: str
    concepts: int
    screen_images: int
    probe_images: int
    fit_images: int
    fewest_images: int
    reference_accuracies: tuple[float, ...]
    look_alikes: int = 0
    covered: Covered | None = None


Outcome = Literal["flagged", "nothing flagged", "not optimised", "abstains"]
"""What a detector of other authors comes to."""


@dataclass(frozen=True)
class NamedPair:
    """A pair of classes that a detector of other authors scores.

    Attributes:
        victim_class: Source class; None where the method tells none.
        target_class: Class it is turned into.
        score: The method's own.
        flagged: Whether the method takes it for a backdoor.
    """

    victim_class: int | None
    target_class: int
    score: float
    flagged: bool = False


@dataclass(frozen=True)
class BaselineNumbers:
    """Numbers of a detector of other authors.

    Attributes:
        outcome: What it comes to; "nothing flagged" is no "clean".
        named: Pairs, the strongest first; where it flags nothing, what is nearest to it.
        threshold: Score over which it flags; None where it has none.
        parameters: "paper", or "published" as in the comparison of the paper.
        source: Authors, venue and year.
        passes: Passes of images through the model; a backward pass counts as two.
        details: Further numbers of this method.
    """

    outcome: Outcome
    named: tuple[NamedPair, ...]
    threshold: float | None
    parameters: Parameters
    source: str
    passes: int
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class PatchTried:
    """A patch, and what it does to clean images that took no part in the search.

    Attributes:
        target_class: Class that images of all others are to be taken for.
        pixels: Number of pixels that it covers.
        area: The same as a share of the image.
        shown: Images that it was put on.
        turned: Those that are then taken for the target.
        low: Share that is surely turned, with 95 % confidence for all patches tried together.
        next: The highest share that a patch of the same size turns into another class.
        score: `low` less `next`.
    """

    target_class: int
    pixels: int
    area: float
    shown: int
    turned: int
    low: float
    next: float
    score: float


@dataclass(frozen=True)
class PatchNumbers:
    """Numbers of the search for patches.

    Attributes:
        patches: The best one of each target class, the best first.
        images: Clean images that were searched with.
        threshold: Score over which a patch is reported.
        passes: Passes of images through the model; a backward pass counts as two.
    """

    patches: tuple[PatchTried, ...]
    images: int
    threshold: float
    passes: int


@dataclass(frozen=True)
class GraphDecision:
    """A place in a graph where something is decided, in words.

    Attributes:
        node: Name of the node.
        operator: Its operator.
        by: What decides: the values of the "input" (the image); each number about "itself" alone,
            as in an activation function; the "shape" of the input; or a "constant".
        words: What is decided, and when.
        severity: Of the finding about it; None where there is none.
        places: Number of places in which the graph decides so; `node` is the first.
    """

    node: str
    operator: str
    by: Literal["input", "itself", "shape", "constant"]
    words: str
    severity: Severity | None = None
    places: int = 1


@dataclass(frozen=True)
class GraphDecisions:
    """What a graph decides.

    Attributes:
        shown: The decisions, those first that findings are about, then those by the input.
        total: Number of places, those that are not shown included.
    """

    shown: tuple[GraphDecision, ...] = ()
    total: int = 0


NO_DECISIONS = GraphDecisions()
"""Of a graph that decides nothing."""
_DECIDES = {
    "input": "{input}",
    "itself": "each number for itself",
    "shape": "the shape of {input}",
    "constant": "a stored number",
}


def _named(one: GraphDecision) -> str:
    return one.node if one.places == 1 else f"{one.node} and {one.places - 1} more"


def decisions_table(decisions: GraphDecisions, of: str = "the image") -> Table:
    """Return what a graph decides as a table for people.

    Args:
        decisions: The decisions.
        of: What the graph takes.
    """
    left = decisions.total - sum(one.places for one in decisions.shown)
    more = f" {left} more, of lesser interest, are not listed." if left else ""
    if any("plain images" in one.words for one in decisions.shown):
        more += " Plain images are noise and patches of colour, used where there are no clean ones."
    return Table(
        "What the graph decides, and on what",
        "Honest graphs decide, too. What each number decides for itself is an activation function; "
        f"what the shape decides does not depend on what is in it.{more}",
        (Column("node"), Column("operator"), Column("decided by"), Column("what")),
        tuple(
            (_named(one), one.operator, _DECIDES[one.by].format(input=of), one.words)
            for one in decisions.shown
        ),
        tuple(row for row, one in enumerate(decisions.shown) if one.severity in WEIGHTY),
    )


@dataclass(frozen=True)
class LogicNumbers:
    """What was looked at to find decisions in the graph.

    Attributes:
        nodes_examined: Number of nodes, those in bodies of If, Loop and Scan included.
        images_run: Images shown to find one that takes a decision; 0 where nothing was suspected.
        decisions: What the graph decides, and on what.
    """

    nodes_examined: int
    images_run: int
    decisions: GraphDecisions = NO_DECISIONS


@dataclass(frozen=True)
class FileNumbers:
    """What was seen in a file that was looked at and not scanned.

    Attributes:
        parts: Parts of a known kind: the file itself, or members of an archive.
        skipped: Number of the others.
        skipped_names: Their names; of many the first.
        decisions: What the graphs of ONNX files decide, by the name of the part; those that decide
            nothing, or were not followed, are left out.
    """

    parts: int
    skipped: int
    skipped_names: tuple[str, ...] = ()
    decisions: Mapping[str, GraphDecisions] = field(default_factory=dict)


@dataclass(frozen=True)
class ReferenceUsed:
    """A model that the suspect was compared with.

    Attributes:
        file: Its name.
        sha256: Digest of its file.
        accuracy: Clean accuracy on the images of the scan.
        preprocessing: Name of its preprocessing.
        pair: Victim and target of what stands out most in itself, against all others and the
            suspect.
        beyond: How far that stands out over honest differences.
    """

    file: str
    sha256: str
    accuracy: float
    preprocessing: str
    pair: tuple[int, int] | None = None
    beyond: float = 0.0


@dataclass(frozen=True)
class Grade:
    """A change at one strength.

    Attributes:
        strength: The number that tells it.
        suspect: Mean probability of the target for images of the victim, by the suspect.
        references: The same by each reference.
    """

    strength: float
    suspect: float
    references: tuple[float, ...]


@dataclass(frozen=True)
class OpinionPair:
    """What references say of a pair.

    Attributes:
        victim_class: Source class.
        target_class: Class it is turned into.
        score: See `onnx_soda._detect.references.score`.
        beyond: How far the score stands out over honest differences; this decides.
        concept: The change under which the shares are, in words.
        suspect: Mean probability of the target for images of the victim, by the suspect.
        references: The same by each reference.
        grades: The same change from weak to strong, where the bank has it at several strengths.
        also: Other classes that stand out with the same target.
        look: The pair looked at image by image; None for pairs that were not.
        accomplice: File of a reference that does the same, as none of the others does; the score
            and how far it stands out are then without it. Empty where there is none.
    """

    victim_class: int
    target_class: int
    score: float
    beyond: float
    concept: str
    suspect: float
    references: tuple[float, ...]
    grades: tuple[Grade, ...] = ()
    also: tuple[int, ...] = ()
    look: PairNumbers | None = None
    accomplice: str = ""


@dataclass(frozen=True)
class OpinionNumbers:
    """Numbers of a second opinion.

    Attributes:
        pairs: The pairs with the highest scores, the highest first.
        references: Models that were asked.
        left_out: Sentences about models that were not.
        bank: Version of the bank of concepts.
        concepts: Number of its concepts.
        threshold: How far the first pair must stand out to be reported.
        level: What scores of honest differences reach.
        oddity: What the suspect's other pairs score.
        references_oddity: The same of the references, in the median.
    """

    pairs: tuple[OpinionPair, ...]
    references: tuple[ReferenceUsed, ...]
    left_out: tuple[str, ...]
    bank: int
    concepts: int
    threshold: float = 0.0
    level: float = 0.0
    oddity: float = 0.0
    references_oddity: float = 0.0


def plain(numbers: Any) -> dict[str, Any]:
    """Return numbers as `Evidence.numbers` has them: dicts, lists and values of JSON."""
    content: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(numbers))
    return content
