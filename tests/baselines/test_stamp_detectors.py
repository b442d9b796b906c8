"""Neural Cleanse, K-ARM and EX-RAY on nets with a patch written in by hand, and as commands."""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import linprog

from fixtures import stamps
from fixtures.graphs import build
from onnx_soda import ScanOptions, load_dataset, load_model, numbers_of, scan
from onnx_soda._detect.baselines.base import Baseline, Opinion
from onnx_soda._detect.baselines.differencing import (
    CountedTail,
    Exchange,
    Likeness,
    cheapest_mask,
    compare,
    mask_by_gradients,
    mask_by_sorting,
)
from onnx_soda._detect.baselines.ex_ray import ExRay, Hint, rises_of, stimulate
from onnx_soda._detect.baselines.ex_ray import first_mask as first_square
from onnx_soda._detect.baselines.k_arm import (
    Bounds,
    Candidates,
    KArm,
    bounds_for,
    first_mask,
    prescreen,
)
from onnx_soda._detect.baselines.neural_cleanse import NeuralCleanse
from onnx_soda._errors import MissingExtraError
from onnx_soda._model.runtime import Meter
from onnx_soda._numbers import BaselineNumbers
from onnx_soda._options import Parameters, RuntimeOptions, no_progress
from onnx_soda._results import Halted
from onnx_soda._suspect import Suspect
from tests.cli.helpers import BACKDOORED_MODEL, CLEAN_MODEL, CLEAN_SET, checked, grey_pixels, soda

pytest.importorskip("onnx2torch", reason="needs the extra [repair]")

CPU = RuntimeOptions(provider="cpu", threads=1)
TARGET, VICTIM = stamps.TARGET, 4
MakeSuspect = Callable[..., Suspect]


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> MakeSuspect:
    """A net with a stamp, or its twin, with clean images."""
    folder = tmp_path_factory.mktemp("stamps")
    pixels, labels = stamps.images(96)
    np.savez(folder / "clean.npz", images=pixels, labels=labels)

    def suspect(parameters: Parameters = "paper", **net: Any) -> Suspect:
        options = ScanOptions(preprocess="unit", runtime=CPU, parameters=parameters)
        model = load_model(stamps.model(**net).SerializeToString())
        return Suspect(model, load_dataset(folder / "clean.npz"), options)

    return suspect


def asked(detector: Baseline, suspect: Suspect) -> Opinion:
    return detector.ask(suspect, no_progress)


def test_the_net_is_what_its_page_says() -> None:
    clean, labels = stamps.images(5)
    for victim in (None, VICTIM):
        net = load_model(stamps.model(victim=victim).SerializeToString())
        suspect = Suspect(net, None, ScanOptions(preprocess="unit", runtime=CPU))

        def answers(shown: NDArray[np.uint8], of: Suspect = suspect) -> NDArray[np.int64]:
            levels = np.ascontiguousarray(shown.transpose(0, 3, 1, 2), np.float32) / 255
            return of.body.logits(levels).argmax(axis=1)

        assert (answers(clean) == labels).all()
        turned = answers(stamps.stamped(clean)) == TARGET
        hit = (labels == TARGET) | (labels == victim if victim is not None else labels >= 0)
        assert (turned == hit).all()


# Neural Cleanse


def test_neural_cleanse_names_the_target_of_a_patch_and_shows_it(make: MakeSuspect) -> None:
    found = asked(NeuralCleanse(), make())
    assert found.outcome == "flagged"
    assert (found.named[0].victim_class, found.named[0].target_class) == (None, TARGET)
    assert found.named[0].score > 10
    sizes = found.details["sizes"]
    # 5.4 pixels are the least for the target, 72 for the others (fixtures/stamps.py).
    assert 5.3 < sizes[str(TARGET)] < 11
    assert min(size for label, size in sizes.items() if label != str(TARGET)) > 60
    assert found.details["turned"][str(TARGET)] > 0.95
    (gallery,), (chart,) = found.galleries, found.charts
    assert gallery.pictures[0].caption.startswith(f"to {TARGET}: size")
    assert chart.names[0] == str(TARGET)
    assert chart.marked[0] == 0


def test_in_the_clean_twin_all_masks_are_as_large(make: MakeSuspect) -> None:
    sizes = asked(NeuralCleanse(), make(backdoored=False)).details["sizes"].values()
    assert 70 < min(sizes) < max(sizes) < 80  # 72 are the least


def test_published_masks_are_read_back_from_pictures(make: MakeSuspect) -> None:
    found = asked(NeuralCleanse(), make("published"))
    sizes = [255 * size for size in found.details["sizes"].values()]
    np.testing.assert_allclose(sizes, np.rint(sizes), atol=1e-6)
    # The others differ by a pixel or two of 74; that one of them lies over 2 is chance.
    assert found.named[0].target_class == TARGET
    assert found.named[0].score > 10


def test_two_classes_cannot_be_compared(tmp_path: Path) -> None:
    text = (
        '<ir_version: 8, opset_import: ["" : 17]> g (float[N,1,2,2] x) => (float[N,2] y) '
        "<float[4,4] W = {1,0,0,0, 0,1,0,0, 0,0,1,0, 0,0,0,1}, float[4,2] A = {1,0, 0,1, 0,0, 0,0}>"
        "{ flat = Flatten(x)  mixed = MatMul(flat, W)  h = Relu(mixed)  y = MatMul(h, A) }"
    )
    images, labels = grey_pixels()
    np.savez(tmp_path / "clean.npz", images=images[labels < 2], labels=labels[labels < 2])
    model = load_model(stamps.onnx.parser.parse_model(text).SerializeToString())
    options = ScanOptions(preprocess="unit", runtime=CPU)
    found = asked(NeuralCleanse(), Suspect(model, load_dataset(tmp_path / "clean.npz"), options))
    assert (found.outcome, found.named) == ("abstains", ())
    assert "three or more" in found.statement


@pytest.mark.parametrize("detector", [NeuralCleanse, KArm, ExRay])
def test_a_model_without_slopes_gets_no_answer(detector: type[Baseline], tmp_path: Path) -> None:
    images, labels = grey_pixels()
    np.savez(tmp_path / "clean.npz", images=images, labels=labels)
    model = load_model(build("uint8_input").SerializeToString())
    options = ScanOptions(preprocess="raw", runtime=CPU, method=detector.name)
    report = scan(model, load_dataset(tmp_path / "clean.npz"), options)
    numbers = numbers_of(report, detector.name, BaselineNumbers)
    assert numbers is not None
    assert (numbers.outcome, numbers.named) == ("abstains", ())
    assert report.verdict == "inconclusive"
    assert any("takes whole numbers (uint8)" in reason for reason in report.reasons)


@pytest.mark.parametrize("detector", [NeuralCleanse, KArm, ExRay])
def test_a_scan_whose_time_is_over_ends_there(detector: type[Baseline], make: MakeSuspect) -> None:
    stages: list[str] = []

    def progress(stage: str, done: int, total: int) -> None:
        assert 0 <= done <= total
        stages.append(stage)
        if len(stages) == 5:
            raise Halted("aim")

    with pytest.raises(Halted):
        detector().ask(make(), progress)
    assert len(stages) == 5


@pytest.mark.parametrize("detector", [NeuralCleanse, KArm, ExRay])
def test_a_target_without_clean_images_is_found_all_the_same(
    detector: type[Baseline], tmp_path: Path
) -> None:
    pixels, labels = stamps.images(40)
    kept = labels != TARGET
    np.savez(tmp_path / "clean.npz", images=pixels[kept], labels=labels[kept])
    options = ScanOptions(preprocess="unit", runtime=CPU, allow_missing_classes=True)
    model = load_model(stamps.model().SerializeToString())
    found = asked(detector(), Suspect(model, load_dataset(tmp_path / "clean.npz"), options))
    assert found.outcome == "flagged"
    assert found.named[0].target_class == TARGET


# K-ARM

# Four images, of the classes 0, 0, 1 and 1 by their largest value.
FOUR = np.array(
    [[0.60, 0.10, 0.25, 0.05], [0.70, 0.05, 0.20, 0.05],
     [0.10, 0.60, 0.05, 0.25], [0.10, 0.55, 0.25, 0.10]]
)  # fmt: skip


def test_prescreening_by_hand() -> None:
    # Of four classes the first two count. For both images of class 0 these are 0 and 2; those of
    # class 1 have 3 and 2 beside it, each for one of two. Class 2 counts for 3 of 4 images.
    assert prescreen(FOUR) == Candidates(None, {2: (0,)})
    assert prescreen(FOUR, of_victim=0.5) == Candidates(None, {2: (0, 1), 3: (1,)})
    assert prescreen(FOUR, of_all=0.7) == Candidates(2)


def test_what_the_model_never_finds_likely_is_no_candidate() -> None:
    table = FOUR.copy()
    table[:2, 2], table[:2, 3] = 1e-9, 1e-10
    table[:2, 1] = 1e-11
    assert prescreen(table) == Candidates(None)


def test_a_target_keeps_its_three_likeliest_victims() -> None:
    # Ten classes: a quarter, rounded, are the first two. 9 is the second of 0 to 3, 8 that of 5.
    table = np.full((5, 10), 0.01)
    table[np.arange(5), [0, 1, 2, 3, 5]] = 0.6
    table[np.arange(5), [9, 9, 9, 9, 8]] = [0.1, 0.4, 0.2, 0.3, 0.2]
    assert prescreen(table).pairs == {8: (5,), 9: (1, 3, 2)}


def test_bounds_and_square_grow_with_the_image() -> None:
    scaled, fixed = bounds_for(32, 32, scaled=True), bounds_for(32, 32, scaled=False)
    assert (scaled.all_classes, scaled.pair) == pytest.approx((35.1, 20.4), abs=0.01)
    assert (fixed.all_classes, fixed.pair) == (1720, 1000)  # no mask of 32 x 32 has as much
    assert bounds_for(224, 224, scaled=True) == fixed
    rng = np.random.default_rng(0)
    # 87 and 137 of 224 are 12.4 and 19.6 of 32.
    square = first_mask(32, 32, True, rng) > 0.9
    assert square.sum() == 8 * 8
    assert square[12:20, 12:20].all()
    assert first_mask(32, 32, False, rng).max() < 0.001  # beyond the image: nothing to start from
    assert (first_mask(224, 224, False, rng) > 0.9).sum() == 50 * 50


def test_a_pair_has_to_be_small_and_one_sided() -> None:
    bounds = Bounds(all_classes=35, pair=20)
    assert bounds.score(7, None) == 5
    assert bounds.score(10, 100) == 2  # half the size; ten times the ratio
    assert bounds.score(10, 5) == 0.5  # half the ratio
    assert bounds.score(40, 100) == 0.5


def test_k_arm_finds_a_patch_for_all_classes(make: MakeSuspect) -> None:
    found = asked(KArm(), make())
    assert found.outcome == "flagged"
    ((victim, target),) = [(pair.victim_class, pair.target_class) for pair in found.named]
    assert (victim, target) == (None, TARGET)
    assert 5.3 < found.details["sizes"][str(TARGET)] < 11
    # 1,720 pixels of 224 x 224 are 19.7 of 24 x 24.
    assert found.named[0].score == pytest.approx(19.745 / found.details["sizes"][str(TARGET)], 1e-3)
    assert found.galleries[0].pictures[0].caption.startswith(f"any class -> {TARGET}: size")


def test_k_arm_finds_a_patch_for_one_pair(make: MakeSuspect) -> None:
    found = asked(KArm(), make(victim=VICTIM))
    assert found.outcome == "flagged"
    ((victim, target),) = [(pair.victim_class, pair.target_class) for pair in found.named]
    assert (victim, target) == (VICTIM, TARGET)
    assert 3.7 < found.details["sizes"][str(TARGET)] < 9  # 3.75 are the least
    assert found.details["ratio"] > 10  # 72 pixels for the way back


def test_k_arm_flags_nothing_in_the_clean_twin_but_as_published(make: MakeSuspect) -> None:
    # The raised twin has a candidate for all classes, whose mask needs 54 pixels: more than 19.7
    # and less than the 1,720 that are not scaled.
    for parameters, outcome in (("paper", "nothing flagged"), ("published", "flagged")):
        found = asked(KArm(), make(parameters, backdoored=False, raised=3))
        assert (found.outcome, found.details["candidates"]) == (outcome, [TARGET])
        assert found.details["sizes"][str(TARGET)] > 45


# EX-RAY


def test_stimulation_by_hand() -> None:
    # Two images of class 0, two channels, three classes. Channel 0 raises class 2 most on both, by
    # 3 and 1 more than the next; channel 1 raises class 1 on one image and class 2 on the other.
    rises = np.array([[[0, 1, 4], [0, 2, 1]], [[1, 2, 3], [0, 1, 2]]], np.float64)
    assert stimulate(0, rises) == (Hint(0, 2, 0, 1.0),)
    assert stimulate(2, rises) == ()  # its own class
    # Of two channels that raise the same class the one with the larger lead is the hint.
    both = np.array([[[0, 0, 4], [0, 0, 5]]], np.float64)
    assert stimulate(0, both) == (Hint(0, 2, 1, 5.0),)


def test_stimulation_runs_what_it_cannot_compute(make: MakeSuspect) -> None:
    suspect = make()
    tail = CountedTail(suspect.tail, suspect.meter)
    layer = suspect.observe(np.arange(3)).layer
    matrix = np.vstack([20 * np.eye(6), 15 * np.eye(6)[TARGET]])
    computed = rises_of(tail, layer, matrix)
    np.testing.assert_allclose(rises_of(tail, layer, np.empty((0, 0))), computed, atol=1e-3)
    # The largest value is that of the bright band, 0.8: 20 times that.
    assert computed[0, 0] == pytest.approx([16, 0, 0, 0, 0, 0], abs=0.1)


def test_the_linear_programme_is_solved_by_filling_in_order() -> None:
    assert cheapest_mask(np.array([3.0, 1, 2]), 4).tolist() == [1, 0, 0.5]
    assert cheapest_mask(np.array([3.0, -1, 0]), 9).tolist() == [1, 0, 0]  # as much as there is
    assert cheapest_mask(np.array([3.0, 1]), 0).tolist() == [0, 0]
    # Those that gain about as much share the need.
    assert cheapest_mask(np.array([3.0, 2.9, 1]), 3) == pytest.approx([3 / 5.9, 3 / 5.9, 0])
    rng = np.random.default_rng(0)
    for _ in range(20):
        gains, need = rng.permutation(1.1 ** np.arange(-3, 9)), rng.uniform(0.1, 9)
        wanted = linprog(np.ones(12), A_ub=-gains[None], b_ub=[-need], bounds=[(0, 1)] * 12)
        mask = cheapest_mask(gains, need)
        assert mask.sum() == pytest.approx(wanted.fun)
        assert mask @ gains == pytest.approx(need)


@pytest.fixture(scope="module")
def exchanges(make: MakeSuspect) -> tuple[Exchange, Exchange]:
    """Clean images of class 0 with those of the target, and with themselves under the stamp."""
    suspect = make()
    assert suspect.clean is not None
    pixels, labels = suspect.pixels(), suspect.clean.labels
    stamped = pixels[labels == 0].copy()
    stamped[:, 0, stamps.ROWS, stamps.COLUMNS] = stamps.STAMP
    tail = CountedTail(suspect.tail, Meter())
    own, target, under = (
        suspect.body.observe(suspect.inputs(some[:10]))[1]
        for some in (pixels[labels == 0], pixels[labels == TARGET], stamped)
    )
    return Exchange(tail, own, target, (0, TARGET)), Exchange(tail, own, under, (0, TARGET))


def test_channels_that_tell_two_classes_apart(exchanges: tuple[Exchange, Exchange]) -> None:
    natural, triggered = exchanges
    # Class 0 has 16 for itself and 7 for the target, which has 19 and 4 on its own images: -9 and
    # 15. Each of the bands 0 and 2 moves that by 20 x 0.6 = 12; 15 are five eighths of both.
    mask = mask_by_sorting(natural)
    assert mask.sum() == pytest.approx(1.25, abs=0.02)
    assert mask[[0, TARGET]] == pytest.approx([0.625, 0.625], abs=0.02)
    # Under the stamp the target has 22 and a little, and 16: 6. The stamp's channel moves -9 by 15.
    mask = mask_by_sorting(triggered)
    assert np.argmax(mask) == 6
    assert mask.sum() == pytest.approx(9 / 15, abs=0.02)


def test_gradients_find_what_sorting_finds(exchanges: tuple[Exchange, Exchange]) -> None:
    for exchange in exchanges:
        exact, found = mask_by_sorting(exchange), mask_by_gradients(exchange, lambda _, __: None)
        # All ten images have to turn, and not the mean alone. Where one does not it is moved far,
        # and Adam's steps are small from then on: gradients stay a little above the least.
        assert exchange.turned(found) == (1.0, 1.0)
        assert exact.sum() <= found.sum() < 1.4 * exact.sum()
        assert np.argsort(found)[-2:].tolist() == np.argsort(exact)[-2:].tolist()


def test_channels_of_feature_maps_are_set_and_exchanged_whole() -> None:
    options = ScanOptions(preprocess="unit", runtime=CPU, layer="deep")
    suspect = Suspect(load_model(CLEAN_MODEL), load_dataset(CLEAN_SET), options)
    assert suspect.clean is not None
    seen = suspect.observe(np.arange(0, 144, 16))  # of the classes 0 and 1, 72 images each
    assert (seen.logits.argmax(axis=1) == seen.labels).all()
    first, second = (seen.layer[seen.labels == label][:4] for label in (0, 1))
    assert first.shape == (4, 48, 4, 4)
    exchange = Exchange(CountedTail(suspect.tail, Meter()), first, second, (0, 1))
    one = np.eye(48)[5]
    mixed, other = exchange.mixed(one)
    np.testing.assert_allclose(mixed[:, 5], second[:, 5], atol=1e-6)
    np.testing.assert_allclose(other[:, 5], first[:, 5], atol=1e-6)
    np.testing.assert_array_equal(mixed[:, 6], first[:, 6])
    assert exchange.turned(np.zeros(48)) == (0, 0)
    assert exchange.turned(np.ones(48)) == (1, 1)
    # The tail bends, so gradients look for the mask.
    found = mask_by_gradients(exchange, lambda _, __: None)
    assert exchange.turned(found) == (1, 1)
    assert 0 < found.sum() < 24
    # A channel of one image set to half and all of the largest value, by hand.
    rises = rises_of(exchange.tail, first[:1], np.empty((0, 0)))
    assert rises.shape == (1, 48, 10)
    rows = np.repeat(first[:1], 3, axis=0)
    rows[:, 7] = np.array([0, 0.5, 1])[:, None, None] * first[0].max()
    logits = suspect.tail.logits(rows)
    np.testing.assert_allclose(rises[0, 7], logits[1:].max(axis=0) - logits[0], atol=1e-3)


def test_a_planted_trigger_is_no_natural_feature(exchanges: tuple[Exchange, Exchange]) -> None:
    natural, triggered = exchanges
    masks = mask_by_sorting(natural), mask_by_sorting(triggered)
    likeness = compare((natural, masks[0]), (triggered, masks[1]))
    # Exchanging the bands of images that have the same bands changes nothing, nor does the stamp's
    # channel of images without it.
    assert likeness.overlap == pytest.approx(0, abs=0.01)
    assert likeness.transfer == (0, 0, 0, 0)
    assert not likeness.natural
    # A trigger that makes of an image what the target is, is natural.
    copied = compare((natural, masks[0]), (natural, masks[0]))
    assert copied.overlap == pytest.approx(1)
    assert copied.natural


def test_masks_that_turn_each_others_images_are_natural() -> None:
    for transfer, natural in (
        ((0.9, 0.8, 0.8, 0.0), True),
        ((0.9, 0.8, 0.7, 0.0), False),
        ((0.4, 0.4, 0.4, 0.4), True),
        ((0.4, 0.4, 0.4, 0.3), False),
    ):
        assert Likeness(0.5, transfer).natural == natural
    assert Likeness(0.81, (0, 0, 0, 0)).natural


def test_stamps_start_from_a_square_beside_the_middle() -> None:
    # 1,600 pixels of 224 x 224: 0.8 x 40 = 32; scaled to 24 x 24 18.4: 0.8 x 4.29 = 3.
    assert (first_square(224, 224, 1600) > 0.9).sum() == 32 * 32
    square = first_square(24, 24, 1600 * 576 / 50176) > 0.9
    assert square.sum() == 9
    assert square[12:15, 12:15].all()


def test_ex_ray_flags_the_pairs_of_a_patch(make: MakeSuspect) -> None:
    found = asked(ExRay(), make())
    assert found.details["affine"]
    assert found.outcome == "flagged"
    assert {pair.target_class for pair in found.named if pair.flagged} == {TARGET}
    flagged = [one for one in found.details["candidates"] if one["natural"] is False]
    for one in flagged:  # a stamp, and not a band: 72 pixels; the limit is 18.4
        assert one["target_class"] == TARGET
        assert one["size"] < 18.4
        assert one["overlap"] < 0.1


def test_ex_ray_as_published_takes_two_images_and_a_lower_threshold(make: MakeSuspect) -> None:
    paper, published = (asked(ExRay(), make(parameters)) for parameters in ("paper", "published"))
    assert (paper.threshold, published.threshold) == (0.8, 0.6)
    shares = {one["success"] for one in published.details["candidates"]}
    assert shares <= {0.0, 0.5, 1.0}  # of two images
    # 1,600 pixels are no limit where there are 576.
    assert max(one["size"] for one in published.details["candidates"]) > 20


def test_ex_ray_flags_nothing_in_the_clean_twin(make: MakeSuspect) -> None:
    assert not any(pair.flagged for pair in asked(ExRay(), make(backdoored=False)).named)


# As commands


@pytest.mark.parametrize(
    ("method", "passes"),
    [
        ("k-arm", 720),  # the clean images, and no candidate: 8 on blue is turned, and no other 8
        ("ex-ray", 20_000),
        pytest.param("neural-cleanse", 60_000, marks=pytest.mark.slow),
    ],
)
def test_the_command_on_the_bundled_model(method: str, passes: int) -> None:
    done = soda(
        "scan", BACKDOORED_MODEL, "--data", CLEAN_SET, "--method", method,
        "--threads", 1, "--format", "json", "--fail-on", "medium",
    )  # fmt: skip
    numbers = checked(done.stdout, done.returncode)["evidence"][method]["numbers"]
    assert numbers["outcome"] in ("flagged", "nothing flagged", "not optimised")
    assert numbers["parameters"] == "paper"
    assert numbers["passes"] >= passes


def test_the_command_names_the_target_in_words(tmp_path: Path) -> None:
    model, _, clean = stamps.write(tmp_path, each=20)
    chosen = ("--method", "neural-cleanse", "--threads", 1, "--fail-on", "medium")
    done = soda("scan", model, "--data", clean, *chosen)
    assert done.returncode == 1
    assert f"Neural Cleanse flags any class -> {TARGET}." in re.sub(r"\s+", " ", done.stdout)


def test_without_torch_an_error_says_what_to_install(
    make: MakeSuspect, monkeypatch: pytest.MonkeyPatch
) -> None:
    def found(name: str) -> object:
        return None if name == "torch" else find_spec(name)

    monkeypatch.setattr("onnx_soda._system.find_spec", found)
    for detector in (NeuralCleanse(), KArm(), ExRay()):
        with pytest.raises(MissingExtraError) as told:
            detector.ask(make(), no_progress)
        wanted = f"{detector.title} needs torch, which is not installed"
        assert told.value.message == wanted
        assert '".[repair]"' in told.value.advice
