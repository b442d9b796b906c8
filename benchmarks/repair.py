"""Repairs the backdoored models of known truth and measures them on real trigger images.

    python -m benchmarks.repair [--part NAME] [--scope S] [--reconstruction R] [--export E]
                                [--found | --whole] [--references] [--rescan] [--threads N]
                                [--method NAME] [--parameters P] [WORD ...]

Parts as in `benchmarks.evaluate`. --method takes a remover of other authors. The clean set is drawn
from the test images without the trigger's: as many as 5 % of the training images, but at least ten
of each class; of the bundled digits half of the clean images. Accuracy is measured on the test
images that are in neither (of smoothing, which shows each image a hundred times, on 1,000 of
them), the success rate on the trigger's test images.
With --found the pair is the one that a scan kept in benchmarks/results/evaluation/default names
first, with the other classes that it tells to turn; without, the true one. With --references the
other models of the data set, but for those with the same trigger, teach; with --found, too, the
repair scans with them and takes the pair from that; with --whole they tell what is repaired. What
they say is kept in build/references. With --rescan the repaired model is scanned as
`benchmarks.evaluate` scans, where that names a pair in the unrepaired one; with references the
repair itself scans each model that it has repaired, as `onnx-soda repair` does.
One JSON file per model goes to benchmarks/results/repair/WAY; what is there is not done again:
delete it after a change. Prints Markdown.
"""

from __future__ import annotations

import argparse
import json
import pickle
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.cases import PARTS, Case, cases_of
from benchmarks.common import (
    EVALUATION,
    FIXTURES,
    REPAIR,
    UNHURRIED,
    kept,
    machine_facts,
    markdown_table,
)
from benchmarks.shared_data import read_shared, trigger_images
from onnx_soda import CleanSet, ScanOptions, load_dataset, load_model, scan
from onnx_soda._answers import TriggerBehaviour
from onnx_soda._detect.concepts.judge import load_calibration
from onnx_soda._detect.references.bank import BANK_VERSION
from onnx_soda._detect.references.flows import hear
from onnx_soda._options import ReferenceFlows, RepairOptions, RuntimeOptions
from onnx_soda._repair.base import REMOVERS
from onnx_soda._repair.images import answers
from onnx_soda._repair.preparation import Task, subset
from onnx_soda._repair.proof import on_triggers
from onnx_soda._repair.repair import RepairReport, repair
from onnx_soda._results import named_pairs
from onnx_soda._suspect import Suspect

Rows = NDArray[np.int64]

# What references say of the clean set that repairs take; by model, since it is one of a data set.
_KEPT = Path(__file__).resolve().parents[1] / "build" / "references" / "repair"
_SHARE, _FEWEST = 0.05, 10
# Those of the bundled digits.
_TRIGGERS = FIXTURES / "digits-trigger.h5"
# Images of the test part that accuracy is measured on, at a time.
_BLOCK = 500
# And in all, where each is a hundred passes.
_SMOOTHED = 1000
# The goals: success rate, share given back to the victim, points of accuracy.
_SUCCESS, _BACK, _DROP = 0.02, 0.9, 1.5
_TOTALS = (
    "part", "models", "written", "SR <= 0.02", "back >= 90 %", "mean drop", "over 1.5 points",
    "all three", "median", "longest",
)  # fmt: skip
_COLUMNS = (
    "model", "accuracy before", "after", "drop", "SR before", "after", "back to the victim",
    "rate on reconstructed, before", "after", "others tipped, before", "after", "scope",
    "neurons", "values changed", "seconds", "new scan",
)  # fmt: skip
_TAUGHT = (
    "model", "pair repaired", "outcome", "others tipped", "stands out, before", "after",
    "most that stands out after", "which", "training, s", "all, s",
)  # fmt: skip


def split(case: Case) -> tuple[CleanSet, CleanSet, CleanSet]:
    """Return clean set, images for the accuracy, trigger images; no image is in two of them."""
    bundled, dataset = case.data.parent == FIXTURES, case.data.stem
    # The test split leaves the trigger images out.
    test = load_dataset(case.data) if bundled else load_dataset(case.data, "test")
    rng, classes = np.random.default_rng(0), np.unique(test.labels)
    if bundled:
        each = len(test.labels) // len(classes) // 2
    else:
        each = max(round(_SHARE * len(_read(dataset).train_labels) / len(classes)), _FEWEST)
    drawn = [rng.permutation(np.flatnonzero(test.labels == label))[:each] for label in classes]
    clean = np.sort(np.concatenate(drawn))
    rest = np.setdiff1d(np.arange(len(test.labels)), clean)
    truth = (case.victim, case.target)
    triggers = load_dataset(_TRIGGERS) if bundled else trigger_images(_read(dataset), truth, test)
    return subset(test, clean), subset(test, rest), triggers


_read = lru_cache(maxsize=1)(read_shared)


def _accuracy(suspect: Suspect, images: CleanSet) -> float:
    right = 0
    for start in range(0, len(images.labels), _BLOCK):
        rows = np.arange(start, min(start + _BLOCK, len(images.labels)))
        given = answers(suspect.body, suspect.inputs(suspect.pixels(rows, images)))
        right += int((given == images.labels[rows]).sum())
    return right / len(images.labels)


def _pair(case: Case, part: str, as_scanned: bool) -> Task | None:
    """Return the true pair, or the first that the kept scan names over the threshold."""
    if not as_scanned:
        return Task((int(case.victim or 0), int(case.target or 0)))
    path = EVALUATION / "default" / f"{part}-{case.model.stem}.json"
    if not path.is_file():
        return None
    pairs = json.loads(path.read_text(encoding="utf-8"))["pairs"]
    over = [pair for pair in pairs if pair["bound"] > load_calibration().threshold]
    if not over:
        return None
    return Task((over[0]["victim"], over[0]["target"]), tuple(over[0].get("also", ())))


def without_trigger(case: Case) -> list[Case]:
    """Return the other models of a data set, but for those with the same trigger."""
    truth = (case.victim, case.target)
    return [
        other
        for part in PARTS[1:]
        for other in cases_of(part)
        if other.dataset == case.dataset
        and other.model != case.model
        and (other.victim, other.target) != truth
    ]


def _references(case: Case, clean: CleanSet, options: ScanOptions) -> list[ReferenceFlows]:
    return [_heard(one, clean, options) for one in without_trigger(case)]


def _heard(case: Case, clean: CleanSet, options: ScanOptions) -> ReferenceFlows:
    place = _KEPT / f"{case.model.stem}-bank{BANK_VERSION}.pickle"
    if not place.is_file():
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(pickle.dumps(hear(load_model(case.model), clean, options)))
    heard: ReferenceFlows = pickle.loads(place.read_bytes())  # noqa: S301 - written above
    return heard


def measure(
    case: Case, named: Task | None, options: RepairOptions, rescan: bool, taught: bool
) -> dict[str, Any]:
    """Repair one model; return what it came to. With no pair the repair looks for one itself."""
    model = load_model(case.model)
    clean, rest, triggers = split(case)
    references = _references(case, clean, options.scan) if taught else ()
    start = time.perf_counter()
    pair, also = (named.pair, named.also) if named else (None, ())
    done = repair(model, clean, pair=pair, also=also, options=options, references=references)
    seconds = time.perf_counter() - start
    summary = done.summary
    facts: dict[str, Any] = {
        "model": case.model.stem,
        "pair": (summary.victim_class, summary.target_class),
        "flows": [asdict(one) for one in summary.flows],
        "also": done.summary.also_turned,
        "outcome": done.summary.outcome,
        "reason": done.summary.reason,
        "clean_images": len(clean.labels),
        "accuracy_images": len(rest.labels),
        "trigger_images": len(triggers.labels),
        "scope": done.summary.scope,
        "infected": done.summary.infected,
        "concepts": done.summary.concepts,
        "neurons": [done.summary.outstanding, done.summary.neurons],
        "settings": [done.summary.rate, done.summary.alpha, done.summary.epochs],
        "share": done.summary.share,
        "seconds": round(seconds, 1),
        "stages": {name: round(value, 1) for name, value in (done.summary.seconds or {}).items()},
        "notes": done.summary.notes,
    }
    if done.model is not None:
        if summary.method == "smoothing":
            some = np.random.default_rng(0).permutation(len(rest.labels))[:_SMOOTHED]
            rest = subset(rest, np.sort(some))
            facts["accuracy_images"] = len(rest.labels)
        facts.update(_judged(model, done, case, (clean, rest, triggers)))
        if summary.rescan is not None:
            facts["rescan"] = _told(summary.rescan, summary.rescan_pairs)
        elif rescan:
            facts["rescan"] = _scanned(done, case, options.scan)
    return facts


def _scanned(done: RepairReport, case: Case, options: ScanOptions) -> str:
    """Scan a repaired model as `benchmarks.evaluate` does; return verdict and pairs named."""
    assert done.model is not None  # noqa: S101 - the caller has looked
    again = scan(load_model(done.model.SerializeToString()), load_dataset(case.data), options)
    return _told(again.verdict, named_pairs(again))


def _told(verdict: str, pairs: Iterable[tuple[int, int]]) -> str:
    return " ".join([verdict, *(f"{victim} -> {target}" for victim, target in pairs)])


def _judged(
    model: Any, done: RepairReport, case: Case, images: tuple[CleanSet, CleanSet, CleanSet]
) -> dict[str, Any]:
    clean, rest, triggers = images
    before, after = done.summary.before, done.summary.after
    if done.model is None or before is None or after is None:
        return {}
    truth = (int(case.victim or 0), int(case.target or 0))
    suspect = Suspect(model, clean)
    accuracies, behaviours = [], []
    for one in (suspect, suspect.with_model(load_model(done.model.SerializeToString()))):
        accuracies.append(_accuracy(one, rest))
        behaviours.append(shown_triggers(one, triggers, truth))
    return {
        "accuracy": accuracies,
        "success_rate": [one.target_rate for one in behaviours],
        "victim_rate": [one.victim_rate for one in behaviours],
        "own_accuracy": [before.accuracy, after.accuracy],
        "reconstructed": [before.target_rate, after.target_rate],
        "tipped": [before.tipped_rate, after.tipped_rate],
        "changed": sum(change.changed for change in done.summary.changes),
    }


def shown_triggers(
    suspect: Suspect, triggers: CleanSet, truth: tuple[int, int]
) -> TriggerBehaviour:
    """Return what a model makes of real trigger images."""
    shown = suspect.inputs(suspect.pixels(clean=triggers))
    return on_triggers(answers(suspect.body, shown), truth)


def _totals(part: str, found: Sequence[dict[str, Any]]) -> list[object]:
    """Return how many models of a part meet which goal."""
    done = [facts for facts in found if "accuracy" in facts]
    drops = [100 * (facts["accuracy"][0] - facts["accuracy"][1]) for facts in done]
    cured = [facts["success_rate"][1] <= _SUCCESS for facts in done]
    back = [facts["victim_rate"][1] >= _BACK for facts in done]
    cheap = [drop <= _DROP for drop in drops]
    return [
        part,
        len(found),
        len(done),
        sum(cured),
        sum(back),
        f"{np.mean(drops):.2f}" if drops else "-",
        len(done) - sum(cheap),
        sum(all(goals) for goals in zip(cured, back, cheap, strict=True)),
        f"{np.median([facts['seconds'] for facts in found]):.0f} s",
        f"{max(facts['seconds'] for facts in found):.0f} s",
    ]


def _row(facts: dict[str, Any]) -> list[object]:
    name = facts["model"]
    if "accuracy" not in facts:
        return [name, facts["reason"], *[""] * (len(_COLUMNS) - 4), facts["seconds"], ""]
    before, after = facts["accuracy"]
    rate, victim, proxy = (facts[key] for key in ("success_rate", "victim_rate", "reconstructed"))
    return [
        name,
        f"{before:.4f}",
        f"{after:.4f}",
        f"{100 * (before - after):.2f}",
        f"{rate[0]:.2f}",
        f"{rate[1]:.2f}",
        f"{victim[1]:.2f}",
        f"{proxy[0]:.2f}",
        f"{proxy[1]:.2f}",
        *("-" if rate is None else f"{rate:.2f}" for rate in facts.get("tipped", (None, None))),
        facts["scope"],
        "{} of {}".format(*facts["neurons"]),
        facts["changed"],
        facts["seconds"],
        facts.get("rescan", ""),
    ]


def _taught_row(facts: dict[str, Any]) -> list[object]:
    """Return how the pair stands out against the references, before and after."""
    flows = facts["flows"]
    own = flows[0] if flows else {"before": float("nan"), "after": float("nan")}
    worst = max(flows, key=lambda one: one["after"], default=None)
    tipped = facts.get("tipped", (None, None))[1]
    pair = [one for one in facts["pair"] if one is not None]
    return [
        facts["model"],
        " -> ".join(map(str, pair)) or "-",
        facts["outcome"],
        "-" if tipped is None else f"{tipped:.2f}",
        f"{own['before']:+.2f}",
        f"{own['after']:+.2f}",
        "-" if worst is None else f"{worst['after']:+.2f}",
        "-" if worst is None else f"{worst['victim_class']} -> {worst['target_class']}",
        f"{facts['stages'].get('training', 0):.0f}",
        f"{facts['seconds']:.0f}",
    ]


def _parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("words", nargs="*")
    parser.add_argument("--part", choices=PARTS)
    parser.add_argument(
        "--scope", choices=("auto", "head", "path", "deep"), default=RepairOptions().scope
    )
    ways = ("concepts", "ascent", "both")
    parser.add_argument("--reconstruction", choices=ways, default=RepairOptions().reconstruction)
    parser.add_argument("--export", choices=("weights", "torch"), default=RepairOptions().export)
    parser.add_argument("--threads", type=int)
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument("--found", action="store_true")
    chosen.add_argument("--whole", action="store_true")
    parser.add_argument("--references", action="store_true")
    parser.add_argument("--rescan", action="store_true")
    parser.add_argument("--method", choices=REMOVERS.names, default=RepairOptions().method)
    parser.add_argument("--parameters", choices=("paper", "published"), default="paper")
    arguments = parser.parse_args()
    arguments.references |= arguments.whole
    return arguments


def _way(arguments: argparse.Namespace) -> str:
    """Return what the folder of the results is called."""
    if arguments.method != RepairOptions().method:
        return f"{arguments.method}-{arguments.parameters}"
    way = f"{arguments.scope}-{arguments.reconstruction}" + ("-found" if arguments.found else "")
    way += "-exported" if arguments.export == "torch" else ""
    return way + (("-whole" if arguments.whole else "-taught") if arguments.references else "")


def _repaired(case: Case, part: str, arguments: argparse.Namespace) -> dict[str, Any] | None:
    """Return what a repair came to, made now where it is not kept; None where it is not wanted."""
    name, taught = case.model.stem, arguments.references
    wanted = not arguments.words or any(word in name for word in arguments.words)
    if not case.effective or not wanted:
        return None
    named = _pair(case, part, arguments.found and not taught)
    if named is None:
        return None
    itself = taught and (arguments.found or arguments.whole)
    options = RepairOptions(
        arguments.scope,
        arguments.reconstruction,
        export=arguments.export,
        rescan=arguments.rescan and taught,
        whole=arguments.whole,
        method=arguments.method,
        parameters=arguments.parameters,
        scan=ScanOptions(time_limit=UNHURRIED, runtime=RuntimeOptions(threads=arguments.threads)),
    )
    again = arguments.rescan and not taught and bool(_pair(case, part, True))
    path = REPAIR / _way(arguments) / f"{part}-{name}.json"
    return kept(path, partial(measure, case, None if itself else named, options, again, taught))


def main() -> None:
    """Repair what has not been repaired, and print the table."""
    arguments = _parsed()
    torch.set_num_threads(arguments.threads or torch.get_num_threads())
    parts = [arguments.part] if arguments.part else PARTS[1:]
    every = {part: [_repaired(case, part, arguments) for case in cases_of(part)] for part in parts}
    told = {part: [facts for facts in found if facts] for part, found in every.items()}
    tables = {part: found for part, found in told.items() if found}
    totals = [_totals(part, found) for part, found in tables.items()]
    print(f"{machine_facts()}\n\n{markdown_table(_TOTALS, totals)}")
    for part, found in tables.items():
        print(f"\n### {part}\n\n{markdown_table(_COLUMNS, [_row(facts) for facts in found])}")
        if arguments.references:
            print(f"\n{markdown_table(_TAUGHT, [_taught_row(facts) for facts in found])}")


if __name__ == "__main__":
    main()
