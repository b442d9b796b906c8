"""Calibrates the threshold of the concept score and prints how scans do on models of known truth.

    python -m benchmarks.calibrate [--budget NAME] [--judging] [--write]

Reads what `python -m benchmarks.evaluate` kept. The threshold is made from the bundled, shared and
development models alone: half way between the largest bound of a score in a clean
model (at least 0) and the smallest one over it with which the true pair of a backdoored one comes
first. Beside it, every model is judged by the threshold made from the models of the *other* data
sets (leave one data set out). `--write` puts it into `calibration.json` of the detector.

The judging half is left out of all tables unless `--judging` is given: who works on the method does
not look at it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from benchmarks.common import EVALUATION, machine_facts, markdown_table

PACKAGED = Path(str(files("onnx_soda._detect.concepts") / "calibration.json"))
CALIBRATING = ("bundled", "shared", "development")
_MODEL_COLUMNS = (
    "model", "part", "true pair", "SR", "accuracy", "first pair", "score", "bound",
    "turned", "concept", "left-out threshold", "verdict", "seconds",
)  # fmt: skip
_GROUP_COLUMNS = (
    "models", "clean flagged", "clean unclear", "pair named", "named or told to turn, too",
    "target named", "wrong pair named", "backdoored unclear", "true pair scores highest", "AUC",
)  # fmt: skip
_VERDICTS = ("backdoor", "inconclusive", "clean")


@dataclass(frozen=True)
class Scanned:
    """A model of known truth and what its scan said."""

    facts: dict[str, Any]

    @property
    def clean(self) -> bool:
        """Tell whether the model was not poisoned."""
        return self.facts["victim"] is None

    @property
    def first(self) -> dict[str, Any]:
        """Return the pair whose score is most certain: its bound is the highest."""
        best: dict[str, Any] = max(self.facts["pairs"], key=lambda pair: pair["bound"])
        return best

    @property
    def score(self) -> float:
        """Return what decides: that pair's bound."""
        return float(self.first["bound"])

    @property
    def names_pair(self) -> bool:
        """Tell whether the first pair is the true one."""
        truth = (self.facts["victim"], self.facts["target"])
        return (self.first["victim"], self.first["target"]) == truth

    @property
    def tells_pair(self) -> bool:
        """Tell whether it is the true pair, or the true victim is told to turn with it."""
        too = self.names_target and self.facts["victim"] in self.first.get("also", ())
        return self.names_pair or too

    @property
    def scores_highest(self) -> bool:
        """Tell whether the true pair has the highest score, whatever its bound."""
        best = max(self.facts["pairs"], key=lambda pair: pair["score"])
        return (best["victim"], best["target"]) == (self.facts["victim"], self.facts["target"])

    @property
    def names_target(self) -> bool:
        """Tell whether the first pair's target is the true one."""
        return bool(self.first["target"] == self.facts["target"])


@dataclass(frozen=True)
class Thresholds:
    """Values from which a model is flagged, and up to which it is called clean."""

    threshold: float
    clear: float

    def verdict(self, model: Scanned) -> str:
        """Return the verdict on a model."""
        if model.score > self.threshold:
            return "backdoor"
        return "unclear" if model.score > self.clear else "clean"


def read_scans(budget: str) -> list[Scanned]:
    """Read what was kept; poisoned models whose backdoor did not take are left out."""
    files = sorted((EVALUATION / budget).glob("*.json"))
    found = [Scanned(json.loads(file.read_text(encoding="utf-8"))) for file in files]
    return [model for model in found if model.clean or model.facts["effective"]]


def calibrate(models: Iterable[Scanned]) -> Thresholds:
    """Make thresholds from models of known truth."""
    models = list(models)
    # A bound that reaches down to 0 is no sign of anything.
    clear = max([0.0, *(model.score for model in models if model.clean)])
    hits = [m.score for m in models if not m.clean and m.names_pair and m.score > clear]
    threshold = (clear + min(hits, default=clear + 0.1)) / 2
    return Thresholds(round(threshold, 4), round(clear, 4))


def _of(count: int, total: int) -> str:
    return f"{count} of {total}" if total else "-"


def _auc(models: Sequence[Scanned]) -> str:
    """Return the area under the ROC curve of the first pair's score, clean against backdoored."""
    clean = [model.score for model in models if model.clean]
    bad = [model.score for model in models if not model.clean]
    if not clean or not bad:
        return "-"
    wins = sum((b > c) + 0.5 * (b == c) for b in bad for c in clean)
    return f"{wins / (len(clean) * len(bad)):.2f}"


def _totals(judged: Sequence[tuple[Scanned, str]]) -> list[object]:
    clean = [verdict for model, verdict in judged if model.clean]
    bad = [(model, verdict) for model, verdict in judged if not model.clean]
    flagged = [model for model, verdict in bad if verdict == "backdoor"]
    return [
        len(judged),
        _of(clean.count("backdoor"), len(clean)),
        _of(clean.count("unclear"), len(clean)),
        _of(sum(model.names_pair for model in flagged), len(bad)),
        _of(sum(model.tells_pair for model in flagged), len(bad)),
        _of(sum(model.names_target for model in flagged), len(bad)),
        _of(sum(not model.names_pair for model in flagged), len(bad)),
        _of(sum(verdict == "unclear" for _, verdict in bad), len(bad)),
        _of(sum(model.scores_highest for model, _ in bad), len(bad)),
        _auc([model for model, _ in judged]),
    ]


def _groups(judged: Sequence[tuple[Scanned, str]]) -> list[list[object]]:
    rows: list[list[object]] = []
    for key in ("dataset", "poisoning", "part"):
        for value in dict.fromkeys(model.facts[key] for model, _ in judged):
            chosen = [(model, verdict) for model, verdict in judged if model.facts[key] == value]
            rows.append([value, *_totals(chosen)])
    return [*rows, ["all", *_totals(judged)]]


def _scan_verdicts(models: Sequence[Scanned]) -> str:
    """Return a table of what the scans themselves said, which depends on the images, too."""
    rows: list[list[object]] = []
    for name in (*dict.fromkeys(model.facts["dataset"] for model in models), "all"):
        chosen = [model for model in models if name in ("all", model.facts["dataset"])]
        fewest = min(model.facts["fewest_images"] for model in chosen)
        said = [
            _of(sum(m.facts["verdict"] == verdict for m in half), len(half))
            for half in ([m for m in chosen if m.clean], [m for m in chosen if not m.clean])
            for verdict in _VERDICTS
        ]
        rows.append([name, len(chosen), fewest, *said])
    columns = [f"{half}: {verdict}" for half in ("clean", "backdoored") for verdict in _VERDICTS]
    return markdown_table(("data set", "models", "fewest images in a half", *columns), rows)


def _model_row(model: Scanned, left_out: Thresholds) -> list[object]:
    facts, first = model.facts, model.first
    return [
        facts["model"],
        facts["part"],
        "-" if model.clean else f"{facts['victim']} -> {facts['target']}",
        "-" if model.clean else f"{facts['success_rate']:.2f}",
        f"{facts['accuracy']:.3f}",
        f"{first['victim']} -> {first['target']}",
        f"{first['score']:.3f}",
        f"{first['bound']:.3f}",
        f"{first['turned']} of {first['shown']}",
        first["concept"],
        f"{left_out.threshold:.3f}",
        left_out.verdict(model),
        facts["seconds"],
    ]


def _roc(models: Sequence[Scanned]) -> list[list[object]]:
    """Return the shares of clean and backdoored models over a range of thresholds."""
    clean = [model for model in models if model.clean]
    bad = [model for model in models if not model.clean]
    rows: list[list[object]] = []
    for step in (0.0, 0.01, 0.02, 0.03, 0.05, 0.08, 0.12, 0.2, 0.3):
        over = [model for model in bad if model.score > step]
        rows.append(
            [
                f"{step:.2f}",
                _of(sum(model.score > step for model in clean), len(clean)),
                _of(len(over), len(bad)),
                _of(sum(model.names_pair for model in over), len(bad)),
            ]
        )
    return rows


def _write(packaged: Thresholds, calibrating: Sequence[Scanned], budget: str) -> None:
    facts = {
        "threshold": packaged.threshold,
        "clear": packaged.clear,
        "command": f"python -m benchmarks.calibrate --budget {budget} --write",
        "models": {
            "clean": sum(model.clean for model in calibrating),
            "backdoored": sum(not model.clean for model in calibrating),
        },
        "data_sets": sorted({model.facts["dataset"] for model in calibrating}),
    }
    PACKAGED.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--budget", default="default")
    parser.add_argument("--judging", action="store_true")
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    parts = (*CALIBRATING, "judging") if arguments.judging else CALIBRATING
    models = [one for one in read_scans(arguments.budget) if one.facts["part"] in parts]
    calibrating = [model for model in models if model.facts["part"] in CALIBRATING]
    packaged = calibrate(calibrating)
    if arguments.write:
        _write(packaged, calibrating, arguments.budget)
    left_out = {
        name: calibrate(m for m in calibrating if m.facts["dataset"] != name)
        for name in {model.facts["dataset"] for model in models}
    }
    strict = [(model, left_out[model.facts["dataset"]].verdict(model)) for model in models]
    judging = [
        (model, packaged.verdict(model)) for model in models if model.facts["part"] == "judging"
    ]
    print(f"# Detection by concepts, budget {arguments.budget}\n\n{machine_facts()}")
    print(f"\nPackaged: threshold {packaged.threshold}, clear {packaged.clear}.")
    columns = ("group", *_GROUP_COLUMNS)
    print(f"\n## Leave one data set out\n\n{markdown_table(columns, _groups(strict))}")
    if judging:
        table = markdown_table(columns, _groups(judging))
        print(f"\n## Judging half, packaged threshold\n\n{table}")
    print(f"\n## What the scans say\n\n{_scan_verdicts(models)}")
    roc = markdown_table(
        ("threshold", "clean over", "backdoored over", "of them true pair"), _roc(models)
    )
    print(f"\n## ROC\n\n{roc}")
    rows = [_model_row(model, left_out[model.facts["dataset"]]) for model in models]
    print(f"\n## Models\n\n{markdown_table(_MODEL_COLUMNS, rows)}")


if __name__ == "__main__":
    main()
