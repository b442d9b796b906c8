"""Bare weights of PyTorch (`.pt`, `.pth`, `.safetensors`), put into a network that `arch` names."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from math import prod
from pathlib import Path
from typing import Any

from onnx_soda._answers import Conversion
from onnx_soda._errors import ConvertError, MissingExtraError
from onnx_soda._options import ConvertOptions

from .archives import FRAMEWORK_NAMES, check_pickle, checked_archive, member_names
from .protocol import MOST_HEADER, is_safetensors
from .refusals import damaged, explaining, false_sizes, misleading, parse_json

# ImageNet's, which both libraries build where they are not told otherwise.
_IMAGENET = 1000
_USUAL_SIZE = 224
# Networks that do not take 224 pixels, or were not trained on them.
_SIZES = {"inception_v3": 299}
# Networks with classifiers for training alone.
_AUXILIARY = ("inception_v3", "googlenet")


@dataclass(frozen=True)
class Architecture:
    """A network without weights.

    Attributes:
        package: Where it is from.
        size: Usual height and width of its images.
        classes: Number of classes it has where not told otherwise.
        build: Takes the number of classes, and whether to have auxiliary classifiers.
    """

    package: str
    size: int
    classes: int
    build: Callable[[int, bool], Any]


def find_architecture(arch: str) -> Architecture:
    """Return a network by its name, as "torchvision:resnet18" or "timm:resnet18".

    Raises:
        ConvertError: There is none of that name.
        MissingExtraError: timm is asked for and not installed.
    """
    library, _, name = arch.partition(":")
    if library == "torchvision" and name:
        return _torchvision(name)
    if library == "timm" and name:
        return _timm(name)
    raise ConvertError(
        f"{arch!r} names no network", "Name it as torchvision:resnet18 or timm:resnet18."
    )


def _torchvision(name: str) -> Architecture:
    from torchvision import models

    known = models.list_models(module=models)
    if name not in known:
        raise _unknown(name, "torchvision", known)

    def build(classes: int, auxiliary: bool) -> Any:
        extra = {}
        if name in _AUXILIARY:
            extra = {"aux_logits": auxiliary, "init_weights": False}
        return models.get_model(name, weights=None, num_classes=classes, **extra)

    return Architecture("torchvision", _SIZES.get(name, _USUAL_SIZE), _IMAGENET, build)


def _timm(name: str) -> Architecture:
    if importlib.util.find_spec("timm") is None:
        raise MissingExtraError(
            "the network needs timm, which is not installed", "pip install timm"
        )
    import timm

    known = timm.list_models()
    if name not in known:
        raise _unknown(name, "timm", known)

    def build(classes: int, _: bool) -> Any:
        return timm.create_model(name, pretrained=False, num_classes=classes)

    size = timm.models.get_pretrained_cfg(name)
    pixels = size.input_size[-1] if size else _USUAL_SIZE
    return Architecture("timm", pixels, _IMAGENET, build)


def _unknown(name: str, library: str, known: list[str]) -> ConvertError:
    near = get_close_matches(name, known, 3)
    hint = f"Did you mean {', '.join(near)}?" if near else f"Look into the list of {library}."
    return ConvertError(f"{library} has no network {name!r}", hint)


LEGACY_START = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""How `torch.save` began files before PyTorch 1.6: a pickle of a number of its own."""

# Behind it: version of the format, the machine's byte order, the weights, the storages' names.
_LEGACY_PICKLES = 5
_PICKLE_BYTES = 64 * 2**20
_ADVICE = "Name the network that the weights belong to, as `arch=torchvision:resnet18`."


class StateDictConverter:
    """Reads `torch.save(model.state_dict(), ...)` and safetensors."""

    name = "PyTorch weights (state_dict)"
    extra = "pytorch"
    packages = ("torch", "torchvision", "onnxscript", "safetensors")

    def can_read(self, path: Path) -> bool:
        """See `Converter`."""
        names = member_names(path)
        if names:
            return any(name.endswith("/data.pkl") for name in names) and not any(
                name.endswith("/constants.pkl") for name in names
            )
        with path.open("rb") as stream:
            head = stream.read(64)
        return head.startswith(LEGACY_START) or is_safetensors(head)

    def precheck(self, path: Path) -> None:
        """See `Converter`."""
        if member_names(path):
            with checked_archive(path) as archive:
                for name in archive.names:
                    if name.endswith(".pkl"):
                        content = archive.read(name, _PICKLE_BYTES)
                        check_pickle(content, archive.file, FRAMEWORK_NAMES)
            return
        with path.open("rb") as stream:
            content = stream.read(MOST_HEADER)
        if content.startswith(LEGACY_START):
            check_pickle(content, path.name, FRAMEWORK_NAMES, _LEGACY_PICKLES)
        else:
            check_safetensors(content, path.stat().st_size, path.name)

    def load(self) -> None:
        """See `Converter`."""
        import safetensors.torch  # noqa: F401
        import torch.onnx  # noqa: F401
        import torchvision.models  # noqa: F401

    def convert(self, path: Path, out: Path, options: ConvertOptions) -> Conversion:
        """See `Converter`."""
        from .torch_run import convert_weights

        if options.arch is None:
            raise ConvertError(f"{path.name} holds weights without a network", _ADVICE)
        with path.open("rb") as stream:
            safe = is_safetensors(stream.read(64))
        with explaining(f"PyTorch cannot convert {path.name}", _ADVICE):
            return convert_weights(self.name, path, safe, options.arch, out, options)


# Bits of an element, by the names of the format.
_BITS = {
    bits: names.split()
    for bits, names in (
        (4, "F4"), (6, "F6_E2M3 F6_E3M2"), (8, "BOOL U8 I8 F8_E5M2 F8_E4M3 F8_E8M0"),
        (16, "I16 U16 F16 BF16"), (32, "I32 U32 F32"), (64, "I64 U64 F64 C64"),
    )
}  # fmt: skip
_BITS_OF = {name: bits for bits, names in _BITS.items() for name in names}


def check_safetensors(content: bytes, size: int, file: str) -> int:
    """Look at a header; the format is at https://github.com/huggingface/safetensors.

    Args:
        content: The first bytes, with the whole header.
        size: Bytes of the file.
        file: Its name to show.

    Returns:
        The number of tensors.

    Raises:
        UnsafeSourceError: Tensors overlap, lie outside the file, or have a name or a size twice.
        ConvertError: The header cannot be read.
    """
    length = int.from_bytes(content[:8], "little")
    if 8 + length > size:
        raise false_sizes(f"{file} declares a header of {length} bytes, and has {size} in all")
    header = parse_json(content[8 : 8 + length], f"the header of {file}")
    spans = []
    for name, entry in header.items() if isinstance(header, dict) else ():
        if name == "__metadata__":
            continue
        span = entry.get("data_offsets") if isinstance(entry, dict) else None
        if not (isinstance(span, list) and [type(one) for one in span] == [int, int]):
            raise damaged(f"{file} does not say where {name[:80]!r} lies")
        _check_shape(entry, span, f"{name[:80]!r} in {file}")
        spans.append(span)
    end = 0
    for begin, behind in sorted(spans):
        if begin != end or behind < begin:
            raise misleading(f"{file} has tensors that overlap or gaps between them")
        end = behind
    if 8 + length + end != size:
        held = size - 8 - length
        raise false_sizes(f"{file} declares {end} bytes of weights, and has {held}")
    return len(spans)


def _check_shape(entry: dict[str, Any], span: list[int], what: str) -> None:
    shape, bits = entry.get("shape"), _BITS_OF.get(str(entry.get("dtype")))
    if not isinstance(shape, list) or not all(type(one) is int and one >= 0 for one in shape):
        raise false_sizes(f"{what} has no shape")
    # A type that is not known here is of a newer version.
    if bits is not None and 8 * (span[1] - span[0]) != bits * prod(shape):
        raise false_sizes(
            f"{what} has {span[1] - span[0]} bytes, which is not what its shape needs"
        )
