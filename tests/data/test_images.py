"""One image: formats, colour, sizes, and files made to hurt."""

from __future__ import annotations

import contextlib
import io
import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from onnx_soda._data.images import decode, header_shape, resize_pixels, strict_pillow
from onnx_soda._data.sources import ImageShape
from onnx_soda._errors import ImageError, PreprocessingError

from .helpers import GREY, SHAPE, encode, png_of_declared_size, random_pixels

COLOUR = random_pixels(1)[0]


def saved(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def decoded(data: bytes, shape: ImageShape = SHAPE, resize: str = "stretch") -> NDArray[np.uint8]:
    with strict_pillow():
        return decode(data, "photo", shape, resize)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM"])
def test_lossless_formats_keep_the_pixels(kind: str) -> None:
    assert np.array_equal(decoded(encode(COLOUR, kind)), COLOUR)


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "GIF"])
def test_lossy_formats_are_read(kind: str) -> None:
    flat = np.full((6, 5, 3), (200, 100, 50), dtype=np.uint8)
    assert np.abs(decoded(encode(flat, kind)).astype(int) - flat).max() <= 4


@pytest.mark.parametrize("kind", ["ICNS", "TGA", "PDF"])
def test_formats_that_classifiers_are_not_fed_with(kind: str) -> None:
    with pytest.raises(ImageError, match="photo cannot be decoded: not an image") as caught:
        decoded(saved(Image.new("RGB", (16, 16)), kind))
    assert "JPEG" in caught.value.advice


def test_grey_images_serve_a_colour_model() -> None:
    grey = random_pixels(1, GREY)[0]
    assert np.array_equal(decoded(encode(grey)), np.repeat(grey, 3, axis=-1))


def test_colour_images_do_not_serve_a_grey_model_unless_they_are_grey() -> None:
    grey = np.repeat(random_pixels(1, GREY)[0], 3, axis=-1)
    assert np.array_equal(decoded(encode(grey), GREY), grey[..., :1])
    with pytest.raises(ImageError, match=r"colour image \(3 channels\), the model wants 1 channel"):
        decoded(encode(COLOUR), GREY)


def test_a_model_of_four_channels_is_told_to_use_arrays() -> None:
    with pytest.raises(ImageError, match="1 or 3 channels, the model wants 4") as caught:
        decoded(encode(COLOUR), ImageShape(6, 5, 4))
    assert "array" in caught.value.advice


def test_transparency_is_dropped() -> None:
    alpha = np.full((6, 5, 1), 7, dtype=np.uint8)
    data = saved(Image.fromarray(np.concatenate([COLOUR, alpha], axis=-1)))
    assert np.array_equal(decoded(data), COLOUR)


def test_palette_with_transparency_is_read_in_silence() -> None:
    image = Image.fromarray(COLOUR).quantize(8)
    data = saved(image, transparency=bytes(range(8)))
    assert np.array_equal(decoded(data), np.asarray(image.convert("RGB")))


def test_sixteen_bit_grey_keeps_its_high_byte() -> None:
    deep = (np.arange(30, dtype=np.uint16) * 2000).reshape(6, 5)
    data = saved(Image.fromarray(deep))
    assert np.array_equal(decoded(data, GREY)[..., 0], deep >> 8)
    assert np.array_equal(decoded(data)[..., 2], deep >> 8)
    assert header_shape(data, "photo") == GREY


def test_float_pixels_in_a_file_are_refused() -> None:
    data = saved(Image.fromarray(np.zeros((6, 5), np.float32)), "TIFF")
    with pytest.raises(ImageError, match="photo has 32-bit pixels"):
        decoded(data)


def test_the_exif_orientation_is_left_alone() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    assert np.array_equal(decoded(saved(Image.fromarray(COLOUR), exif=exif)), COLOUR)


@pytest.mark.parametrize("size", [(10_000, 10_000), (20_000, 20_000)])
def test_a_decompression_bomb_is_refused_by_its_header(size: tuple[int, int]) -> None:
    with pytest.raises(ImageError, match=r"photo cannot be decoded: .*decompression bomb"):
        decoded(png_of_declared_size(*size))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM"])
def test_truncated_images(kind: str) -> None:
    data = encode(random_pixels(1, ImageShape(40, 40, 3))[0], kind)
    with pytest.raises(ImageError, match="photo cannot be decoded"):
        decoded(data[: len(data) // 2], ImageShape(40, 40, 3))


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM"]), st.data())
def test_damaged_images_are_decoded_or_refused(kind: str, data: st.DataObject) -> None:
    content = bytearray(encode(COLOUR, kind))
    for _ in range(3):
        position = data.draw(st.integers(0, len(content) - 1))
        content[position] = data.draw(st.integers(0, 255))
    with contextlib.suppress(ImageError):
        assert decoded(bytes(content)).shape == (6, 5, 3)


def test_stretch_is_pillow_s_bilinear() -> None:
    image = Image.fromarray(random_pixels(1, ImageShape(20, 30, 3))[0])
    wanted = np.asarray(image.resize((5, 6), Image.Resampling.BILINEAR))
    assert np.array_equal(decoded(saved(image)), wanted)
    assert np.array_equal(resize_pixels(np.asarray(image)[None], SHAPE, "stretch")[0], wanted)


@pytest.mark.parametrize(("width", "height"), [(500, 375), (375, 500), (256, 256), (100, 101)])
def test_center_crop_is_torchvision_s_recipe(width: int, height: int) -> None:
    image = Image.fromarray(random_pixels(1, ImageShape(height, width, 3))[0])
    short = min(width, height)
    size = (256 * width // short, 256 * height // short)
    left, top = round((size[0] - 224) / 2), round((size[1] - 224) / 2)
    wanted = image.resize(size, Image.Resampling.BILINEAR).crop((left, top, left + 224, top + 224))
    shape = ImageShape(224, 224, 3)
    assert np.array_equal(decoded(saved(image, "BMP"), shape, "center-crop"), np.asarray(wanted))


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("resize", ["stretch", "center-crop"])
def test_resizing_keeps_flat_images_and_their_type(dtype: type, channels: int, resize: str) -> None:
    colours: NDArray[Any] = np.arange(1, channels + 1, dtype=dtype) * 40
    pixels = np.broadcast_to(colours, (2, 9, 14, channels))
    resized = resize_pixels(pixels, ImageShape(5, 7, channels), resize)
    assert resized.dtype == dtype
    assert np.allclose(resized, np.broadcast_to(colours, (2, 5, 7, channels)))


def test_images_of_the_right_size_are_left_alone() -> None:
    pixels = random_pixels(3)
    for resize in ("stretch", "center-crop"):
        assert resize_pixels(pixels, SHAPE, resize) is pixels
        assert np.array_equal(decoded(encode(COLOUR), resize=resize), COLOUR)


def test_center_crop_covers_any_shape() -> None:
    sides = (1, 3, 8, 50)
    for height, width, wanted_height, wanted_width in itertools.product(sides, repeat=4):
        white = np.full((1, height, width, 1), 255, dtype=np.uint8)
        shape = ImageShape(wanted_height, wanted_width, 1)
        assert resize_pixels(white, shape, "center-crop").min() == 255  # no black rim


def test_an_unknown_way_to_resize() -> None:
    with pytest.raises(PreprocessingError, match="'squash'"):
        decoded(encode(COLOUR), resize="squash")
