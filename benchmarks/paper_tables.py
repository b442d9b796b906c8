"""The paper's Tables 1 to 6 from what is kept of this project's models; see `benchmarks.paper`."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import mean, median
from typing import Any

from scipy.stats import binomtest

from benchmarks.cases import PARTS, Case, cases_of
from benchmarks.common import PAPER, REPAIR, all_kept, kept, markdown_table
from benchmarks.comparison import Told, default_of, told_of
from benchmarks.layers import TABLE_MODELS
from benchmarks.published import CLEAN_FLAGGED, DETECTORS, LAYERS, PUBLISHED, REMOVERS
from onnx_soda import ScanOptions, load_dataset, load_model, scan
from onnx_soda._options import RuntimeOptions
from onnx_soda._results import named_pairs

__all__ = [
    "OWN_WAYS",
    "PARAMETERS",
    "Model",
    "detection_table",
    "keep_statistic",
    "layers_table",
    "models",
    "models_table",
    "removal_cells",
    "removed",
    "removers_measured",
    "removers_summary",
    "removers_table",
    "repair_table",
    "rivals_table",
]

PARAMETERS = ("paper", "published")
_CLEAN = "clean"
_OURS = "this project's default"
_STATISTIC = "SODA's statistic"
# As the paper has it: "the attack SR after re-training is < 15 %" counts as removed.
_REMOVED = 0.15
# How `benchmarks.repair` calls this project's default, without references and with them.
OWN_WAYS = ("auto-both", "auto-both-taught")

Answer = tuple[bool, bool]
"""Whether a model is flagged, and whether its true pair is named first."""


@dataclass(frozen=True)
class Model:
    """One of this project's models.

    Attributes:
        case: File, data and truth.
        part: Of the models.
        trigger: Name of its trigger; "clean".
    """

    case: Case
    part: str
    trigger: str

    @property
    def name(self) -> str:
        """What files about it are called."""
        return f"{self.part}-{self.case.model.stem}"

    def kept(self, folder: Path) -> dict[str, Any] | None:
        """Return what a command kept of it; None where it did not."""
        path = folder / f"{self.name}.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def models() -> list[Model]:
    """Return the models with the paper's triggers that took, and the clean ones."""
    found = []
    for part in PARTS[1:]:
        for case in cases_of(part):
            words = [name for name in PUBLISHED if f"-{name}-" in case.model.stem]
            if case.effective is not False and (words or case.victim is None):
                found.append(Model(case, part, words[0] if words else _CLEAN))
    return found


def _of(every: Sequence[Model], trigger: str) -> list[Model]:
    return [model for model in every if model.trigger == trigger]


# --- Table 1


def models_table(every: Sequence[Model]) -> str:
    """Return Table 1: accuracy and success rate of the models."""
    rows = []
    for trigger, told in PUBLISHED.items():
        own = _of(every, trigger)
        rates = [model.case.success_rate or 0 for model in own]
        rows.append([
            trigger, told.net, told.network, told.accuracy, told.success, _networks(own),
            _span([model.case.accuracy for model in own]), _span(rates),
        ])  # fmt: skip
    clean = _of(every, _CLEAN)
    accuracies = _span([model.case.accuracy for model in clean])
    rows.append([_CLEAN, "7 nets", "", "", "", _networks(clean), accuracies, ""])
    columns = ("trigger", "paper", "network", "accuracy", "SR", "here", "accuracy", "SR")
    return markdown_table(columns, rows)


def _networks(own: Sequence[Model]) -> str:
    """Return how many models there are of each kind of network."""
    kinds = Counter(model.case.model.stem.split("-")[1] for model in own)
    return ", ".join(f"{count} {kind}" for kind, count in kinds.most_common()) or "none"


def _span(values: Sequence[float]) -> str:
    """Return the lowest and the highest value."""
    if not values:
        return "-"
    return f"{min(values):.2f} to {max(values):.2f}" if len(values) > 1 else f"{values[0]:.2f}"


# --- Tables 2 and 4


def keep_statistic(every: Sequence[Model], into: Path = PAPER) -> None:
    """Let the paper's statistic judge every model that it has not judged."""
    for model in every:
        kept(into / "statistic" / f"{model.name}.json", partial(_judged, model.case))


def _judged(case: Case) -> dict[str, Any]:
    options = ScanOptions("soda", runtime=RuntimeOptions("cpu", 1))
    report = scan(load_model(case.model), load_dataset(case.data), options)
    return {"model": case.model.stem, "named": list(named_pairs(report))}


def _statistic(into: Path, model: Model) -> Answer | None:
    found = model.kept(into / "statistic")
    if found is None:
        return None
    truth = [model.case.victim, model.case.target]
    return bool(found["named"]), found["named"][:1] == [truth]


def _default(model: Model) -> Answer | None:
    return _answer(default_of(model.case, model.part))


def _rival(method: str, parameters: str, model: Model) -> Answer | None:
    return _answer(told_of(model.case, model.part, method, parameters))


def _answer(told: Told | None) -> Answer | None:
    if told is None:
        return None
    # Who tells no victim is right by the target alone.
    by_target = told.first == (None, told.facts["target"]) and not told.clean
    return told.flags, told.flags and (told.names_pair or by_target)


def _counted(own: Sequence[Model], told: Callable[[Model], Answer | None]) -> str:
    """Return how many models are named rightly, and how many are flagged at all."""
    found = [answer for model in own if (answer := told(model)) is not None]
    if not found:
        return "-"
    right, flagged = sum(right for _, right in found), sum(flagged for flagged, _ in found)
    return f"{right} / {flagged} of {len(found)}"


def detection_table(every: Sequence[Model], into: Path = PAPER) -> str:
    """Return Table 2: what the statistic and the default say of each trigger's models."""
    rows = []
    ways = (partial(_statistic, into), _default)
    for trigger in (*PUBLISHED, _CLEAN):
        net = PUBLISHED[trigger].net if trigger in PUBLISHED else "7 nets"
        said = "right pair" if trigger in PUBLISHED else "nothing flagged"
        rows.append([trigger, net, said, *(_counted(_of(every, trigger), way) for way in ways)])
    poisoned = [model for model in every if model.trigger != _CLEAN]
    rows.append(["all backdoored", "14 nets", "right pair", *(_counted(poisoned, w) for w in ways)])
    return markdown_table(("trigger", "paper", "published", _STATISTIC, _OURS), rows)


def rivals_table(every: Sequence[Model], parameters: str) -> str:
    """Return Table 4 by one set of parameters; of the second only the methods that had them."""
    told = {name: partial(_rival, name, parameters) for name in DETECTORS}
    # What the paper prints stands in the first table in any case.
    every_one = parameters == PARAMETERS[0]
    names = [name for name in DETECTORS if every_one or any(told[name](one) for one in every)]
    columns = ["trigger"]
    for name in names:
        columns += [f"{name}, published", "here"]
    rows = []
    for trigger in (*PUBLISHED, _CLEAN):
        row: list[object] = [trigger]
        for name in names:
            known = PUBLISHED.get(trigger)
            place = DETECTORS.index(name)
            row.append(known.detectors[place] if known else CLEAN_FLAGGED[name])
            row.append(_counted(_of(every, trigger), told[name]))
        rows.append(row)
    return markdown_table(columns, rows)


# --- Tables 3 and 5


def _repairs(own: Sequence[Model], way: str) -> list[dict[str, Any]]:
    found = (model.kept(REPAIR / way) for model in own)
    return [one for one in found if one is not None]


def _interval(hits: int, images: int) -> str:
    """Return a share and its interval (Clopper and Pearson)."""
    low, high = binomtest(hits, images).proportion_ci(method="exact")
    return f"{hits / images:.2f} ({low:.2f} to {high:.2f})"


def _repair_cells(repairs: Sequence[dict[str, Any]]) -> list[str]:
    """Return how many models were written of those tried, their SR after it, the mean drop."""
    done = [one for one in repairs if "accuracy" in one]
    if not done:
        return [f"0 of {len(repairs)}" if repairs else "-", "-", "-"]
    images = sum(one["trigger_images"] for one in done)
    hits = sum(round(one["success_rate"][1] * one["trigger_images"]) for one in done)
    drop = mean(one["accuracy"][0] - one["accuracy"][1] for one in done)
    return [f"{len(done)} of {len(repairs)}", _interval(hits, images), f"{drop:+.4f}"]


def repair_table(every: Sequence[Model]) -> str:
    """Return Table 3: repairs where the true pair is given."""
    rows = []
    for trigger, told in PUBLISHED.items():
        before, after = told.repaired
        own = _of(every, trigger)
        alone, taught = (_repair_cells(_repairs(own, way)) for way in OWN_WAYS)
        rows.append([trigger, "0.00", f"{before - after:+.4f}", *alone, *taught])
    columns = (
        "trigger", "SR after, published", "drop", "models, alone", "SR after (95 %)", "drop",
        "models, with references", "SR after (95 %)", "drop",
    )  # fmt: skip
    return markdown_table(columns, rows)


def removers_measured(every: Sequence[Model], names: Sequence[str]) -> list[tuple[str, str]]:
    """Return the removers that were tried, each with whose parameters it had."""
    ways = [(name, parameters) for name in names for parameters in PARAMETERS]
    return [way for way in ways if _repairs(every, "-".join(way))]


def removers_summary(every: Sequence[Model], ways: Sequence[tuple[str, str]]) -> str:
    """Return a row for each remover: how often it removes the backdoor, there and here."""
    rows = []
    for name, parameters in ways:
        repairs = _repairs(every, f"{name}-{parameters}")
        rows.append([name, parameters, *_published_summary(name), *removal_cells(repairs)])
    columns = (
        "method", "parameters", "published: SR under 0.15", "mean change of SR",
        "median change of accuracy", "tried here", "written", "SR under 0.15", "mean change of SR",
        "median change of accuracy",
    )  # fmt: skip
    return markdown_table(columns, rows)


def removal_cells(repairs: Sequence[dict[str, Any]]) -> list[object]:
    """Return how many were tried, written and removed, and the changes of SR and accuracy."""
    done = [one for one in repairs if "accuracy" in one]
    falls = [one["success_rate"][0] - one["success_rate"][1] for one in done]
    drops = [one["accuracy"][0] - one["accuracy"][1] for one in done]
    return [
        len(repairs),
        len(done),
        removed(repairs),
        f"{-mean(falls):+.2f}" if done else "-",
        f"{-median(drops):+.4f}" if done else "-",
    ]


def removed(repairs: Sequence[dict[str, Any]]) -> int:
    """Return in how many models the backdoor is gone."""
    return sum("accuracy" in one and one["success_rate"][1] < _REMOVED for one in repairs)


def _published_summary(name: str) -> list[object]:
    if name not in REMOVERS:
        return ["-", "-", "-"]
    told = [(net.success, *net.removers[REMOVERS.index(name)]) for net in PUBLISHED.values()]
    removed = sum(before + change < _REMOVED for before, change, _ in told)
    changes, accuracies = [change for _, change, _ in told], [drop for *_, drop in told]
    return [f"{removed} of {len(told)}", f"{mean(changes):+.2f}", f"{median(accuracies):+.4f}"]


def removers_table(every: Sequence[Model], name: str, parameters: str) -> str:
    """Return Table 5 for one remover."""
    rows = []
    place = REMOVERS.index(name) if name in REMOVERS else None
    for trigger, told in PUBLISHED.items():
        repairs = _repairs(_of(every, trigger), f"{name}-{parameters}")
        if repairs:
            known = [] if place is None else [f"{one:+.4f}" for one in told.removers[place]]
            done = [one["success_rate"][0] for one in repairs if "accuracy" in one]
            before = f"{mean(done):.2f}" if done else "-"
            written, after, drop = _repair_cells(repairs)
            rows.append([trigger, *known, written, before, after, drop])
    published = [] if place is None else ["change of SR, published", "of accuracy"]
    columns = ["trigger", *published, "written", "SR before", "SR after (95 %)", "drop"]
    return markdown_table(columns, rows)


# --- Table 6


def layers_table(into: Path = PAPER) -> str:
    """Return Table 6: what the statistic says at each layer, and how long it takes."""
    found = {(one["model"], one["layer"]): one for one in all_kept(into / "layers")}
    rows = []
    for trigger, (net, layers) in LAYERS.items():
        model = TABLE_MODELS[trigger]
        for layer, (said, seconds) in layers.items():
            own = found.get((model, layer))
            cells = ["-"] * 5 if own is None else _layer_cells(own)
            rows.append([net, layer, said, f"{seconds:,}", model, *cells])
    columns = (
        "paper", "layer", "published", "seconds (T4)", "model here", "neurons", "images",
        "computed", "statistic names", "seconds (one core)",
    )  # fmt: skip
    return markdown_table(columns, rows)


def _layer_cells(own: dict[str, Any]) -> list[str]:
    right = " (right)" if own["pair"] in own["named"] else ""
    named = ", ".join(f"{victim} -> {target}" for victim, target in own["named"]) or "nothing"
    return [
        f"{own['neurons']:,}",
        str(own["images"]),
        own["method"],
        named + right,
        f"{own['seconds']:,.1f}",
    ]
