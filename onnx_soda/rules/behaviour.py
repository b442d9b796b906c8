"""Rules about what the model does: SODA1xx."""

from __future__ import annotations

from onnx_soda.rules.rule import Rule

__all__ = ["RULES", "RULE_CONCEPT", "RULE_TARGET"]

RULE_TARGET = "SODA101"
RULE_CONCEPT = "SODA102"

RULES = (
    Rule(
        id=RULE_TARGET,
        name="abnormal-target-class",
        severity="high",
        title="A class is reached through neurons that serve no other class",
        meaning=(
            "The paper's statistic (SODA, Algorithms 2 and 3): of all classes this one's causal "
            "attribution agrees least with the others'. Reported only with --method soda."
        ),
        certainty=(
            "Weak by itself: it flags most clean models and misses most backdoors; "
            "docs/paper-statistic.md has the measured rates."
        ),
        advice="Scan with the default method, and judge by its evidence.",
    ),
    Rule(
        id=RULE_CONCEPT,
        name="semantic-backdoor",
        severity="high",
        title="A change of what the image shows turns one class into another",
        meaning=(
            "Clean images of the victim class are taken for the target class once the image is "
            "changed in a way that people can see and that the report describes. A reference "
            "fitted to the clean images does not follow, and the other classes keep their answer."
        ),
        certainty=(
            "The score is surely over a threshold calibrated on models known to be clean or "
            "backdoored; docs/detection.md has the measured rates of both kinds of error. Look at "
            "the images: a change that makes a person doubt too is no backdoor."
        ),
        advice=(
            "Do not use the model for decisions that matter. Ask where the training images came "
            "from; train again without the suspicious ones, or try `onnx-soda repair`."
        ),
    ),
)
