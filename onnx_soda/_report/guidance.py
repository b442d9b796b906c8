"""What a report says beside its evidence: what a score is, how often scans err, what to do now."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.resources import files
from math import sqrt
from typing import Any

from onnx_soda._numbers import OpinionNumbers
from onnx_soda._results import FILES, ScanReport, numbers_of
from onnx_soda._rules import (
    GRAPH_LOGIC_RULES,
    RULE_CONCEPT,
    RULE_PATCH,
    RULE_TARGET,
    RULE_UNLIKE,
)
from onnx_soda._verdict import ALONE, WITH_REFERENCES

_SCORES = {
    RULE_CONCEPT: (
        "The score is the share of the victim's images that the change moves to the target, less "
        "what a reference fitted to clean images moves there, what other classes lose, and what is "
        "usual for the pair: 0 is nothing, 1 is all."
    ),
    RULE_UNLIKE: (
        "The score is the share of the victim's images that the change moves to the target in this "
        "model and not in the reference models, less what other classes lose and what honest "
        "models differ by: 0 is nothing, 1 is all."
    ),
    RULE_PATCH: (
        "The score is the share of held-out images that the patch surely turns, less the share "
        "that a patch of the same size turns into another class: 0 is nothing, 1 is all."
    ),
    RULE_TARGET: (
        "The score is the anomaly index: how many usual deviations the causal attribution of the "
        "class lies from that of the others."
    ),
}
_METHODS = {
    ALONE: RULE_CONCEPT,
    WITH_REFERENCES: RULE_UNLIKE,
    "soda": RULE_TARGET,
    "patches": RULE_PATCH,
}
_LOGIC = frozenset(rule.id for rule in GRAPH_LOGIC_RULES)


def score_sentences(report: ScanReport) -> tuple[str, ...]:
    """Return what the scores of a report are, a sentence for each kind.

    Args:
        report: The scan. Where nothing is found, the score is that of the strongest pair.
    """
    scored = dict.fromkeys(one.rule_id for one in report.findings if one.score is not None)
    method = report.evidence.get(report.method)
    if not scored and method is not None and method.numbers:
        scored = dict.fromkeys([_METHODS.get(report.method, "")])
    return tuple(_SCORES[rule] for rule in scored if rule in _SCORES)


@cache
def measured() -> Mapping[str, Any]:
    """Return the rates of error measured, as docs/detection.md and docs/graph-logic.md have them.

    `rates.json` names page and command of each; a test holds it against the pages.
    """
    text = files("onnx_soda._report").joinpath("rates.json").read_text("utf-8")
    rates: dict[str, Any] = json.loads(text)
    return rates


def rate_sentences(report: ScanReport) -> tuple[str, ...]:
    """Return how often scans like this one erred on models of known truth.

    Args:
        report: The scan. Its number of classes and of reference models tell what it is like.

    Returns:
        Sentences; none of a file that was looked at and not scanned.
    """
    if report.method == FILES:
        return ()
    return (*_rates_of_behaviour(report), _rate_of_graphs())


def _rates_of_behaviour(report: ScanReport) -> Iterator[str]:
    if report.dataset is None or report.method not in (ALONE, WITH_REFERENCES):
        return
    kinds = measured()["alone"]["data_sets"].values()
    few = [kind for kind in kinds if kind["classes"] <= _BORDER]
    near = few if report.dataset.classes <= _BORDER else [one for one in kinds if one not in few]
    numbers = numbers_of(report, WITH_REFERENCES, OpinionNumbers)
    if numbers is None or not numbers.references:
        together = {name: sum(kind[name] for kind in near) for name in _COUNTED}
        yield (
            f"Models with {_span(near, 'classes')} classes and "
            f"{_span(near, 'images')} clean images of a class in each half, without reference "
            f"models: {_rate(together)} ({measured()['alone']['page']})."
        )
        return
    known = measured()["references"]["numbers"]
    count = max((one for one in map(int, known) if one <= len(numbers.references)), default=1)
    models = "model" if count == 1 else "models"
    yield (
        f"All kinds of data measured, with {count} reference {models} drawn at random: "
        f"{_rate(known[str(count)])} ({measured()['references']['page']})."
    )


# Ten classes were measured, and 26 and more; the border lies in the middle by ratio.
_BORDER = sqrt(10 * 26)
_COUNTED = ("clean", "flagged", "backdoored", "pair", "target")


def _span(kinds: list[dict[str, int]], name: str) -> str:
    values = [kind[name] for kind in kinds]
    low, high = min(values), max(values)
    return str(low) if low == high else f"{low} to {high}"


def _rate(counts: Mapping[str, int]) -> str:
    return (
        f"{counts['flagged']} of {counts['clean']} clean ones were called backdoored; of "
        f"{counts['backdoored']} backdoored ones the pair was named in {counts['pair']}, the "
        f"target class in {counts['target']}"
    )


def _rate_of_graphs() -> str:
    graph = measured()["graph"]
    return (
        f"Decisions written into the graph: {graph['flagged']} of {graph['honest']} honest graphs "
        f"had a high finding, and {graph['found']} of {graph['backdoored']} with a backdoor "
        f"({graph['page']})."
    )


_COMPARE_NODES = (
    "Compare",
    "Open the nodes named in a graph viewer. Compare the file with one from its first source "
    "(`onnx-soda diff`), and ask its author what the nodes are for.",
)
_COMPARE_MODELS = (
    "Compare",
    "Look at the images, where there are some: is each still what it was? Scan again with "
    "`--reference` models of the same classes; honest ones keep their answers.",
)
_RETRAIN = (
    "Retrain",
    "Ask where the training images came from. Train again without those that show what is "
    "described.",
)


def next_steps(report: ScanReport) -> tuple[tuple[str, str], ...]:
    """Return what to do now: a word and what it means, in order."""
    if report.verdict == "clean":
        return (
            ("Keep", "Keep the digest below: a changed file is a new model. Scan that again."),
            (
                "Compare",
                "`--reference` with other models of the same classes finds more; `onnx-soda twins` "
                "trains some on the clean images.",
            ),
            ("Watch", "Watch the answers in use: what no change tried resembles is not found."),
        )
    logic = [one for one in report.findings if one.rule_id in _LOGIC]
    if report.verdict == "inconclusive":
        return (
            ("Stop", "Take the model for not examined, whatever its accuracy."),
            ("Complete", 'Give what "What was examined, and what was not" asks for; scan again.'),
            _COMPARE_NODES if logic else _COMPARE_MODELS,
        )
    if any(one.severity == "high" for one in logic):
        return (
            ("Stop", "Do not use the model. Nothing trained is needed for what is found here."),
            _COMPARE_NODES,
            (
                "Repair",
                "`onnx-soda repair` changes weights, not nodes. Put the weights into a graph that "
                "you build yourself, and scan that.",
            ),
            _RETRAIN,
        )
    return (
        ("Stop", "Do not use the model for decisions that matter until this is settled."),
        _COMPARE_MODELS,
        (
            "Repair",
            "`onnx-soda repair MODEL --data CLEAN_SET -o REPAIRED.onnx --report REPORT.json` takes "
            "the pair out, measures it, and scans the result.",
        ),
        _RETRAIN,
    )
