"""Images: from encoded bytes to pixels, from any size to the model's, and into reports.

Two ways to the model's size, both bilinear with antialiasing (Pillow):

* ``stretch``: straight to height x width; the aspect ratio is not kept.
* ``center-crop``: the recipe of torchvision's ImageNet models: the shorter side to 256/224 of the
  wanted side, then the centre. An image that has the wanted size already is left as it is.
"""

from __future__ import annotations

import base64
import io
import struct
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from onnx_soda._data.sources import ImageShape, IntArray, Pixels, sorted_unique
from onnx_soda._errors import ImageError, PreprocessingError

RESIZES = ("stretch", "center-crop")
"""Ways to bring an image to the model's size."""

# Formats that classifiers are fed with. Pillow knows some fifty more, most of them rarely tested
# readers of untrusted bytes; EPS even starts Ghostscript.
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")

_GREY_MODES = frozenset({"1", "L", "LA", "La"})

# What Pillow's readers raise on broken bytes. MemoryError: a header with absurd dimensions.
_DECODE_FAILURES = (
    OSError,
    EOFError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    AttributeError,
    RuntimeError,
    MemoryError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)


@contextmanager
def strict_pillow() -> Iterator[None]:
    """Make Pillow's decompression-bomb warning an error, and its other warnings silent.

    To be put around `decode` and `header_shape`, once for many images: changing the warning
    filters takes longer than decoding a small image.
    """
    with warnings.catch_warnings():
        # The others are about metadata (EXIF, palettes) that does not reach the pixels.
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def header_shape(data: bytes, name: str) -> ImageShape:
    """Return an encoded image's shape from its header; one channel for grey, three for colour.

    Raises:
        ImageError: Not an image of a known format, or a decompression bomb.
    """
    with _image(data, name) as image:
        grey = image.mode in _GREY_MODES or image.mode.startswith("I;16")
        return ImageShape(image.height, image.width, 1 if grey else 3)


def decode(data: bytes, name: str, shape: ImageShape, resize: str) -> NDArray[np.uint8]:
    """Decode one image to the shape that the model wants.

    Grey images serve a three-channel model as torchvision's ImageFolder has it (all channels
    alike). The EXIF orientation is not applied, as there. Transparency is dropped.

    Args:
        data: Encoded bytes.
        name: What to call the image in an error.
        shape: Shape that the model wants.
        resize: One of ``RESIZES``.

    Returns:
        (height, width, channels).

    Raises:
        ImageError: Unreadable, a decompression bomb, or colour for a one-channel model.
        PreprocessingError: ``resize`` is unknown.
    """
    with _image(data, name) as image:
        image.load()
        fitted = _fit(_with_channels(image, shape.channels, name), shape, resize)
        pixels = np.asarray(fitted, dtype=np.uint8)
    return pixels.reshape(shape.height, shape.width, shape.channels)


def resize_pixels(pixels: Pixels, shape: ImageShape, resize: str) -> Pixels:
    """Bring (n, h, w, c) pixels to the height and width of ``shape``; no-op at that size.

    Returns:
        (n, height, width, c) of the dtype given, uint8 or float32.

    Raises:
        PreprocessingError: ``resize`` is unknown.
    """
    if pixels.shape[1:3] == (shape.height, shape.width):
        return pixels
    count, channels = pixels.shape[0], pixels.shape[3]
    out = np.empty((count, shape.height, shape.width, channels), dtype=pixels.dtype)
    for source, target in zip(pixels, out, strict=True):
        # Channel by channel: Pillow has no mode for several floats, and would weigh the colours
        # of a fourth channel by it, taking it for transparency.
        for channel in range(channels):
            plane = Image.fromarray(np.ascontiguousarray(source[..., channel]))
            target[..., channel] = np.asarray(_fit(plane, shape, resize))
    return out


@contextmanager
def _image(data: bytes, name: str) -> Iterator[Image.Image]:
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            yield image
    except _DECODE_FAILURES as error:
        reason = "not an image" if isinstance(error, UnidentifiedImageError) else str(error)
        raise ImageError(
            f"{name} cannot be decoded: {reason or type(error).__name__}",
            f"Replace or remove the image; formats read are {', '.join(_FORMATS)}.",
        ) from error


def _with_channels(image: Image.Image, channels: int, name: str) -> Image.Image:
    """Convert to mode RGB or L."""
    if image.mode.startswith("I;16"):
        # Pillow's own conversion differs between versions: the high byte, or clipping at 255.
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in {"I", "F"}:
        raise ImageError(
            f"{name} has 32-bit pixels, whose range is unknown",
            "Store the image with 8 or 16 bits per channel.",
        )
    if channels == 3:
        return image.convert("RGB")
    if channels == 1:
        return _as_grey(image, name)
    raise ImageError(
        f"{name} can be decoded to 1 or 3 channels, the model wants {channels}",
        "Give the images as an array with that many channels (npz or HDF5).",
    )


def _as_grey(image: Image.Image, name: str) -> Image.Image:
    """Convert to mode L; an RGB image passes only if it has no colour in it."""
    if image.mode in _GREY_MODES:
        return image.convert("L")
    colours = np.asarray(image.convert("RGB"))
    if not (colours == colours[..., :1]).all():
        raise ImageError(
            f"{name} is a colour image (3 channels), the model wants 1 channel",
            "Give the grey images that the model was made for, or a model for colour images.",
        )
    return Image.fromarray(np.ascontiguousarray(colours[..., 0]))


def _fit(image: Image.Image, shape: ImageShape, resize: str) -> Image.Image:
    if resize not in RESIZES:
        raise PreprocessingError(
            f'"resize" is {resize!r}, which is unknown', f"Use one of: {', '.join(RESIZES)}."
        )
    if image.size == (shape.width, shape.height):
        return image
    if resize == "stretch":
        return image.resize((shape.width, shape.height), Image.Resampling.BILINEAR)
    return _center_crop(image, shape)


def _center_crop(image: Image.Image, shape: ImageShape) -> Image.Image:
    """Follow torchvision's Resize(256) and CenterCrop(224), scaled to the wanted size."""
    width, height = image.size
    wide, high = round(shape.width * 256 / 224), round(shape.height * 256 / 224)
    if wide * height >= high * width:  # the width decides
        size = (wide, wide * height // width)
    else:
        size = (high * width // height, high)
    left, top = round((size[0] - shape.width) / 2), round((size[1] - shape.height) / 2)
    resized = image.resize(size, Image.Resampling.BILINEAR)
    return resized.crop((left, top, left + shape.width, top + shape.height))


# Headers looked at to tell the stored shape: enough to notice a mixed set, little enough that
# nobody waits for it. A wrong guess costs nothing, since `read` resizes whatever it finds.
_HEADERS = 16


@dataclass(frozen=True)
class EncodedSource:
    """Encoded images, fetched by position.

    Args:
        count: Number of images.
        fetch: Given distinct positions in increasing order, gives for each in turn the image's
            name (for errors) and its encoded bytes.
    """

    count: int
    fetch: Callable[[IntArray], Iterable[tuple[str, bytes]]]

    def __len__(self) -> int:
        return self.count

    @cached_property
    def native(self) -> ImageShape | None:
        """Shape that the headers of 16 images spread over the set agree on; None if they differ.

        Raises:
            ImageError: One of them is unreadable.
        """
        spread = np.unique(np.linspace(0, self.count - 1, _HEADERS).astype(np.int64))
        with strict_pillow():
            shapes = {header_shape(data, name) for name, data in self.fetch(spread)}
        return shapes.pop() if len(shapes) == 1 else None

    def read(self, indices: IntArray, shape: ImageShape, resize: str = "stretch") -> Pixels:
        """Decode the images asked for as uint8; see `ImageSource.read`."""
        positions, inverse = sorted_unique(indices, self.count)
        out = np.empty((len(positions), shape.height, shape.width, shape.channels), dtype=np.uint8)
        with strict_pillow():
            for target, (name, data) in zip(out, self.fetch(positions), strict=True):
                target[...] = decode(data, name, shape, resize)
        return out[inverse]


# Pixels; larger images are reduced, so that reports stay small.
_LARGEST_SHOWN = 128


def data_uri(pixels: NDArray[np.floating]) -> str:
    """Return an image as PNG in a URI, for reports.

    Args:
        pixels: From 0 to 1, shape (channels, height, width).
    """
    levels = np.rint(255 * pixels.transpose(1, 2, 0)).astype(np.uint8)
    image = Image.fromarray(levels[..., 0] if levels.shape[2] == 1 else levels)
    image.thumbnail((_LARGEST_SHOWN, _LARGEST_SHOWN))
    stream = io.BytesIO()
    image.save(stream, format="PNG")
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode("ascii")
