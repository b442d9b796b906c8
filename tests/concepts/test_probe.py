"""The probe graph computes what its description says, for every family and head style."""

from __future__ import annotations

import dataclasses

import numpy as np
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import convolve
from scipy.special import expit, softmax

from fixtures.graphs import build, logits
from onnx_soda._data.preprocessing import PRESETS, Preprocessing
from onnx_soda._detect.concepts.concept import (
    MASKS,
    Concept,
    Effect,
    draw_concept,
    join_concepts,
    move_concept,
)
from onnx_soda._detect.concepts.families import FAMILIES
from onnx_soda._detect.concepts.fields import STEPS, ProbeFields, identity_fields, steps_of
from onnx_soda._detect.concepts.layers import make_pooling
from onnx_soda._detect.concepts.pipeline import (
    PREFIX,
    Form,
    Transform,
    build_transform,
    render_images,
)
from onnx_soda._detect.concepts.probe import Probe, ProbeImages
from onnx_soda._detect.concepts.reference import ReferenceHead
from onnx_soda._model.anatomy import Anatomy
from onnx_soda._model.load import load_model
from onnx_soda._model.parts import serialise
from onnx_soda._model.runtime import Session
from onnx_soda._options import RuntimeOptions, ScanOptions
from onnx_soda._suspect import Suspect

CPU = RuntimeOptions(provider="cpu", threads=1, batch_size=4)
RNG = np.random.default_rng(0)
PIXELS = RNG.random((7, 1, 2, 2)).astype(np.float32)
# Two groups: the first three images, the other four.
MEMBERSHIP = np.array([[1 / 3, 0]] * 3 + [[0, 1 / 4]] * 4, dtype=np.float32)
FOLD = np.array([0, 1, 0, 1, 0, 1, 0])
WEIGHTS, BIASES = RNG.random((2, 3, 3)), RNG.random((2, 3))


def suspect_of(head: str, how: Preprocessing = PRESETS["unit"]) -> Suspect:
    model = load_model(build(head).SerializeToString())
    return Suspect(model, options=ScanOptions(runtime=CPU), known=how)


def heads_on(anatomy: Anatomy) -> tuple[ReferenceHead, ...]:
    layer = anatomy.layer
    shape = tuple(size or 1 for size in layer.shape or (1, 3))
    pooling = make_pooling(layer.name, layer.axis, shape, grid=False)
    return (ReferenceHead(pooling, WEIGHTS, BIASES, (1.0, 1.0)),)


def apply(fields: ProbeFields, x: np.ndarray) -> np.ndarray:
    """The pipeline in NumPy, as the docstring of `fields` gives it."""
    mean, spread = x.mean(axis=(2, 3), keepdims=True), x.std(axis=(2, 3), keepdims=True)
    donated = (x - mean) / np.maximum(spread, 0.01) * fields.style_std + fields.style_mean
    styled = x + fields.style * (donated - x)
    mixed = np.einsum("oc,nchw->nohw", fields.mix[:, :, 0, 0], styled)
    mixed = mixed + fields.offset[:, None, None]
    y = np.clip(mixed, 1e-5, 1) ** fields.gamma * fields.gain + fields.field
    for image in y:
        for channel, plane in enumerate(image):
            # Convolution in networks does not flip the kernel.
            kernel = fields.kernel[channel, 0][::-1, ::-1]
            image[channel] = convolve(plane, kernel, mode="nearest")
    switch = expit(fields.slope * x.mean(axis=1, keepdims=True) + fields.bias)
    mask = fields.mask * switch
    return np.clip((1 - mask) * x + mask * y, 0, 1)


def expected_flows(x: np.ndarray, how: Preprocessing) -> np.ndarray:
    """Probabilities by group, for fixtures.graphs' net on preprocessed pixels."""
    value = (255 * x * how.scale - how.mean[0]) / how.std[0]
    flat = value.reshape(len(x), -1)
    features = np.maximum(flat[:, :3], 0)
    # The head fitted to one fold is read on the images of the other.
    reference = [f @ WEIGHTS[1 - k] + BIASES[1 - k] for f, k in zip(features, FOLD, strict=True)]
    scores = [logits(flat), np.stack(reference)]
    return np.stack([MEMBERSHIP.T @ softmax(s, axis=1) for s in scores])


@pytest.mark.parametrize("head", ["gemm", "keras", "flat_input", "batch_of_four", "batch_of_one"])
@pytest.mark.parametrize("preset", ["unit", "signed"])
def test_flows_are_those_worked_out_with_numpy(head: str, preset: str) -> None:
    how = PRESETS[preset]
    if head == "flat_input":
        how = dataclasses.replace(how, layout="flat")
    suspect = suspect_of(head, how)
    images = ProbeImages(PIXELS, MEMBERSHIP, FOLD)
    probe = Probe(suspect, images, heads_on(suspect.anatomy), 3)
    np.testing.assert_allclose(probe.flows(None), expected_flows(PIXELS, how), atol=1e-5)
    rng = np.random.default_rng(1)
    for _ in range(5):
        concept = draw_concept(rng, channels=1)
        changed = apply(concept.render((1, 2, 2)), PIXELS)
        np.testing.assert_allclose(probe.flows(concept), expected_flows(changed, how), atol=1e-4)


@pytest.mark.parametrize("head", ["gemm", "batch_of_four", "batch_of_one"])
def test_other_groups_over_the_same_images_are_other_means_of_the_same_answers(head: str) -> None:
    suspect = suspect_of(head)
    single = ProbeImages(PIXELS, np.eye(len(PIXELS), dtype=np.float32), FOLD)
    probe = Probe(suspect, single, heads_on(suspect.anatomy), 3)
    concept = draw_concept(np.random.default_rng(2), channels=1)
    answers = probe.flows(concept)
    grouped = probe.regrouped(MEMBERSHIP)
    assert grouped.flows(concept).shape == (2, 2, 3)
    np.testing.assert_allclose(grouped.flows(concept), MEMBERSHIP.T @ answers, atol=1e-6)
    np.testing.assert_array_equal(probe.flows(concept), answers)


def test_a_uint8_input_gets_whole_levels() -> None:
    suspect = suspect_of("uint8_input", PRESETS["raw"])
    images = ProbeImages(
        PIXELS / 50, MEMBERSHIP, FOLD
    )  # levels 0 to 5: the softmax is not saturated
    probe = Probe(suspect, images, heads_on(suspect.anatomy), 3)
    levels = np.floor(255 * images.pixels + 0.5) / 255
    np.testing.assert_allclose(probe.flows(None), expected_flows(levels, PRESETS["raw"]), atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), channels=st.sampled_from([1, 3]))
def test_every_concept_renders_and_speaks_for_any_size(seed: int, channels: int) -> None:
    rng = np.random.default_rng(seed)
    concept = draw_concept(rng, channels)
    joined = join_concepts(concept, draw_concept(rng, channels))
    for step in (concept, move_concept(concept, rng), joined, move_concept(joined, rng)):
        fields = step.render((channels, 13, 9))
        for entry in dataclasses.fields(fields):
            array = getattr(fields, entry.name)
            assert array.dtype == np.float32
            assert np.isfinite(array).all()
        assert 0 <= fields.mask.min() <= fields.mask.max() <= 1
        assert step.describe()


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_moving_stays_within_the_range_of_every_knob(seed: int) -> None:
    rng = np.random.default_rng(seed)
    concept = join_concepts(draw_concept(rng, channels=3), draw_concept(rng, channels=3))
    for _ in range(20):
        concept = move_concept(concept, rng)
    assert concept.then is not None
    for knobs, values in (
        (FAMILIES[concept.family].knobs, concept.values),
        (FAMILIES[concept.then.family].knobs, concept.then.values),
        (MASKS[concept.mask].knobs, concept.mask_values),
    ):
        for name, knob in knobs.items():
            assert all(knob.low - 1e-9 <= v <= knob.high + 1e-9 for v in values[name])


def test_grey_images_get_no_colour_families() -> None:
    rng = np.random.default_rng(0)
    drawn = {draw_concept(rng, channels=1).family for _ in range(400)}
    assert drawn == {name for name, family in FAMILIES.items() if not family.colour}


@pytest.mark.parametrize(
    ("family", "values", "pixel", "result", "words"),
    [
        ("tint", {"colour": (0, 0, 1), "strength": (0.5,)}, (0.4, 0.4, 0.4), (0.2, 0.2, 0.7),
         "tint towards blue (rgb 0,0,255), 50 %, everywhere"),
        ("brightness", {"factor": (0.25,), "lift": (0.1,)}, (0.4, 0.8, 0), (0.2, 0.3, 0.1),
         "brightness 25 %, lifted by 10 %, everywhere"),
        ("contrast", {"factor": (2.0,)}, (0.5, 0.6, 0.9), (0.5, 0.7, 1),
         "contrast 200 %, everywhere"),
        ("inversion", {"strength": (1.0,)}, (0.1, 0.5, 1), (0.9, 0.5, 0),
         "inverted, 100 %, everywhere"),
        ("saturation", {"saturation": (0.0,)}, (0.9, 0.3, 0), (0.4, 0.4, 0.4),
         "black and white, everywhere"),
        ("gamma", {"gamma": (2.0,)}, (0.5, 1, 0.1), (0.25, 1, 0.01), "gamma 2.0, everywhere"),
    ],
)  # fmt: skip
def test_families_do_what_their_words_say(
    family: str,
    values: dict[str, tuple[float, ...]],
    pixel: tuple[float, ...],
    result: tuple[float, ...],
    words: str,
) -> None:
    concept = Concept(family, values, "everywhere", {})
    image = np.broadcast_to(np.reshape(pixel, (1, 3, 1, 1)), (1, 3, 6, 6)).astype(np.float32)
    changed = apply(concept.render((3, 6, 6)), image)
    np.testing.assert_allclose(changed[0, :, 3, 3], result, atol=1e-4)
    assert concept.describe() == words


def test_identity_leaves_images_as_they_are() -> None:
    image = RNG.random((2, 3, 6, 6)).astype(np.float32)
    np.testing.assert_allclose(apply(identity_fields(3, 6, 6), image), image, atol=1e-6)


CONTRAST = ("contrast", {"factor": (2.0,)})
TO_BLACK = ("tint", {"colour": (0, 0, 0), "strength": (0.5,)})
TO_BLUE = ("tint", {"colour": (0, 0, 1), "strength": (0.5,)})
SQUARE = ("gamma", {"gamma": (2.0,)})
STRIPES = {
    "kind": (0.0,), "period": (0.5,), "angle": (0.0,), "phase": (float(np.pi / 2),),
    "strength": (1.0,), "hard": (0.0,), "shading": (0.0,), "colour": (1.0, 1.0, 1.0),
}  # fmt: skip


@pytest.mark.parametrize(
    ("first", "second", "pixel", "result"),
    [
        # 0.5 + 2 (0.6 - 0.5) = 0.7, half of it: 0.35; the other way round 0.5 + 2 (0.3 - 0.5) = 0.1
        (CONTRAST, TO_BLACK, (0.6, 0.6, 0.6), (0.35, 0.35, 0.35)),
        (TO_BLACK, CONTRAST, (0.6, 0.6, 0.6), (0.1, 0.1, 0.1)),
        # 0.7 halved; blue in the middle between 0.7 and 1
        (CONTRAST, TO_BLUE, (0.6, 0.6, 0.6), (0.35, 0.35, 0.85)),
        # 0.7 squared, to the fourth
        (CONTRAST, SQUARE, (0.6, 0.6, 0.6), (0.49, 0.49, 0.49)),
        (SQUARE, SQUARE, (0.7, 0.7, 0.7), (0.2401, 0.2401, 0.2401)),
        # Twice the same cover in white: under the wave's top all white, at its foot as it was.
        (("pattern", STRIPES), ("pattern", STRIPES), (0.2, 0.4, 0.6), (1, 1, 1)),
    ],
)
def test_joined_concepts_do_one_and_then_the_other(
    first: tuple[str, dict[str, tuple[float, ...]]],
    second: tuple[str, dict[str, tuple[float, ...]]],
    pixel: tuple[float, ...],
    result: tuple[float, ...],
) -> None:
    concept = Concept(*first, "everywhere", {}, Effect(*second))
    image = np.broadcast_to(np.reshape(pixel, (1, 3, 1, 1)), (1, 3, 6, 6)).astype(np.float32)
    changed = apply(concept.render((3, 6, 6)), image)
    np.testing.assert_allclose(changed[0, :, 3, 3], result, atol=1e-4)
    one, other = (FAMILIES[family].describe(values) for family, values in (first, second))
    assert concept.describe() == f"{one}, then {other}, everywhere"


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), channels=st.sampled_from([1, 3]))
def test_steps_that_are_left_out_would_have_changed_nothing(seed: int, channels: int) -> None:
    rng = np.random.default_rng(seed)
    shape = (channels, 7, 9)
    images = rng.random((4, *shape)).astype(np.float32)
    one, other = draw_concept(rng, channels), draw_concept(rng, channels)
    concept = join_concepts(one, other) if seed % 2 else one
    form = Form("changed", shape, np.dtype(np.float32), lambda _, pixels: pixels)
    session = Session(serialise(build_transform(shape, form, frozenset(STEPS)), None), CPU)
    uploaded = session.upload({PREFIX + "pixels": images})
    (whole,) = session.run(uploaded, concept.render(shape).as_feeds(PREFIX))
    found = render_images(images, concept)
    # What is not mixed is not brought to the least level of 0.00001 either.
    np.testing.assert_allclose(found, whole, atol=2e-5)
    np.testing.assert_allclose(found, apply(concept.render(shape), images), atol=1e-4)


def test_images_that_are_changed_in_several_runs_are_as_each_alone() -> None:
    """An image of 300 x 300 fills a run."""
    images = RNG.random((3, 3, 300, 300)).astype(np.float32)
    concept = draw_concept(np.random.default_rng(5), channels=3)
    alone = [render_images(image[None], concept)[0] for image in images]
    np.testing.assert_array_equal(render_images(images, concept), np.stack(alone))
    assert render_images(images[:0], concept).shape == (0, 3, 300, 300)


def test_graphs_of_many_steps_work_in_the_same_memory() -> None:
    """Each alone keeps some 10 MiB for images of 400 x 400."""
    shape, rng = (3, 400, 400), np.random.default_rng(0)
    form = Form("changed", shape, np.dtype(np.float32), lambda _, pixels: pixels)
    transform = Transform(shape, form, CPU)
    images = transform.upload(rng.random((2, *shape)).astype(np.float32))
    concepts = {
        steps_of(feeds): feeds for feeds in (draw_concept(rng, 3).feeds(shape) for _ in range(60))
    }
    assert len(concepts) > 15
    before = psutil.Process().memory_info().rss
    for fields in concepts.values():
        transform.apply(images, fields)
    assert psutil.Process().memory_info().rss - before < 100 * 2**20
