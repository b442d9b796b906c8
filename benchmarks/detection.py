"""What the paper's method alone finds on models of known truth: `python -m benchmarks.detection`.

Prints Markdown. The zoo lies in ../shared, at hand where the project is developed; without it only
the two bundled models are scanned.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from benchmarks.cases import fixture_cases, zoo_cases
from benchmarks.common import machine_facts, markdown_table
from benchmarks.examine import Examined, Variant, examine, judge
from onnx_soda._numbers import SodaNumbers
from onnx_soda._results import numbers_of

_MODEL_COLUMNS = (
    "model", "poisoning", "true pair", "SR", "accuracy measured / manifest", "preprocessing",
    "verdict", "flagged: index (victim named)", "true target: index, rank",
    "true victim for it: index, rank", "seconds",
)  # fmt: skip
_TOTAL_COLUMNS = (
    "models", "clean flagged", "backdoored flagged", "target named", "pair named",
    "other classes flagged",
)  # fmt: skip
# The paper's threshold, and those that its published toolkit uses for one model or another.
_THRESHOLDS = (2.0, 2.5, 3.0, 3.5)
_WAYS = {
    "last layer, median deviation (default)": Variant(),
    "last layer, mean deviation": Variant(spread="mean"),
    "last layer, the toolkit's zeros": Variant(toolkit_zeros=True),
    "deep layer, median deviation": Variant(layer="deep"),
    "deep layer, mean deviation": Variant(layer="deep", spread="mean"),
}
_LEGEND = """Index: how far the PCC of a class lies below the median of all classes, in typical
deviations; the paper flags a class over 2. Ranks count from the most suspicious one. "True victim
for it": where the true victim class stands among the source classes by the mean logit of the true
target class (Algorithm 3), whether or not that target was flagged. Index and rank there are before
the filter for naturally similar classes. SR and manifest accuracy are their maker's figures."""


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"


def _model_row(seen: Examined) -> list[str]:
    case, dataset = seen.case, seen.report.dataset
    pair = "-" if case.target is None else f"{case.victim} -> {case.target}"
    measured = _percent(dataset.accuracy) if dataset else "-"
    return [
        case.model.stem,
        case.poisoning,
        pair,
        _percent(case.success_rate),
        f"{measured} / {_percent(case.accuracy)}",
        _preprocessing(seen),
        seen.report.verdict,
        _flagged(seen),
        _true_target(seen),
        _true_victim(seen),
        f"{seen.seconds:.1f}",
    ]


def _preprocessing(seen: Examined) -> str:
    name = str(seen.report.dataset.preprocessing["name"]) if seen.report.dataset else "-"
    return name if seen.preprocessing_right in {None, True} else f"{name} (not its maker's)"


def _flagged(seen: Examined) -> str:
    cells = [
        f"{finding.target_class}: {finding.score:.1f} ({finding.victim_class})"
        for finding in seen.report.findings
        if finding.score is not None
    ]
    return ", ".join(cells) or "none"


def _true_target(seen: Examined) -> str:
    soda = numbers_of(seen.report, "soda", SodaNumbers)
    if seen.case.target is None or soda is None:
        return "-"
    index = np.asarray(soda.anomaly_index)
    target = seen.case.target
    return f"{-index[target]:.1f}, {int((index < index[target]).sum()) + 1} of {len(index)}"


def _true_victim(seen: Examined) -> str:
    """Say where the true victim stands among the source classes, by the mean target logit."""
    case = seen.case
    if case.target is None or case.victim is None:
        return "-"
    found = seen.victim(case.target)
    logits = found.target_logits
    rank = sum(logit > logits[case.victim] for logit in logits.values()) + 1
    return f"{found.indices[case.victim]:.1f}, {rank} of {len(logits)}"


def _totals(models: Sequence[Examined], variant: Variant) -> list[object]:
    judged = [(seen.case, judge(seen, variant)) for seen in models]
    clean = [verdict for case, verdict in judged if case.target is None]
    poisoned = [(case, verdict) for case, verdict in judged if case.target is not None]
    return [
        _of(sum(bool(verdict.pairs) for verdict in clean), len(clean)),
        _of(sum(bool(verdict.pairs) for _, verdict in poisoned), len(poisoned)),
        _of(sum(verdict.names_target(case) for case, verdict in poisoned), len(poisoned)),
        _of(sum(verdict.names_pair(case) for case, verdict in poisoned), len(poisoned)),
        sum(verdict.false_targets(case) for case, verdict in judged),
    ]


def _of(count: int, total: int) -> str:
    return f"{count} of {total}" if total else "-"


def _groups(zoo: Sequence[Examined]) -> Iterator[tuple[str, list[Examined]]]:
    """Yield the zoo by data set, by poisoning, and whole."""
    for dataset in dict.fromkeys(seen.case.dataset for seen in zoo):
        yield dataset, [seen for seen in zoo if seen.case.dataset == dataset]
    for poisoning in dict.fromkeys(seen.case.poisoning for seen in zoo):
        yield poisoning, [seen for seen in zoo if seen.case.poisoning == poisoning]
    yield "all", list(zoo)


def _variant_rows(zoo: Sequence[Examined]) -> Iterator[list[object]]:
    for name, way in _WAYS.items():
        for threshold in _THRESHOLDS:
            yield [name, f"{threshold:g}", *_totals(zoo, replace(way, threshold=threshold))]


def _print_section(title: str, table: str) -> None:
    print(f"\n## {title}\n\n{table}")


def _scan_all() -> list[Examined]:
    scanned = []
    for case in (*fixture_cases(), *zoo_cases()):
        print(f"scanning {case.model.name}", file=sys.stderr)
        scanned.append(examine(case))
    return scanned


def main() -> None:
    """Scan all models and print the tables."""
    print(f"# Detection by the paper's method alone\n\n{machine_facts()}")
    scanned = _scan_all()
    _print_section("Models", markdown_table(_MODEL_COLUMNS, map(_model_row, scanned)))
    print(f"\n{_LEGEND}")
    bundled = {case.model for case in fixture_cases()}
    zoo = [seen for seen in scanned if seen.case.model not in bundled]
    if not zoo:
        print("\n../shared/zoo is not there: only the bundled models were scanned.")
        return
    groups = ([name, *_totals(models, Variant())] for name, models in _groups(zoo))
    _print_section("Zoo, threshold 2", markdown_table(_TOTAL_COLUMNS, groups))
    columns = ("variant", "threshold", *_TOTAL_COLUMNS[1:])
    _print_section("Zoo, variants", markdown_table(columns, _variant_rows(zoo)))


if __name__ == "__main__":
    main()
