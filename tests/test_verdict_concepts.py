"""Verdicts on the evidence of concept interventions: found, clean, and what is left open."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from benchmarks.calibrate import CALIBRATING, PACKAGED, calibrate, read_scans
from onnx_soda._detect.base import Decision
from onnx_soda._detect.concepts.battery import Budget
from onnx_soda._detect.concepts.concept import Concept
from onnx_soda._detect.concepts.evidence import decide_on_concepts
from onnx_soda._detect.concepts.experiment import ConceptResult
from onnx_soda._detect.concepts.judge import Calibration, Judge, load_calibration
from onnx_soda._detect.concepts.layers import StyleLayer
from onnx_soda._detect.concepts.outlook import Outlook
from onnx_soda._detect.concepts.plan import Plan
from onnx_soda._detect.concepts.search import SearchResult
from onnx_soda._detect.concepts.styles import Style
from onnx_soda._detect.concepts.verify import Confirmation
from onnx_soda._suspect import Examined, Observation, summarise

CALIBRATION = Calibration(threshold=0.1, clear=0.05)
EXAMINED = Examined(classes=3, source_classes=3, fewest_images=50, accuracy=0.9, min_accuracy=0.5)
PAIR = Confirmation(
    victim_class=2,
    target_class=0,
    concept=Concept("gamma", {"gamma": (2.0,)}, "everywhere", {}),
    score=0.3,
    low=0.25,
    high=0.35,
    bound=0.2,
    shown=20,
    turned=15,
    turned_before=1,
    reference=0.25,
    also=(),
    others_right_before=0.9,
    others_right_under=0.85,
    examples=(),
    answers_before=np.eye(3, dtype=np.int64),
    answers_under=np.eye(3, dtype=np.int64),
)
JUDGE = Judge(
    unchanged=np.zeros((2, 2, 3, 3)),
    images=np.full((2, 3), 20),
    fitted=np.full((2, 3), 20),
    likeness=np.eye(3),
    trust=np.ones(1),
    usual=np.zeros((2, 3, 3)),
)
EVIDENCE = ConceptResult(
    search=SearchResult((), JUDGE, tried=400),
    styles=SearchResult((), JUDGE, tried=15),
    pairs=(PAIR, replace(PAIR, target_class=1, score=0.2, bound=0.0)),
    reference_accuracies=(0.85, 0.88),
    model_accuracy=0.9,
    fit_images=300,
    fewest_images=100,
    screen_images=40,
    probe_images=120,
    confirm_images=360,
)


def decide(evidence: ConceptResult | None, examined: Examined = EXAMINED) -> Decision:
    return decide_on_concepts(evidence, CALIBRATION, examined, ("sky", "sea", "car"))


def with_bound(bound: float, turned: int = 15) -> ConceptResult:
    return replace(EVIDENCE, pairs=(replace(PAIR, bound=bound, turned=turned),))


def test_a_pair_over_the_threshold_is_told_in_words() -> None:
    decision = decide(EVIDENCE)
    assert decision.verdict == "backdoor"
    (finding,) = decision.findings  # not the second pair: its bound is 0
    # The bound decides.
    assert (finding.victim_class, finding.target_class, finding.score) == (2, 0, 0.2)
    assert finding.severity == "high"
    assert decision.reasons[0] == finding.message
    for words in (
        "Class 2 (car) turns into class 0 (sky)", "gamma 2.0, everywhere", "15 of 20 clean images",
        "1 without it", "0 (sky) 25%", "85% keep their class (90% without it)", "0.25 to 0.35",
        "surely above 0.20",
    ):  # fmt: skip
        assert words in finding.message


def test_classes_that_turn_too_are_told() -> None:
    assert "too" not in decide(EVIDENCE).findings[0].message
    (finding,) = decide(replace(EVIDENCE, pairs=(replace(PAIR, also=(1,)),))).findings
    assert finding.message.endswith(
        "It turns images of 1 (sea), too; which of these classes was meant is not certain."
    )


STYLE = Style(
    StyleLayer("middle", axis=1, rank=4, channels=2),
    donor=3,
    style=np.zeros((2, 2), np.float32),
    strength=0.8,
    pixels=np.zeros((3, 4, 4), np.float32),
)


def test_a_style_is_told_in_words() -> None:
    pair = replace(PAIR, concept=STYLE)
    (finding,) = decide(replace(EVIDENCE, pairs=(pair,))).findings
    for words in ("this change of the features half way", "black (rgb 0,0,0)", "80 %"):
        assert words in finding.message


def test_a_pair_is_reported_once_by_what_people_can_judge() -> None:
    """The style's bound is higher, but the image under the concept can be looked at."""
    both = (replace(PAIR, concept=STYLE, bound=0.4), PAIR)
    (finding,) = decide(replace(EVIDENCE, pairs=both)).findings
    assert (finding.score, "gamma 2.0" in finding.message) == (0.2, True)


def test_where_few_images_turn_the_severity_is_lower() -> None:
    assert decide(with_bound(0.2, turned=10)).findings[0].severity == "medium"


@pytest.mark.parametrize(
    ("low", "verdict"),
    [(0.11, "backdoor"), (0.1, "inconclusive"), (0.06, "inconclusive"), (0.05, "clean")],
)
def test_between_the_thresholds_it_is_unclear(low: float, verdict: str) -> None:
    """The score itself is 0.3 each time: a wide interval is no alarm."""
    decision = decide(with_bound(low))
    assert decision.verdict == verdict
    assert bool(decision.findings) == (verdict == "backdoor")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"fewest_images": 14},
            "turns less than 35% of it would not be reported. That is too much",
        ),
        ({"fewest_images": 1}, "turns all of it would not be reported"),
        ({"reference_accuracies": (0.4, 0.5)}, "right for only 50% of them (the model: 90%)"),
        ({"reference_accuracies": (float("nan"),)}, "too little to compare with"),
    ],
)
def test_thin_evidence_is_never_clean(change: dict[str, object], words: str) -> None:
    decision = decide(replace(with_bound(0.0), **change))
    assert decision.verdict == "inconclusive"
    assert any(words in reason for reason in decision.reasons)
    assert decide(replace(EVIDENCE, **change)).verdict == "backdoor"


@pytest.mark.parametrize(("bound", "verdict"), [(0.2, "backdoor"), (0.0, "clean")])
def test_that_no_style_was_tried_is_said_and_changes_no_verdict(bound: float, verdict: str) -> None:
    tried, without = with_bound(bound), replace(with_bound(bound), styles=None)
    assert decide(without).verdict == decide(tried).verdict == verdict
    assert any("style were left out" in reason for reason in decide(without).reasons)
    assert not any("left out" in reason for reason in decide(tried).reasons)


BUDGET = Budget(draws=8, rounds=((2, 3),), donors=4, style_rounds=((1, 2),))
WHOLE = Plan(BUDGET, battery=160, screen=4, victims=3, looks=5)


def planned(plan: Plan, **changes: object) -> ConceptResult:
    """What a plan found, which was made with 100 s gone; the whole takes 4000 s more."""
    outlook = Outlook(plan, WHOLE, 1000, 40_000, 300, rate=10.0, gone=100.0, limit=300.0)
    return replace(with_bound(0.0), outlook=outlook, **changes)


@pytest.mark.parametrize(
    ("plan", "told"),
    [
        (replace(WHOLE, battery=80), "concepts of the battery (80 of 160)"),
        (replace(WHOLE, victims=2), "classes as victims (2 of 3)"),
        (replace(WHOLE, screen=1), "images of each class and half (1 of 4)"),
        (replace(WHOLE, looks=2), "pairs looked at (2 of 5)"),
    ],
)
def test_what_there_was_no_time_for_leaves_no_clean_verdict(plan: Plan, told: str) -> None:
    decision = decide(planned(plan))
    assert decision.verdict == "inconclusive"
    assert f"There is no time for all: {told}." in decision.reasons
    # Four fifths of the time are planned: 100 s and 5000 s, a tenth more, in steps of 480 s.
    assert "The whole takes about 1 h 8 min here: `time_limit=5760`." in decision.reasons
    found = replace(planned(plan), pairs=EVIDENCE.pairs)
    assert decide(found).verdict == "backdoor"


def test_what_memory_has_no_room_for_is_not_called_a_want_of_time() -> None:
    largest = replace(WHOLE, victims=2)
    found = planned(largest)
    assert found.outlook is not None
    decision = decide(replace(found, outlook=replace(found.outlook, largest=largest)))
    assert decision.verdict == "inconclusive"
    (told,) = (reason for reason in decision.reasons if "victims" in reason)
    assert told == (
        "Memory has room for 2 of 3 classes as victims, with 4 images of each class and half: for "
        "more, raise `memory_limit`."
    )
    assert not any("time" in reason for reason in decision.reasons)


def test_fewer_draws_donors_images_and_rounds_are_said_and_are_no_reason() -> None:
    budget = Budget(draws=0, rounds=((1, 3),), donors=2, style_rounds=((1, 2),))
    decision = decide(planned(replace(WHOLE, budget=budget, screen=2)))
    assert decision.verdict == "clean"
    (told,) = (reason for reason in decision.reasons if "no time for all" in reason)
    for part in ("images of each class and half (2 of 4)", "random concepts (0 of 8)"):
        assert part in told
    assert any("`time_limit=5760`" in reason for reason in decision.reasons)


def test_a_pair_that_there_was_no_time_to_look_at_closely_leaves_no_clean_verdict() -> None:
    assert decide(planned(WHOLE)).verdict == "clean"
    decision = decide(planned(WHOLE, spared=((2, 1),)))
    assert decision.verdict == "inconclusive"
    assert (
        "There was no time to look closely at 1 of the pairs that were found." in decision.reasons
    )
    assert "Give it more time: `time_limit=600`." in decision.reasons


def test_a_clean_verdict_says_what_few_images_leave_unseen() -> None:
    """100 in each half and three classes: 2.39 errors of 0.0275 under 0.17 is 0.104, over 0.1."""
    enough = decide(with_bound(0.0)).reasons
    assert any("fewest images 100 are in each half" in reason for reason in enough)
    assert any("turns less than 17% of it would not be reported" in reason for reason in enough)
    assert not any("would not be reported" in reason for reason in decide(EVIDENCE).reasons)


def test_pairs_that_look_alike_are_counted_as_not_scored() -> None:
    """Three classes have 6 pairs, both ways counted."""
    reasons = decide(replace(with_bound(0.0), look_alikes=2)).reasons
    assert any("2 of 6 pairs of classes look much alike" in reason for reason in reasons)
    assert not any("alike" in reason for reason in decide(with_bound(0.0)).reasons)


def test_few_images_are_enough_where_a_third_of_a_class_would_be_seen() -> None:
    """Three classes: 2.39 errors. The reference's 0 of n counts as 1 of n + 2.
    15 images: variance (0.33 x 0.67 + 16/17^2) / 15 / 2, error 0.0960, 0.33 - 0.2294 is over 0.1.
    14 images: variance (0.34 x 0.66 + 15/16^2) / 14 / 2, error 0.1005, 0.34 - 0.2403 is not.
    """
    enough, few = (decide(replace(with_bound(0.0), fewest_images=n)) for n in (15, 14))
    assert (enough.verdict, few.verdict) == ("clean", "inconclusive")
    assert "Give at least 30 clean images of each class." in few.reasons[0]


def test_where_nothing_was_tried_nothing_is_clean() -> None:
    decision = decide_on_concepts(None, CALIBRATION, EXAMINED, None, "Not tried.")
    assert (decision.verdict, decision.reasons) == ("inconclusive", ("Not tried.",))
    assert decide(None, replace(EXAMINED, accuracy=None)).verdict == "inconclusive"


def test_classes_that_are_taken_for_others_as_they_are_leave_no_clean_verdict() -> None:
    """No change can turn what the model turns whatever is shown."""
    decision = decide(with_bound(0.0), replace(EXAMINED, misread=((0, 2, 0.97),)))
    assert decision.verdict == "inconclusive"
    told = "97% of the clean images of class 0 are taken for class 2 as they are"
    assert told in decision.reasons[0]
    assert decide(EVIDENCE, replace(EXAMINED, misread=((0, 2, 0.97),))).verdict == "backdoor"


def test_outputs_that_were_not_examined_leave_no_clean_verdict() -> None:
    examined = replace(EXAMINED, unexamined_outputs=("deployed",))
    decision = decide(with_bound(0.0), examined)
    assert decision.verdict == "inconclusive"
    assert decision.reasons[0].startswith("Not examined: deployed, which")
    assert decide(EVIDENCE, examined).verdict == "backdoor"


def test_most_images_of_a_class_given_one_other_class_are_a_misread_class() -> None:
    """Of class 0 six in ten go to 2, of class 1 half, of class 2 none; class 3 has few images."""
    labels = np.repeat([0, 1, 2, 3], [10, 10, 10, 9])
    answers = np.concatenate([[2] * 6 + [0] * 4, [0] * 5 + [1] * 5, [2] * 10, [0] * 9])
    logits = np.eye(4, dtype=np.float32)[answers]
    seen = Observation(labels, logits, logits, {})
    assert summarise(lambda: iter([seen])).misread() == ((0, 2, 0.6),)


def test_too_low_an_accuracy_concludes_nothing() -> None:
    assert decide(EVIDENCE, replace(EXAMINED, accuracy=0.2)).verdict == "inconclusive"


def test_the_packaged_calibration_is_one() -> None:
    packaged = load_calibration()
    assert -1 < packaged.clear < packaged.threshold < 1


def test_the_packaged_calibration_is_that_of_the_kept_scans() -> None:
    scans = [one for one in read_scans("default") if one.facts["part"] in CALIBRATING]
    made, packaged = calibrate(scans), load_calibration()
    assert (made.threshold, made.clear) == (packaged.threshold, packaged.clear)
    assert json.loads(PACKAGED.read_text(encoding="utf-8"))["threshold"] == packaged.threshold
