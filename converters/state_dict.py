"""Bare weights of PyTorch (`.pt`, `.pth`, `.safetensors`), put into a network named by `--arch`."""

from __future__ import annotations

from pathlib import Path

from onnx_soda.errors import ConvertError

from .archive import checked_archive, member_names
from .pickles import FRAMEWORK_NAMES, check_pickle
from .protocol import Conversion, ConvertOptions
from .refusals import bomb, damaged, explaining, misleading
from .strict_json import parse_json

__all__ = ["LEGACY_START", "StateDictConverter", "is_safetensors"]

LEGACY_START = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""How `torch.save` began files before PyTorch 1.6: a pickle of a number of its own."""

# Behind it: version of the format, the machine's byte order, the weights, the storages' names.
_LEGACY_PICKLES = 5
_PICKLE_BYTES = 64 * 2**20
# As the safetensors package itself.
_MOST_HEADER = 100_000_000
_ADVICE = "Name the network that the weights belong to, as --arch torchvision:resnet18."


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
            content = stream.read(_MOST_HEADER)
        if content.startswith(LEGACY_START):
            check_pickle(content, path.name, FRAMEWORK_NAMES, _LEGACY_PICKLES)
        else:
            _check_safetensors(content, path)

    def load(self) -> None:
        """See `Converter`."""
        import safetensors.torch  # noqa: F401
        import torch.onnx  # noqa: F401
        import torchvision.models  # noqa: F401

    def convert(self, path: Path, out: Path, options: ConvertOptions) -> Conversion:
        """See `Converter`."""
        from .state_dict_run import convert_weights

        if options.arch is None:
            raise ConvertError(f"{path.name} holds weights without a network", _ADVICE)
        with path.open("rb") as stream:
            safe = is_safetensors(stream.read(64))
        with explaining(f"PyTorch cannot convert {path.name}", _ADVICE):
            return convert_weights(self.name, path, safe, options.arch, out, options)


def is_safetensors(head: bytes) -> bool:
    """Tell whether a file begins like safetensors: length of the header, then a JSON object."""
    return head[8:9] == b"{" and 2 <= int.from_bytes(head[:8], "little") <= _MOST_HEADER


def _check_safetensors(content: bytes, path: Path) -> None:
    """Look at the header; the format is at https://github.com/huggingface/safetensors."""
    length = int.from_bytes(content[:8], "little")
    header = parse_json(content[8 : 8 + length], f"the header of {path.name}")
    spans = []
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        span = entry.get("data_offsets") if isinstance(entry, dict) else None
        if not (isinstance(span, list) and [type(one) for one in span] == [int, int]):
            raise damaged(f"{path.name} does not say where {name[:80]!r} lies")
        spans.append(span)
    end = 0
    for begin, behind in sorted(spans):
        if begin != end or behind < begin:
            raise misleading(f"{path.name} has tensors that overlap or gaps between them")
        end = behind
    if 8 + length + end != path.stat().st_size:
        raise bomb(f"{path.name} declares {end} bytes of weights, which it does not have")
