"""PyTorch's `.pt2`: a graph of operators as JSON, and weights as raw bytes.

`torch.export.load` unpickles sample inputs, evaluates the strings of symbolic sizes as Python, and
makes functions of strings of guards. So a copy is made of what was looked at: no sample inputs, no
guards, no notes, JSON written anew; only this copy is given to torch.
"""

from __future__ import annotations

import json
import re
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from onnx_soda._answers import Conversion
from onnx_soda._errors import UnsupportedSourceError
from onnx_soda._options import ConvertOptions

from .archives import Archive, checked_archive, member_names
from .operators import ATEN
from .refusals import damaged, explaining, misleading, parse_json, runs_code, walk

_JSON_BYTES = 256 * 2**20
_WEIGHTS_BYTES = 2**31 - 1
_MODEL = "models/model.json"
_CONFIGS = {
    "data/weights/model_weights_config.json": re.compile(r"weight_\d{1,6}"),
    "data/constants/model_constants_config.json": re.compile(r"tensor_\d{1,6}"),
}
_SAMPLES = "data/sample_inputs/model.pt"
# Whole numbers, symbols, and arithmetic without powers, which could be made to never end.
_EXPRESSION = re.compile(
    r"(?:Symbol\('[su]\d{1,6}'(?:, (?:positive|integer|nonnegative)=True)*\)"
    r"|\b(?:Integer|Add|Mul|FloorDiv|CleanDiv|Mod|PythonMod|Max|Min|Eq|Ne|Le|Lt|Ge|Gt|And|Or|Not"
    r"|true|false|s\d{1,6})\b|\b\d{1,19}\b|(?<!\*)\*(?!\*)|//?|[-+(),<>= ])*"
)
_MOST_EXPRESSION = 2000
_TARGET = re.compile(r"torch\.ops\.aten\.(\w+)\.\w+")
_PLAIN_TARGETS = re.compile(
    r"_operator\.(?:getitem|add|sub|mul|floordiv|truediv|mod|neg|eq|ne|le|lt|ge|gt|and_|or_)"
    r"|torch\.sym_(?:int|float|max|min|not|ite)|math\.trunc"
)
_ADVICE = "Ask its author for ONNX, or for weights alone (.safetensors)."
_LOADS_NOT = (
    "The file may need another version of PyTorch: load it with the one that wrote it, and export "
    "it to ONNX there."
)


class ExportedProgramConverter:
    """Reads what `torch.export.save` writes."""

    name = "PyTorch ExportedProgram (.pt2)"
    extra = "pytorch"
    packages = ("torch", "onnxscript")

    def can_read(self, path: Path) -> bool:
        """See `Converter`."""
        names = member_names(path)
        old = "serialized_exported_program.json" in names
        return old or any(name.endswith("/" + _MODEL) for name in names)

    def precheck(self, path: Path) -> None:
        """See `Converter`."""
        with checked_archive(path) as archive:
            _checked_parts(archive)

    def load(self) -> None:
        """See `Converter`."""
        import torch.export
        import torch.onnx  # noqa: F401

    def convert(self, path: Path, out: Path, options: ConvertOptions) -> Conversion:
        """See `Converter`."""
        from .torch_run import convert_program

        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / "model.pt2"
            with checked_archive(path) as archive:
                _write_copy(archive, copy)
            with explaining(f"PyTorch cannot convert {path.name}", _LOADS_NOT):
                return convert_program(self.name, path, copy, out, options)


def _checked_parts(archive: Archive) -> dict[str, bytes]:
    """Return what torch may see of a file, by name inside the archive.

    Raises:
        UnsafeSourceError: Pickled weights or constants, expressions that are more than arithmetic,
            unknown operators.
        UnsupportedSourceError: Written by a PyTorch before 2.8.
    """
    if "serialized_exported_program.json" in archive.names:
        raise UnsupportedSourceError(
            f"{archive.file} was written by a PyTorch before 2.8, with pickled weights",
            "Load it with that version and export it to ONNX, or save it anew with a newer one.",
        )
    roots = {name.partition("/")[0] for name in archive.names}
    if len(roots) != 1:
        raise misleading(f"{archive.file} has several folders")
    root = roots.pop()
    parts: dict[str, bytes] = {}
    for config, expected in _CONFIGS.items():
        content = _json(archive, f"{root}/{config}")
        parts[config] = _dump(content)
        for name in _payloads(content, archive.file, expected):
            member = f"{config.rpartition('/')[0]}/{name}"
            parts[member] = archive.read(f"{root}/{member}", _WEIGHTS_BYTES)
    graph = _json(archive, f"{root}/{_MODEL}")
    check_graph(graph, archive.file)
    parts[_MODEL] = _dump(graph)
    for name in ("archive_format", "archive_version", "byteorder", ".data/version"):
        if f"{root}/{name}" in archive.names:
            parts[name] = archive.read(f"{root}/{name}", 64)
    # torch takes nothing for no sample inputs.
    parts[_SAMPLES] = b""
    return parts


def _json(archive: Archive, name: str) -> Any:
    return parse_json(archive.read(name, _JSON_BYTES), f"{name} in {archive.file}")


def _dump(content: Any) -> bytes:
    return json.dumps(content).encode()


def _payloads(content: Any, file: str, expected: re.Pattern[str]) -> set[str]:
    """Return the members that hold raw tensors."""
    config = content.get("config") if isinstance(content, dict) else None
    if not isinstance(config, dict):
        raise damaged(f"{file} has no list of weights")
    names = set()
    for name, entry in config.items():
        path = str(entry.get("path_name")) if isinstance(entry, dict) else ""
        if not expected.fullmatch(path) or entry.get("use_pickle") is not False:
            raise runs_code(f"{file} keeps {name!r} as a pickled object", _ADVICE)
        for found in walk(entry, file):
            _check_expression(found, file)
        names.add(path)
    return names


def check_graph(graph: Any, file: str) -> None:
    """Look at every object of the graph's JSON, and drop what is not needed and would be run.

    Raises:
        UnsafeSourceError: Sizes that are more than arithmetic, or unknown operators.
        ConvertError: There is no graph.
    """
    if not isinstance(graph, dict) or not isinstance(graph.get("graph_module"), dict):
        raise damaged(f"{file} has no graph")
    # Strings of Python that checks of the input are made of.
    graph["guards_code"] = []
    for found in walk(graph, file):
        _check_expression(found, file)
        if "target" in found:
            _check_target(found["target"], file)
        if isinstance(found.get("metadata"), dict):
            found["metadata"] = {}


def _check_expression(found: dict[str, Any], file: str) -> None:
    text = found.get("expr_str", "")
    if not isinstance(text, str) or len(text) > _MOST_EXPRESSION or not _EXPRESSION.fullmatch(text):
        shown = str(text)[:80]
        raise runs_code(f"{file} has a size that is more than arithmetic: {shown!r}", _ADVICE)


def _check_target(target: Any, file: str) -> None:
    if isinstance(target, str):
        operator = _TARGET.fullmatch(target)
        if (operator and operator[1] in ATEN) or _PLAIN_TARGETS.fullmatch(target):
            return
    raise runs_code(
        f"{file} uses {str(target)[:80]!r}, which is not among the operators allowed", _ADVICE
    )


def _write_copy(archive: Archive, copy: Path) -> None:
    with zipfile.ZipFile(copy, "w") as written:
        for name, content in _checked_parts(archive).items():
            written.writestr(f"model/{name}", content)
