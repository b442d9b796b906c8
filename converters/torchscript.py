"""TorchScript: a program in a language of its own, saved in a zip archive as text.

The language has operators that write and read files. Loading runs the methods that set up objects,
converting runs the program. So the text is looked at before torch loads it, and the graph that
torch made of the text before torch runs it.
"""

from __future__ import annotations

import pickletools
import re
from collections.abc import Iterator
from pathlib import Path

from onnx_soda._answers import Conversion
from onnx_soda._options import ConvertOptions

from .archives import FRAMEWORK_NAMES, Archive, check_pickle, checked_archive, member_names
from .operators import ATEN, PRIM
from .refusals import damaged, explaining, runs_code

_TEXT_BYTES = 16 * 2**20
_PICKLE_BYTES = 64 * 2**20
_TOKEN = re.compile(
    r"""(?P<skip>\s+|\#[^\n]*|\\\n)|(?P<text>'(?:[^'\\\n]|\\.)*'|"(?:[^"\\\n]|\\.)*")"""
    r"""|(?P<name>[^\W\d]\w*)|(?P<number>\d[\w.]*(?:[eE][-+]\d+)?)|(?P<other>.)""",
    re.DOTALL,
)
# Objects of the program's own classes, besides what tensors are made of.
_NAMES = re.compile(r"__torch__(?:\.\w+)* \w+|torch\.jit\._pickle \w+|" + FRAMEWORK_NAMES.pattern)
# Methods that run when an object is made or loaded.
_HOOKS = frozenset({"__setstate__", "__getstate__", "__init__", "__del__"})
# What texts of torch.jit.save also have behind "torch." and "ops.prim.".
_SPELLED = frozenset({"__torch__", "jit", "nn", "classes", "inf", "nan", "Tensor"})
_ADVICE = "Ask its author for ONNX, for weights alone (.safetensors), or for a .pt2 file."
_LOADS_NOT = "Name the size of its images as `size`; or ask its author for an ONNX or .pt2 file."


class TorchScriptConverter:
    """Reads what `torch.jit.save` writes."""

    name = "TorchScript (.pt)"
    extra = "pytorch"
    packages = ("torch", "onnxscript")

    def can_read(self, path: Path) -> bool:
        """See `Converter`."""
        names = member_names(path)
        return any(name.endswith("/constants.pkl") for name in names)

    def precheck(self, path: Path) -> None:
        """See `Converter`."""
        with checked_archive(path) as archive:
            for name in archive.names:
                if name.endswith((".pkl", ".debug_pkl")) and not name.endswith(".debug_pkl"):
                    what = f"{name} in {archive.file}"
                    check_pickle(archive.read(name, _PICKLE_BYTES), what, _NAMES)
                elif name.endswith(".py"):
                    check_text(_text(archive, name), archive.file)

    def load(self) -> None:
        """See `Converter`."""
        import torch.jit
        import torch.onnx  # noqa: F401

    def convert(self, path: Path, out: Path, options: ConvertOptions) -> Conversion:
        """See `Converter`."""
        from .torchscript_run import convert_script

        with checked_archive(path) as archive:
            shape = _traced_shape(archive)
        with explaining(f"PyTorch cannot convert {path.name}", _LOADS_NOT):
            return convert_script(self.name, path, shape, out, options)


def _text(archive: Archive, name: str) -> str:
    try:
        return archive.read(name, _TEXT_BYTES).decode("ascii")
    except UnicodeDecodeError as error:
        raise damaged(f"{name!r} in {archive.file} is no ASCII text") from error


def check_text(text: str, file: str) -> None:
    """Refuse operators that are not on the list, and methods that run at loading.

    Raises:
        UnsafeSourceError: There is one.
    """
    for chain, called, defined in _chains(text):
        if defined and chain[0] in _HOOKS:
            raise runs_code(f"{file} has a method {chain[0]}, which runs at loading", _ADVICE)
        name = ".".join(chain)
        if chain[0] == "ops":
            _check_operator(chain[1:], name, file)
        elif chain[0] == "torch":
            if len(chain) != 2 or chain[1] not in ATEN | PRIM | _SPELLED:
                raise _unknown(name, file)
        elif called and chain[-1] in _HOOKS:
            raise _unknown(name, file)


def _check_operator(names: tuple[str, ...], shown: str, file: str) -> None:
    spaces = {"prim": PRIM, "aten": ATEN}
    if len(names) != 2 or names[1] not in spaces.get(names[0], ()):
        raise _unknown(shown, file)


def _unknown(name: str, file: str) -> Exception:
    return runs_code(
        f"{file} uses {name[:80]!r}, which is not among the operators allowed", _ADVICE
    )


def _chains(text: str) -> Iterator[tuple[tuple[str, ...], bool, bool]]:
    """Yield names with dots between, whether a call follows, and whether "def" came before."""
    chain: list[str] = []
    dotted = defined = False
    for token in _TOKEN.finditer(text):
        kind, word = token.lastgroup, token.group()
        if kind == "skip":
            continue
        if kind == "name" and (dotted or not chain):
            chain.append(word)
            dotted = False
            continue
        if word == "." and chain:
            dotted = True
            continue
        if chain:
            yield tuple(chain), word == "(", defined
            defined = chain[-1] == "def"
        chain = [word] if kind == "name" else []
        # What follows a call or an index, as in f(x).save, starts a chain of its own.
        dotted = False
    if chain:
        yield tuple(chain), False, defined


def _traced_shape(archive: Archive) -> tuple[int, ...] | None:
    """Return the shape of the first tensor that the program was traced with, where it tells.

    Read off the instructions of the pickle: behind the storage come the offset and the sizes.
    """
    name = next((one for one in archive.names if one.endswith("/traced_inputs.pkl")), None)
    if name is None:
        return None
    sizes: list[int] = []
    behind = False
    for code, argument, _ in pickletools.genops(archive.read(name, _PICKLE_BYTES)):
        if code.name.startswith("BININT") and behind:
            sizes.append(int(str(argument)))
        elif code.name.startswith("TUPLE") and behind:
            return tuple(sizes[1:]) or None
        behind = behind or code.name == "BINPERSID"
    return None
