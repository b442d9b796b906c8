"""Rules about decisions written into the graph: SODA2xx."""

from __future__ import annotations

from onnx_soda.rules.rule import Rule

__all__ = ["RULES", "RULE_BRANCH", "RULE_BYPASS", "RULE_CONSTANT", "RULE_EXACT", "RULE_SELECTOR"]

RULE_BRANCH = "SODA201"
RULE_SELECTOR = "SODA202"
RULE_BYPASS = "SODA203"
RULE_CONSTANT = "SODA204"
RULE_EXACT = "SODA205"

_ADVICE = (
    "Do not use the model. Open the nodes named in a graph viewer and ask whoever made the file "
    "what they are for; the weights alone, in a graph that you build yourself, may be harmless."
)

RULES = (
    Rule(
        id=RULE_BRANCH,
        name="data-dependent-branch",
        severity="high",
        title="The image decides which branch of the graph runs",
        meaning=(
            "The condition of an If or Loop is computed from the values of the image, and what "
            "runs then reaches the scores."
        ),
        certainty=(
            "Classifiers as exporters write them branch on shapes at most. Networks that stop "
            "early once they are sure branch too: their branches hold layers, and the condition is "
            "computed from scores. Confirmed findings show an image whose class the branch changes."
        ),
        advice=_ADVICE,
    ),
    Rule(
        id=RULE_SELECTOR,
        name="data-dependent-selector",
        severity="high",
        title="A yes-or-no computed from the image selects or switches what becomes the scores",
        meaning=(
            "A tensor with few values (from a comparison, an index of the largest, a rounding, or "
            "a function as steep as one) selects, multiplies, indexes or is added to what the "
            "network computed by other means."
        ),
        certainty=(
            "Activation functions, attention masks, trained gates and quantization are told apart "
            "by what depends on what. Networks that choose among experts or drop tokens really "
            "decide: they are reported as medium, unless forcing the decision sends all images to "
            "one class."
        ),
        advice=_ADVICE,
    ),
    Rule(
        id=RULE_BYPASS,
        name="path-round-the-trunk",
        severity="high",
        title="A gated path from the image goes round the layers and joins near the scores",
        meaning=(
            "Pixels reach the scores without the weighted layers, through a gate: a rectifier "
            "behind a large factor, or the larger of two paths."
        ),
        certainty=(
            "No classifier that was looked at has such a path (docs/graph-logic.md). A hand-made "
            "check of the input, say for images that are too dark, could look like it."
        ),
        advice=_ADVICE,
    ),
    Rule(
        id=RULE_CONSTANT,
        name="selectable-constant-scores",
        severity="high",
        title="The image can replace the scores by constants",
        meaning=(
            "Where the decision named is taken, the scores, or a part of them, come from constants "
            "in the file and no longer from the layers."
        ),
        certainty=(
            "A deliberate answer for unusable input would look the same: such an answer is "
            "documented, and is no class of the task."
        ),
        advice=_ADVICE,
    ),
    Rule(
        id=RULE_EXACT,
        name="exact-input-pattern",
        severity="high",
        title="An exact pattern or checksum of pixels decides",
        meaning=(
            "The image is compared for equality with stored values, or a remainder or bits of its "
            "pixels are computed, and the result steers the scores."
        ),
        certainty=(
            "A trained network has no use for exact pixels. Guards against division by zero "
            "compare with zero and are not reported where each number only decides about itself."
        ),
        advice=_ADVICE,
    ),
)
