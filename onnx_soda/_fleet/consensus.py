"""The odd one out: models of one task are each other's references.

What every model makes of the bank of concepts is found out once. Each is then compared with all
others, as a suspect with its references (`onnx_soda._detect.references.opinion`). Many models of a
fleet may have the same backdoor, and so hide it from each other. So for each pair and concept the
quarter of the others that turns most is left out, and of how well a class is kept the quarter that
keeps it least. What is left out is chosen pair by pair: no model is taken for honest or guilty.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from onnx_soda._batch import ask_one
from onnx_soda._cache import Cache
from onnx_soda._detect.references.bank import concept_bank
from onnx_soda._detect.references.decide import load_calibration
from onnx_soda._detect.references.flows import Flows
from onnx_soda._detect.references.opinion import SecondOpinion, outstanding, pair_scores
from onnx_soda._fleet.manifest import Entry
from onnx_soda._options import Progress, ReferenceFlows, ScanRequest, no_progress

FEWEST = 3
"""Models that a consensus needs: of two it cannot be told which is the odd one."""
# One of so many others is left out.
_LEFT_OUT = 4


@dataclass(frozen=True)
class Odd:
    """A model beside the others of its task.

    Attributes:
        name: Of the model.
        pair: Victim and target that stand out most.
        beyond: By how much, over what honest differences between these models reach.
        concept: Place in the bank of the change that shows it.
    """

    name: str
    pair: tuple[int, int]
    beyond: float
    concept: int


def consensus(models: Mapping[str, Flows]) -> tuple[Odd, ...]:
    """Compare each model with all others; return them, what stands out most first.

    Args:
        models: What each makes of the same bank and images, by its name; `FEWEST` at least.

    Raises:
        ValueError: There are too few, or they were shown different images or banks.
    """
    names, flows = list(models), list(models.values())
    if len(flows) < FEWEST:
        raise ValueError(f"a consensus needs {FEWEST} models, not {len(flows)}")
    if not all(map(flows[0].comparable, flows)):
        raise ValueError("flows of other images or of another bank cannot be compared")
    shares = np.stack([one.shares for one in flows])
    scored = [
        pair_scores(own, without_extremes(np.delete(shares, place, axis=0)))
        for place, own in enumerate(shares)
    ]
    found = tuple(outstanding(scores) for scores, _ in scored)
    opinion = SecondOpinion(*scored[0], found)
    odd = [
        Odd(
            name,
            found[place].pair,
            found[place].score - opinion.level(place),
            int(scored[place][1][0][found[place].pair]),
        )
        for place, name in enumerate(names)
    ]
    return tuple(sorted(odd, key=lambda one: -one.beyond))


def without_extremes(shares: NDArray[np.float32]) -> NDArray[np.float32]:
    """Leave out, for each pair and concept, the quarter of the models that turns most.

    Args:
        shares: Shape (models, 1 + concepts, folds, classes, classes).

    Returns:
        The same with fewer models; which ones differs from place to place.
    """
    kept = len(shares) - len(shares) // _LEFT_OUT
    ordered = np.sort(shares, axis=0)
    lowest, highest = ordered[:kept], ordered[len(shares) - kept :]
    classes = np.arange(shares.shape[-1])
    lowest[..., classes, classes] = highest[..., classes, classes]
    return lowest


@dataclass(frozen=True)
class Task:
    """The models of one task beside each other.

    Attributes:
        name: Of the task.
        data: The clean set that all were shown.
        odd: The models, what stands out most first; empty where there are too few.
        concepts: For each of them the change that shows it, in words.
        threshold: From which a pair is taken for a backdoor.
        left_out: Of each model that cannot be compared its name, and why.
    """

    name: str
    data: str
    odd: tuple[Odd, ...]
    concepts: tuple[str, ...]
    threshold: float
    left_out: tuple[tuple[str, str], ...]


def compare_fleet(
    entries: Sequence[Entry],
    common: ScanRequest,
    folder: Path,
    progress: Progress = no_progress,
) -> tuple[Task, ...]:
    """Show the bank to every model, once, and compare those of one task and clean set.

    Args:
        entries: The fleet.
        common: How models are opened where their entries say nothing else.
        folder: Where it is kept what each model makes of the bank.
        progress: Called as the models answer.
    """
    cache, groups = Cache(folder), dict[tuple[str, str], dict[str, ReferenceFlows]]()
    for number, entry in enumerate(entries, 1):
        request = entry.asked(common).request
        if entry.source is not None:
            heard = ReferenceFlows(entry.model.name, problem="it has to be fetched before")
        elif request.data is None:
            heard = ReferenceFlows(entry.model.name, problem="there are no clean images")
        else:
            heard = ask_one(request, cache)
        groups.setdefault((entry.task, str(request.data or "")), {})[entry.place] = heard
        progress("models shown the bank", number, len(entries))
    return tuple(_task(*names, heard) for names, heard in groups.items())


def _task(name: str, data: str, heard: Mapping[str, ReferenceFlows]) -> Task:
    left_out = {place: one.problem for place, one in heard.items() if one.problem}
    flows = dict[str, Flows]()
    for place, one in heard.items():
        if place in left_out:
            continue
        try:
            flows[place] = Flows.of(one)
        except ValueError as error:
            left_out[place] = str(error)
    first = next(iter(flows.values()), None)
    for place, own in list(flows.items()):
        if first is not None and not first.comparable(own):
            left_out[place] = "it has other classes than the first model of the task"
            del flows[place]
    if first is None or len(flows) < FEWEST:
        few = f"a task needs {FEWEST} models that can be compared, and has {len(flows)}"
        left_out |= dict.fromkeys(flows, few)
        return Task(name, data, (), (), 0.0, tuple(left_out.items()))
    odd = consensus(flows)
    threshold = load_calibration(len(flows) - 1).threshold
    return Task(name, data, odd, tuple(_told(odd, first)), threshold, tuple(left_out.items()))


def _told(odd: Sequence[Odd], flows: Flows) -> Iterator[str]:
    """Yield the change of each model, in words."""
    banks = {len(bank): bank for bank in map(concept_bank, (1, 3))}
    bank = banks[len(flows.shares) - 1]
    for one in odd:
        yield bank[one.concept].describe()
