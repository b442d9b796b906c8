"""From pixels to the model's input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from onnx_soda._data.preprocessing import PRESETS, Preprocessing, candidates, load_preprocessing
from onnx_soda._errors import PreprocessingError

from .helpers import GREY, SHAPE, random_pixels

COLOUR, PLAIN = random_pixels(4), random_pixels(4, GREY)
F32 = np.dtype(np.float32)

numbers = st.floats(-3, 3)
stds = st.floats(0.05, 3)


@settings(max_examples=60)
@given(
    scale=st.sampled_from([1 / 255, 1.0, 2 / 255]),
    mean=st.one_of(st.tuples(numbers), st.tuples(numbers, numbers, numbers)),
    std=st.one_of(st.tuples(stds), st.tuples(stds, stds, stds)),
    order=st.sampled_from(["RGB", "BGR"]),
    as_float=st.booleans(),
)
def test_apply_is_the_formula(
    scale: float, mean: tuple[float, ...], std: tuple[float, ...], order: str, as_float: bool
) -> None:
    recipe = Preprocessing("any", scale, mean, std, order)
    pixels = COLOUR.astype(np.float32) if as_float else COLOUR
    seen = COLOUR[..., ::-1] if order == "BGR" else COLOUR
    wanted = (seen.astype(np.float64) * scale - mean) / std
    given_back = recipe.apply(pixels, "NHWC", F32)
    assert given_back.dtype == np.float32
    assert np.allclose(given_back, wanted, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_layouts_and_types(dtype: type) -> None:
    recipe = PRESETS["unit"]
    unit: NDArray[Any] = (COLOUR / 255).astype(dtype)
    wanted = {
        "NHWC": unit,
        "NCHW": unit.transpose(0, 3, 1, 2),
        "flat": unit.reshape(4, -1),
        "flat-chw": unit.transpose(0, 3, 1, 2).reshape(4, -1),
    }
    for layout, values in wanted.items():
        made = recipe.apply(COLOUR, layout, np.dtype(dtype))
        assert made.flags.c_contiguous
        assert made.dtype == dtype
        assert made.shape == values.shape
        assert np.allclose(made, values, atol=1e-3)
    assert recipe.apply(PLAIN, "NHW", np.dtype(dtype)).shape == (4, 6, 5)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("unit", [1, 0, 51 / 255]),
        ("signed", [1, -1, -0.6]),
        ("raw", [255, 0, 51]),
        ("raw-bgr", [51, 0, 255]),
        ("caffe", [51 - 103.939, -116.779, 255 - 123.68]),
        ("imagenet", [(1 - 0.485) / 0.229, -0.456 / 0.224, (0.2 - 0.406) / 0.225]),
        ("imagenet-bgr", [(0.2 - 0.406) / 0.225, -0.456 / 0.224, (1 - 0.485) / 0.229]),
    ],
)
def test_presets_on_a_known_colour(name: str, value: list[float]) -> None:
    pixel = np.array([255, 0, 51], dtype=np.uint8).reshape(1, 1, 1, 3)
    assert np.allclose(load_preprocessing(name).apply(pixel, "flat", F32), [value], atol=1e-4)


def test_the_input_is_not_changed() -> None:
    pixels = COLOUR.astype(np.float32)
    PRESETS["raw"].apply(pixels, "NHWC", F32)[:] = -1
    assert np.array_equal(pixels, COLOUR)


def test_uint8_models_take_pixels_as_they_are() -> None:
    assert np.array_equal(PRESETS["raw"].apply(COLOUR, "NHWC", np.dtype(np.uint8)), COLOUR)
    blurred = COLOUR.astype(np.float32) + 0.4
    assert np.array_equal(PRESETS["raw"].apply(blurred, "NHWC", np.dtype(np.uint8)), COLOUR)
    reverse = PRESETS["raw-bgr"].apply(COLOUR, "NHWC", np.dtype(np.uint8))
    assert np.array_equal(reverse, COLOUR[..., ::-1])
    with pytest.raises(PreprocessingError, match="'unit' cannot make values of type uint8"):
        PRESETS["unit"].apply(COLOUR, "NHWC", np.dtype(np.uint8))
    with pytest.raises(PreprocessingError, match="int64"):
        PRESETS["raw"].apply(COLOUR, "NHWC", np.dtype(np.int64))


@pytest.mark.parametrize(("layout", "pixels"), [("NHW", COLOUR), ("NWHC", COLOUR)])
def test_layouts_that_do_not_fit(layout: str, pixels: NDArray[np.uint8]) -> None:
    with pytest.raises(PreprocessingError, match=layout):
        PRESETS["unit"].apply(pixels, layout, F32)


@pytest.mark.parametrize("name", ["imagenet", "caffe", "unit-bgr"])
def test_colour_recipes_do_not_fit_grey_images(name: str) -> None:
    with pytest.raises(PreprocessingError, match=name):
        PRESETS[name].apply(PLAIN, "NHWC", F32)


def test_candidates_fit_their_channels_and_differ() -> None:
    for pixels in (COLOUR, PLAIN, random_pixels(4, SHAPE)[..., [0, 1, 2, 2]]):
        made = [recipe.apply(pixels, "flat", F32) for recipe in candidates(pixels.shape[-1])]
        assert len({values.tobytes() for values in made}) == len(made) >= 3
    assert {"mnist", "fashion"} <= {recipe.name for recipe in candidates(1)}
    assert {"imagenet", "caffe", "imagenet-bgr"} <= {recipe.name for recipe in candidates(3)}


def test_every_preset_survives_a_json_file(tmp_path: Path) -> None:
    for name, recipe in PRESETS.items():
        assert recipe.name == name
        path = tmp_path / "recipe.json"
        path.write_text(json.dumps(recipe.as_dict()))
        assert load_preprocessing(str(path)) == recipe


def test_a_short_json_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text('{"scale": 1, "mean": [1, 2, 3], "std": 2, "layout": "NHWC"}')
    assert load_preprocessing(str(path)) == Preprocessing(
        "mine", 1.0, (1.0, 2.0, 3.0), (2.0,), layout="NHWC"
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"scale": 1, "sdt": 1}', '"sdt" is no key'),
        ('{"mean": 0}', 'has no "scale"'),
        ("[1]", 'has no "scale"'),
        ("scale: 1", "cannot be read as JSON"),
        ('{"scale": "1"}', "\"scale\" is '1'"),
        ('{"scale": true}', '"scale" is True'),
        ('{"scale": [1, 2]}', '"scale" is \\[1, 2\\]'),
        ('{"scale": 0}', '"scale" is 0'),
        ('{"scale": 1, "std": [1, 0, 1]}', '"std" is 0'),
        ('{"scale": 1, "std": []}', '"std" is \\(\\)'),
        ('{"scale": 1, "mean": [1, null]}', '"mean" is \\[1, None\\]'),
        ('{"scale": 1, "mean": NaN}', '"mean" is \\(nan,\\)'),
        ('{"scale": 1, "channel_order": "GBR"}', "\"channel_order\" is 'GBR'"),
        ('{"scale": 1, "layout": "CHW"}', "\"layout\" is 'CHW'"),
        ('{"scale": 1, "layout": 3}', '"layout" is 3'),
        ('{"scale": 1, "resize": null}', '"resize" is None'),
    ],
)
def test_the_wrong_key_is_named(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "mine.json"
    path.write_text(content)
    with pytest.raises(PreprocessingError, match=message) as caught:
        load_preprocessing(str(path))
    assert caught.value.advice


def test_no_such_preset() -> None:
    with pytest.raises(
        PreprocessingError, match="'imagnet' is neither a preset nor a file"
    ) as caught:
        load_preprocessing("imagnet")
    assert "imagenet" in caught.value.advice
