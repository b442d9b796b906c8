"""Stamps that are optimised: the cost, a known smallest mask, and the suspect in torch."""

from __future__ import annotations

import json
from math import inf
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from fixtures.graphs import build
from onnx_soda import ScanOptions, load_dataset, load_model
from onnx_soda._errors import ConversionError
from onnx_soda._options import RuntimeOptions
from onnx_soda._suspect import Suspect

torch = pytest.importorskip("torch", reason="needs the extra [repair]")
pytest.importorskip("onnx2torch", reason="needs the extra [repair]")

from onnx_soda._detect.baselines.gradients import SlopedSuspect  # noqa: E402
from onnx_soda._detect.baselines.inversion import (  # noqa: E402
    Arm,
    BoundedArm,
    Course,
    Recipe,
    Stamp,
    gallery,
    invert,
)

FIXTURES = Path(__file__).parents[2] / "fixtures"
CPU = RuntimeOptions(provider="cpu", threads=1)


def costs(course: Course, success: float, steps: int) -> list[float]:
    """Return the cost after each of some steps that went alike."""
    found = []
    for _ in range(steps):
        course.take(success, 1.0)
        found.append(course.cost)
    return found


def test_the_cost_waits_for_five_good_steps_and_then_doubles_after_five() -> None:
    # The fifth good step sets it, and is the first of the next five.
    course = Course(Recipe(stop_after=None))
    assert costs(course, 1.0, 14) == [0.0] * 4 + [0.001] * 4 + [0.002] * 5 + [0.004]
    # It falls by 2^1.5 after five bad ones: 0.004 / 2.8284.
    assert costs(course, 0.5, 5)[-2:] == pytest.approx([0.004, 0.004 / 2**1.5])


def test_a_bad_step_begins_the_count_anew() -> None:
    course = Course(Recipe(stop_after=None))
    assert costs(course, 1.0, 4) == [0.0] * 4
    assert costs(course, 0.98, 1) == [0.0]  # 0.99 counts as success
    assert costs(course, 0.99, 5) == [0.0] * 4 + [0.001]


def test_the_smallest_mask_that_works_counts() -> None:
    course = Course(Recipe(success=0.9))
    assert not course.take(0.8, 1.0)
    assert course.size == inf
    assert course.take(0.9, 5.0)
    assert not course.take(1.0, 5.0)
    assert course.take(1.0, 4.0)
    assert not course.take(0.1, 0.5)
    assert (course.size, course.improvements, course.steps, course.highest) == (4.0, 2, 5, 1.0)


def test_it_ends_where_the_cost_went_both_ways_and_the_mask_stays() -> None:
    course = Course(Recipe(good_steps=1, patience=2, stop_after=3))
    costs(course, 1.0, 3)  # set after 1, risen after 2 of 2; the mask stays from step 2 on
    assert not course.done
    costs(course, 0.0, 2)  # fallen
    assert not course.done  # what counts is how it was before the step
    costs(course, 0.0, 1)
    assert course.done


def test_it_ends_with_the_last_step() -> None:
    course = Course(Recipe(steps=2))
    course.take(0.0, 1.0)
    assert not course.done
    course.take(0.0, 1.0)
    assert course.done


def one_pixel(pixels: torch.Tensor) -> torch.Tensor:
    """Score class 1 by 1000 (x - 0.9) of the first pixel, class 0 by 0."""
    lit = 1000 * (pixels[:, :, 0, 0] - 0.9)
    return torch.cat([torch.zeros_like(lit), lit], dim=1)


def dark_images(count: int = 40) -> NDArray[np.float32]:
    """Return images of 4 x 4 whose first pixel is black."""
    images = np.random.default_rng(0).random((count, 1, 4, 4)).astype(np.float32)
    images[:, :, 0, 0] = 0
    return images


def test_of_a_net_that_looks_at_one_pixel_the_mask_is_that_pixel() -> None:
    # m p > 0.9 with p at most 1: the smallest mask is 0.9 of that pixel, and nothing else.
    rng = np.random.default_rng(1)
    arm = Arm(1, dark_images(), rng.random((4, 4)), rng.random((1, 4, 4)), Recipe(steps=150))
    (found,) = invert(one_pixel, [arm], 1, lambda _: None)
    assert found.worked
    assert found.mask.argmax() == 0
    assert 0.9 < found.mask[0, 0] <= 1
    assert 0.9 < found.size < 1.1
    assert (one_pixel(torch.from_numpy(found.on(dark_images()))).argmax(1) == 1).all()


def test_stamps_are_the_same_however_many_are_optimised_together() -> None:
    def arms() -> list[Arm]:
        rng = np.random.default_rng(1)
        recipe = Recipe(steps=20)
        return [
            Arm(target, dark_images(), rng.random((4, 4)), rng.random((1, 4, 4)), recipe)
            for target in (0, 1, 1)
        ]

    told: list[int] = []
    one_by_one = invert(one_pixel, arms(), 1, told.append)
    together = invert(one_pixel, arms(), 3, lambda _: None)
    assert [stamp.target for stamp in one_by_one] == [0, 1, 1]
    assert told[-1] == 3
    for one, other in zip(one_by_one, together, strict=True):
        np.testing.assert_allclose(one.mask, other.mask, atol=1e-5)


def test_a_stamp_that_never_worked_says_so() -> None:
    rng = np.random.default_rng(1)

    def never(pixels: torch.Tensor) -> torch.Tensor:
        lit = 0 * pixels[:, :, 0, 0]
        return torch.cat([lit + 1, lit], dim=1)

    arm = Arm(1, dark_images(), rng.random((4, 4)), rng.random((1, 1, 1)), Recipe(steps=3))
    (found,) = invert(never, [arm], 1, lambda _: None)
    assert (found.worked, found.highest, found.steps) == (False, 0.0, 3)
    assert found.pattern.shape == (1, 4, 4)  # one colour, for each pixel
    assert found.size == pytest.approx(float(found.mask.sum()))


def test_a_bounded_stamp_pays_for_its_size_beyond_the_limit_alone() -> None:
    # Four pixels are covered by a half: 2. The logit of the target is 3 on both images: 6 in all.
    mask = np.array([[0.5, 0.5], [0.5, 0.5]])
    images, logits = np.zeros((2, 1, 2, 2), np.float32), torch.tensor([[0.0, 3.0]] * 2)
    for limit, wanted in ((4, -6.0), (3.9, -6.0 + 2.0), (3.3, -6.0 + 2 * 2.0)):
        arm = BoundedArm(limit, 1.0, 1, images, mask, np.ones((1, 1, 1)), Recipe(batch=2))
        arm.stamped()
        assert float(arm.loss(logits).detach()) == pytest.approx(wanted, abs=1e-4)


def suspect_of(head: str, folder: Path) -> Suspect:
    """Return a hand-made net of three classes and 2 x 2 pixels, with images."""
    images = np.random.default_rng(0).integers(0, 256, (30, 2, 2, 1), dtype=np.uint8)
    np.savez(folder / "clean.npz", images=images, labels=np.arange(30) % 3)
    options = ScanOptions(preprocess="unit" if head != "uint8_input" else "raw", runtime=CPU)
    return Suspect(
        load_model(build(head).SerializeToString()), load_dataset(folder / "clean.npz"), options
    )


@pytest.mark.parametrize("head", ["gemm", "keras", "flat_input", "batch_of_four", "batch_of_one"])
def test_torch_computes_the_logits_of_pixels_in_every_layout(head: str, tmp_path: Path) -> None:
    suspect = suspect_of(head, tmp_path)
    sloped, pixels = SlopedSuspect(suspect, "a test needs"), suspect.pixels()[:6]
    before = suspect.meter.done
    found = sloped(torch.from_numpy(pixels)).numpy()
    assert suspect.meter.done - before == 3 * 6  # forward, and back twice as dear
    wanted = suspect.body.logits(suspect.inputs(pixels))
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


def test_preprocessing_is_part_of_what_is_differentiated(tmp_path: Path) -> None:
    # Reversed channels, each with a mean and a deviation of its own.
    recipe = tmp_path / "own.json"
    numbers = {"scale": 1 / 255, "mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}
    recipe.write_text(json.dumps({**numbers, "channel_order": "BGR"}))
    options = ScanOptions(preprocess=str(recipe), runtime=CPU)
    clean = load_dataset(FIXTURES / "digits-clean.h5")
    suspect = Suspect(load_model(FIXTURES / "digits-clean.onnx"), clean, options)
    pixels = suspect.pixels(np.arange(4))
    free = torch.from_numpy(pixels).requires_grad_()
    found = SlopedSuspect(suspect, "a test needs")(free)
    wanted = suspect.body.logits(suspect.inputs(pixels))
    np.testing.assert_allclose(found.detach().numpy(), wanted, rtol=1e-3, atol=1e-3)
    # The slope in one pixel is what a small change of it does.
    (slope,) = torch.autograd.grad(found[0, 3], free)
    place = np.unravel_index(int(slope[0].abs().argmax()), slope[0].shape)
    changed = pixels[:1].copy()
    changed[(0, *place)] += 1e-3
    moved = suspect.body.logits(suspect.inputs(changed))[0, 3] - wanted[0, 3]
    assert moved == pytest.approx(1e-3 * float(slope[(0, *place)]), rel=0.1)


def test_whole_numbers_have_no_slopes(tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match="takes whole numbers"):
        SlopedSuspect(suspect_of("uint8_input", tmp_path), "a test needs")


def test_pictures_show_mask_stamp_and_image() -> None:
    stamp = Stamp(1, np.eye(4, dtype=np.float32), np.ones((1, 4, 4), np.float32), False, 0.5, 9)
    (picture,) = gallery("Title", "Text", [("to 1", stamp)], dark_images(1)).pictures
    assert len(picture.images) == len(picture.alt) == 3
    assert picture.caption == "to 1: size 4.0 px; did not work"
