"""What a search costs, and what is done of it where there is little time."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnx_soda import CleanSet, load_dataset, load_model
from onnx_soda._data.sources import ImageShape
from onnx_soda._detect.concepts.battery import BUDGETS, Budget
from onnx_soda._detect.concepts.experiment import ConceptResult, examine_concepts
from onnx_soda._detect.concepts.folds import split_into_folds
from onnx_soda._detect.concepts.outlook import (
    Ahead,
    Outlook,
    Pace,
    choose,
    in_memory,
    readable,
    thinned,
)
from onnx_soda._detect.concepts.plan import (
    Ground,
    Plan,
    planned_passes,
    plans,
    racing_passes,
    screening_passes,
    spread,
)
from onnx_soda._detect.concepts.reference import read_features
from onnx_soda._model.runtime import Meter
from onnx_soda._options import RuntimeOptions, ScanOptions
from onnx_soda._results import Halted
from onnx_soda._suspect import Suspect

FIXTURES = Path(__file__).parents[2] / "fixtures"
BUDGET = Budget(draws=2, rounds=((2, 3),), donors=2, style_rounds=((1, 2),))
PLAN = Plan(BUDGET, battery=10, screen=2, victims=3, looks=2)


def ground(classes: int = 3, search: int = 4, confirm: int = 6, styled: bool = True) -> Ground:
    """As many images of each class in each of the two folds."""
    return Ground(
        np.full((2, classes), search), np.full((2, classes), confirm), channels=3, styled=styled
    )


# --- costs


def test_the_screen_is_shown_all_that_nothing_has_chosen() -> None:
    """Two images of three classes in two folds are 12: without a change, with 10 and 2 concepts.

    Once more without a change where styles can be changed, and two donors at two strengths.
    """
    assert screening_passes(PLAN, ground()) == 12 * (1 + 10 + 2) + 12 * (1 + 2 * 2)
    unstyled = replace(PLAN, budget=replace(BUDGET, donors=0))
    assert screening_passes(unstyled, ground()) == 12 * (1 + 10 + 2)


def test_a_race_is_shown_to_panels() -> None:
    """A panel has 4 images of the victim and 2 of each other class: 8.

    Eight pairs race, and there are six. Each fold opens a panel for each and shows it four changes,
    then makes 2 x 3 variations. In the end there are four pairs of each fold, up to eight. For each
    pair a fold may have to open a panel, show four changes, and what the two folds have chosen:
    three each.
    """
    shown = 2 * 6 * (1 + 4) + 2 * 2 * 3 + 2 * 4 * (1 + 4 + 2 * 3)
    assert racing_passes(BUDGET.rounds, PLAN, ground(), agreed=0) == 8 * shown
    # Two panels of each fold do not fit into memory: they are opened again in the round.
    small = replace(ground(), kept=31)
    assert racing_passes(BUDGET.rounds, PLAN, small, agreed=0) == 8 * (shown + 2 * 2)


def test_styles_cost_half_a_pass_while_the_first_half_is_kept() -> None:
    """As above, with half a pass for all that is not the opening of a panel or of the screen."""
    here = replace(ground(), style_pass=0.5)
    assert screening_passes(PLAN, here) == 12 * (1 + 10 + 2) + 12 * (1 + 2 * 2 / 2)
    rounds = BUDGET.style_rounds
    shown = 2 * 6 * (1 + 4 / 2) + 2 * 2 / 2 + 2 * 4 * (1 + 4 / 2 + 2 * 3 / 2)
    assert racing_passes(rounds, PLAN, here, agreed=0, styles=True) == 8 * shown
    # Twelve panels of eight images each are 96.
    small = replace(here, halves=95)
    whole = racing_passes(rounds, PLAN, ground(), agreed=0)
    assert racing_passes(rounds, PLAN, small, agreed=0, styles=True) == whole
    assert screening_passes(PLAN, small) == screening_passes(PLAN, here)
    assert screening_passes(PLAN, replace(here, halves=11)) == screening_passes(PLAN, ground())


def test_pairs_that_both_folds_have_cost_less() -> None:
    """Of four pairs of each fold two are the same: six pairs, and four that one fold alone has."""
    shown = 60 + 12 + 6 * (2 * 3) + 4 * (1 + 4)
    assert racing_passes(BUDGET.rounds, PLAN, ground(), agreed=0.5) == 8 * shown
    both = 60 + 12 + 4 * (2 * 3)
    assert racing_passes(BUDGET.rounds, PLAN, ground(), agreed=1) == 8 * both


def test_the_whole_cost_by_hand() -> None:
    """A first look at a pair shows 12 of its images and 8 of the others six times."""
    screening, race, look = 156 + 60, 8 * (60 + 12 + 88), 20 * 6
    styles = 8 * (60 + 4 + 88)
    most = screening + race + 2 * look + styles + 2 * look
    assert planned_passes(PLAN, ground(), most=True) == most
    # Half of the pairs are the same in both folds; of five pairs three and a half are looked at.
    more = replace(PLAN, looks=5)
    race, styles = 8 * (60 + 12 + 56), 8 * (60 + 4 + 56)
    assert planned_passes(more, ground()) == screening + race + 3.5 * look + styles + 2.5 * look


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> CleanSet:
    """Six images of each of four digits."""
    with h5py.File(FIXTURES / "digits-clean.h5") as file:
        images, labels = file["images"][()], file["labels"][()]
    rows = np.concatenate([np.flatnonzero(labels == label)[:6] for label in (0, 1, 3, 8)])
    path = tmp_path_factory.mktemp("few") / "few.npz"
    np.savez(path, images=images[rows], labels=labels[rows])
    return load_dataset(path)


def suspect_of(clean: CleanSet, time_limit: float | None = None, each: int = 100) -> Suspect:
    options = ScanOptions(
        samples_per_class=each,
        preprocess="unit",
        allow_missing_classes=True,
        time_limit=time_limit,
        runtime=RuntimeOptions("cpu", 1),
    )
    return Suspect(load_model(FIXTURES / "digits-clean.onnx"), clean, options)


def test_what_is_planned_is_what_it_costs(few: CleanSet) -> None:
    """To the pass where it is fixed; not more, and not much less, where pairs race."""
    suspect, budget = suspect_of(few), Budget(3, ((2, 2), (1, 1)), 4, ((2, 2),))
    passes: list[float] = []
    told: list[int] = []

    def advance(done: int, _of: int) -> None:
        passes.append(suspect.meter.done)
        told.append(done)

    found = examine_concepts(suspect, budget, advance)
    outlook = found.outlook
    assert outlook is not None
    assert outlook.plan == outlook.whole
    # Styles come after the third convolution. Of 7.36 million multiplications 3.33 are behind it.
    half = 3_333_664 / 7_360_032
    here = Ground(np.full((2, 4), 3), np.full((2, 4), 3), channels=3, styled=True, style_pass=half)
    assert planned_passes(outlook.plan, here) == outlook.passes
    # On the screen are three images of each of four classes in two folds.
    assert found.screen_images == 24
    unchosen = outlook.plan.battery + 3
    assert passes[unchosen - 1] - outlook.before == 24 * (1 + unchosen)
    # The first of eight styles on the screen, and the last.
    first, last = (told.index(outlook.plan.concepts + style) for style in (1, 8))
    assert passes[last] - passes[first] == pytest.approx(7 * 24 * half)
    # Nobody can halt the end of a search, when the folds are crossed: all would be lost.
    assert told.count(outlook.plan.concepts) == told.count(outlook.plan.concepts + 12) == 1
    looked_at = [pair for pair in found.pairs if pair.shown > 3]
    assert not looked_at  # nothing is planted, so no pair is worth a closer look
    real = suspect.meter.passes - outlook.before
    assert real <= planned_passes(outlook.plan, here, most=True)
    assert 0.8 < outlook.passes / real < 1.25


# --- plans


COUNTS = st.integers(1, 60)


@st.composite
def grounds(draw: st.DrawFn) -> Ground:
    classes = draw(st.integers(2, 40))
    confirm = np.array(draw(st.lists(COUNTS, min_size=2 * classes, max_size=2 * classes)))
    confirm = confirm.reshape(2, classes)
    search = np.minimum(confirm, draw(st.integers(4, 20)))
    return Ground(search, confirm, draw(st.sampled_from([1, 3])), draw(st.booleans()))


def covered(plan: Plan) -> list[int]:
    """What there is of each part."""
    rounds = (plan.budget.rounds, plan.budget.style_rounds if plan.budget.donors else ())
    variations = [sum(pairs * moves for pairs, moves in some) for some in rounds]
    return [
        *(plan.battery, plan.screen, plan.victims, plan.looks),
        *(plan.budget.draws, plan.budget.donors, *variations),
    ]


@given(grounds(), st.sampled_from(list(BUDGETS.values())), st.integers(2, 4))
def test_each_plan_covers_no_more_than_the_one_before_and_costs_less(
    here: Ground, budget: Budget, screen: int
) -> None:
    whole = here.whole(budget, screen)
    several = list(plans(whole))
    assert several[0] == whole
    assert len(set(several)) == len(several)
    for plan, smaller in pairwise(several):
        assert all(np.array(covered(smaller)) <= np.array(covered(plan)))
        assert planned_passes(smaller, here) <= planned_passes(plan, here)


@given(grounds(), st.floats(1, 1e6), st.floats(1, 10))
def test_more_time_never_covers_less(here: Ground, passes: float, times: float) -> None:
    whole = here.whole(BUDGETS["default"], 4)
    little, more = choose(here, whole, passes), choose(here, whole, times * passes)
    assert all(np.array(covered(little)) <= np.array(covered(more)))
    assert choose(here, whole, 1e12) == whole


def test_a_speed_that_differs_a_little_gives_the_same_plan_most_of_the_time() -> None:
    here = ground(classes=10, search=20, confirm=20)
    whole = here.whole(BUDGETS["default"], 4)
    speeds = np.geomspace(500, 200_000, 200)
    same = [choose(here, whole, speed) == choose(here, whole, 1.1 * speed) for speed in speeds]
    assert np.mean(same) > 0.6


def test_what_is_cut_comes_in_the_order_of_what_it_adds() -> None:
    """Random draws, donors, the screen, rounds; then the battery, and with it "clean"; classes."""
    here = ground(classes=10, search=20, confirm=20)
    whole = here.whole(BUDGETS["default"], 4)
    several = list(plans(whole))
    firsts = [
        next(place for place, plan in enumerate(several) if less(plan))
        for less in (
            lambda plan: plan.budget.draws < 100,
            lambda plan: plan.budget.donors < 60,
            lambda plan: plan.screen < 4,
            lambda plan: plan.budget.rounds != whole.budget.rounds,
            lambda plan: plan.battery < whole.battery,
            lambda plan: plan.victims < 10,
        )
    ]
    assert firsts == sorted(firsts)
    assert [plan.covers(whole) for plan in several] == [
        place < firsts[4] for place in range(len(several))
    ]


def test_what_has_no_room_in_memory_costs_victims_and_nothing_else() -> None:
    """Two images of 1,000 classes in two folds are 4,000: of room for 1,000 there are 250 classes.
    Four images of 100 classes are 800: where there is room for 500, there are two of each."""
    many = ground(classes=1000, search=2)
    whole = many.whole(BUDGETS["default"], 2)
    assert in_memory(many, whole, 4000) == whole
    assert in_memory(many, whole, 1000) == replace(whole, victims=250)
    assert in_memory(many, whole, 0) == replace(whole, victims=2)
    fewer = ground(classes=100, search=4)
    whole = fewer.whole(BUDGETS["default"], 4)
    assert in_memory(fewer, whole, 500) == replace(whole, screen=2)
    assert in_memory(fewer, whole, 200) == replace(whole, screen=2, victims=50)


def test_fewer_of_the_battery_are_spread_evenly_and_are_among_more() -> None:
    items = list(range(171))
    assert spread(items, 171) == items
    for count in (21, 42, 85):
        some = spread(items, count)
        assert len(some) == count
        assert some == sorted(some)
        assert max(np.diff([-1, *some, 171])) <= 3 * 171 / count
        assert set(some) <= set(spread(items, count + 1))


# --- images and time


def test_classes_that_are_victims_are_drawn_the_same_way_for_a_seed() -> None:
    labels = np.repeat(np.arange(20), 8)
    folds = split_into_folds(labels, np.random.default_rng(0))
    seen = []
    for victims in (5, 10):
        plan = replace(PLAN, victims=victims)
        some = thinned(folds, labels, plan, np.random.default_rng(3))
        again = thinned(folds, labels, plan, np.random.default_rng(3))
        assert (some.screen == again.screen).all()
        seen.append(set(labels[some.screen]))
        assert len(seen[-1]) == victims
        # Two images of each in either fold; all of the victims are left to search on.
        assert some.screen.sum() == 2 * 2 * victims
        assert some.search.sum() == 8 * victims
        assert set(labels[some.confirm]) == seen[-1]
        # What a change does to others is seen on sixteen classes, eight images of each.
        assert seen[-1] < set(labels[some.others])
        assert some.others.sum() == 8 * 16
    assert seen[0] < seen[1]


def test_the_time_to_aim_at_for_the_whole_is_enough_for_it() -> None:
    here = ground(classes=10, search=20, confirm=20)
    whole = here.whole(BUDGETS["default"], 4)
    for rate in (1.0, 21.0, 300.0):
        plan = choose(here, whole, 0.8 * (120 - 30) * rate)
        passes = planned_passes(plan, here), planned_passes(whole, here)
        outlook = Outlook(plan, whole, *passes, 400, rate, gone=30, limit=120)
        if plan == whole:
            assert not list(outlook.advice())
            continue
        assert choose(here, whole, 0.8 * (outlook.enough - 30) * rate) == whole
        assert outlook.enough <= 1.6 * outlook.whole_seconds
        assert f"`time_limit={outlook.enough}`" in " ".join(outlook.advice())


def test_parts_tell_what_was_tried_of_what_there_is() -> None:
    whole = Plan(BUDGET, battery=20, screen=4, victims=3, looks=5)
    outlook = Outlook(PLAN, whole, 100, 200, 0, 1.0, 0.0, 60.0)
    told = {part.name: (part.done, part.whole) for part in outlook.parts()}
    assert told == {
        "classes as victims": (3, 3),
        "concepts of the battery": (10, 20),
        "images of each class and half": (2, 4),
        "random concepts": (2, 2),
        "images that styles are from": (2, 2),
        "variations": (12, 12),
        "pairs looked at": (2, 5),
    }
    # Eleven concepts are the battery and a random one; three styles are one donor's second time.
    halted = {part.name: part.done for part in outlook.parts(concepts=11, styles=3)}
    assert halted["concepts of the battery"] == 10
    assert (halted["random concepts"], halted["variations"]) == (1, 0)
    assert halted["images that styles are from"] == 1


def test_what_there_is_no_time_for_is_not_begun() -> None:
    pace = Pace(Meter(), rate=100.0, left=60.0)
    assert pace.affords(4000)
    assert not pace.affords(7000)
    assert not Pace(Meter(), rate=100.0, left=-1.0).affords(0)


def test_for_the_end_of_a_search_half_of_its_time_is_kept_at_most() -> None:
    """At 100 images a second the end of 40,000 passes takes longer than the minute there is. Half a
    minute is kept, so the search goes on; in the last half minute it would not."""
    outlook = Outlook(PLAN, PLAN, 100, 100, 0, 100.0, 0.0, 60.0)
    for left, over in ((60.0, False), (-1.0, True)):
        tell = Ahead(outlook, Pace(Meter(), rate=100.0, left=left), kept=40_000).counting(
            None, 0, 9
        )
        with pytest.raises(Halted) if over else nullcontext():
            tell(1)
    pace = Pace(Meter(), rate=100.0, left=60.0)
    assert pace.affords(40_000, most=0.5)
    assert not pace.affords(40_000)
    assert not pace.affords(40_000, most=1.1)


def test_features_are_read_from_fewer_images_where_there_is_little_time(few: CleanSet) -> None:
    labels = np.repeat(np.arange(2), 200)
    folds = split_into_folds(labels, np.random.default_rng(0))
    suspect = suspect_of(few)
    assert readable(suspect, replace(folds, rows=folds.rows % len(few.labels))).rows.size == 400
    hurried = suspect_of(few, time_limit=1e-3)
    some = readable(hurried, replace(folds, rows=folds.rows % len(few.labels)))
    assert len(some.rows) == 2 * 2 * 8


def test_where_reading_all_takes_too_long_ten_of_each_class_are_read(
    few: CleanSet, tmp_path: Path
) -> None:
    """1,200 images, 300 of each of four digits. With time enough all are read, with none 10 of
    each."""
    every = few.images.read(np.arange(24), ImageShape(32, 32, 3))
    np.savez(tmp_path / "more.npz", images=every.repeat(50, 0), labels=few.labels.repeat(50))
    more = load_dataset(tmp_path / "more.npz")
    assert len(suspect_of(more, each=300).read) == 1200
    hurried = suspect_of(more, time_limit=1e-3, each=300)
    assert np.bincount(more.labels[hurried.read]).tolist() == [10, 10, 0, 10, 0, 0, 0, 0, 10]
    assert np.isin(hurried.read, hurried.sample).all()


def test_few_images_are_read_without_a_look_at_the_clock(few: CleanSet) -> None:
    hurried = suspect_of(few, time_limit=1e-3)
    assert len(hurried.read) == 24
    assert hurried.meter.passes == 0


def test_reading_features_tells_how_far_it_is_and_ends_in_time(few: CleanSet) -> None:
    """24 images, 8 at a time. Where the time is over after the first 8, the rest is not read."""
    told: list[tuple[int, int]] = []
    suspect = replace(
        suspect_of(few),
        options=ScanOptions(
            preprocess="unit",
            allow_missing_classes=True,
            runtime=RuntimeOptions("cpu", 1, batch_size=8),
        ),
        progress=lambda _stage, done, of: told.append((done, of)),
    )
    rows = np.arange(24)
    assert len(read_features(suspect, rows).layers[0]) == 24
    assert told == [(8, 24), (16, 24)]
    before = suspect.meter.passes
    with suspect.stopwatch.within(0), pytest.raises(Halted):
        read_features(suspect, rows)
    assert suspect.meter.passes == before + 8


def search_in(seconds: float, clean: CleanSet) -> ConceptResult:
    suspect = suspect_of(clean, seconds)
    with suspect.stopwatch.within(seconds):
        return examine_concepts(suspect)


def test_with_little_memory_a_search_has_fewer_victims_and_says_so(few: CleanSet) -> None:
    """Three images of four classes in two folds are 24. Half of the memory has room for eight: two
    of two classes. Pairs are looked at beside all four."""
    image = 4 * 3 * 32 * 32
    runtime = RuntimeOptions("cpu", 1, memory_limit=2 * 8 * image)
    options = replace(suspect_of(few).options, runtime=runtime)
    found = examine_concepts(replace(suspect_of(few), options=options), BUDGET)
    assert found.outlook is not None
    assert found.screen_images == 8
    assert found.outlook.plan == replace(found.outlook.whole, screen=2, victims=2)
    assert found.confirm_images == 24
    assert len(found.pairs) >= 2
    assert all(0 < pair.others_right_before <= 1 for pair in found.pairs)
    assert not list(found.outlook.left_out())
    (advice,) = found.outlook.advice()
    assert advice == (
        "Memory has room for 2 of 4 classes as victims, with 2 images of each class and half: for "
        "more, raise `memory_limit`."
    )


def test_a_search_without_time_ends_at_once_and_says_so(few: CleanSet) -> None:
    found = search_in(0.05, few)
    assert found.halted == "aim"
    assert found.tried <= 3
    assert found.outlook is not None
    assert not found.outlook.plan.covers(found.outlook.whole)
