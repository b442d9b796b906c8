"""What the paper's method alone finds on models of known truth: `python -m benchmarks.detection`.

Prints Markdown. The zoo lies in ../shared, at hand where the project is developed; without it only
the two bundled models are scanned.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence

import numpy as np

from benchmarks.common import machine_facts, markdown_table
from benchmarks.examine import Examined, Variant, examine, judge
from benchmarks.zoo import fixture_cases, zoo_cases

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
_VARIANTS = {
    **{f"threshold {t:g}": Variant(threshold=t) for t in _THRESHOLDS},
    "mean deviation, threshold 2": Variant(spread="mean"),
    "mean deviation, threshold 1.5": Variant(spread="mean", threshold=1.5),
    "toolkit's zeros, threshold 2": Variant(toolkit_zeros=True),
    "deep layer, threshold 2": Variant(layer="deep"),
    "deep layer, threshold 3": Variant(layer="deep", threshold=3.0),
}


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
    ]
    return ", ".join(cells) or "none"


def _true_target(seen: Examined) -> str:
    soda = seen.report.evidence.soda
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
    bundled = {case.model for case in fixture_cases()}
    zoo = [seen for seen in scanned if seen.case.model not in bundled]
    if not zoo:
        print("\n../shared/zoo is not there: only the bundled models were scanned.")
        return
    groups = ([name, *_totals(models, Variant())] for name, models in _groups(zoo))
    _print_section("Zoo, threshold 2", markdown_table(_TOTAL_COLUMNS, groups))
    variants = ([name, *_totals(zoo, variant)] for name, variant in _VARIANTS.items())
    _print_section("Zoo, variants", markdown_table(("variant", *_TOTAL_COLUMNS[1:]), variants))


if __name__ == "__main__":
    main()
