"""scikit-learn in `.skops` form: a tree of names and values as JSON, and arrays, in a zip archive.

skops itself makes no object of a type that it does not trust. Some of scikit-learn's own are among
these, so which to trust is decided here, by module.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from onnx_soda._answers import Conversion
from onnx_soda._options import ConvertOptions

from .archives import checked_archive, member_names
from .refusals import explaining, parse_json, runs_code, walk

_SCHEMA = "schema.json"
_SCHEMA_BYTES = 64 * 2**20
_MODULES = re.compile(
    r"sklearn\.(?:calibration|compose|decomposition|discriminant_analysis|dummy|ensemble"
    r"|feature_selection|impute|linear_model|multiclass|naive_bayes|neighbors|neural_network"
    r"|pipeline|preprocessing|svm|tree)(?:\.\w+)*"
)
_CLASS = re.compile(r"[A-Z]\w*")
_VALUES = {
    "builtins": frozenset({"str", "bytes", "int", "float", "bool", "dict", "list", "tuple", "set"}),
    "numpy": frozenset(
        {"ndarray", "float32", "float64", "int8", "int32", "int64", "uint8", "bool", "bool_"}
    ),
    "numpy.random.mtrand": frozenset({"RandomState"}),
    "collections": frozenset({"OrderedDict"}),
}
# How skops makes objects; others call functions and methods by name.
_LOADERS = frozenset(
    {
        "ObjectNode", "DictNode", "ListNode", "TupleNode", "SetNode", "JsonNode", "TypeNode",
        "NdArrayNode", "RandomStateNode", "TreeNode", "SliceNode",
    }
)  # fmt: skip
_ADVICE = "Ask its author for ONNX, or use a pipeline of scikit-learn's own classifiers."
_LOADS_NOT = "Convert it with skl2onnx, with zipmap off, where it was trained."


class SklearnConverter:
    """Reads what `skops.io.dump` writes."""

    name = "scikit-learn (.skops)"
    extra = "sklearn"
    packages = ("sklearn", "skl2onnx", "skops")

    def can_read(self, path: Path) -> bool:
        """See `Converter`."""
        return _SCHEMA in member_names(path)

    def precheck(self, path: Path) -> None:
        """See `Converter`."""
        with checked_archive(path) as archive:
            for name in archive.names:
                if name != _SCHEMA and not name.endswith(".npy"):
                    raise runs_code(f"{archive.file} holds {name!r}, which is no array", _ADVICE)
            schema = parse_json(
                archive.read(_SCHEMA, _SCHEMA_BYTES), f"{_SCHEMA} in {archive.file}"
            )
            for found in walk(schema, archive.file):
                if "__loader__" in found or "__class__" in found:
                    check_object(found, archive.file)

    def load(self) -> None:
        """See `Converter`."""
        import skl2onnx  # noqa: F401
        import skops.io  # noqa: F401

    def convert(self, path: Path, out: Path, options: ConvertOptions) -> Conversion:
        """See `Converter`."""
        from .sklearn_run import convert_estimator

        with explaining(f"scikit-learn cannot convert {path.name}", _LOADS_NOT):
            return convert_estimator(self.name, path, out, options)


def check_object(found: dict[str, Any], file: str) -> None:
    """Refuse an object that is not of the types allowed.

    Raises:
        UnsafeSourceError: It is not.
    """
    module, name, loader = (
        str(found.get(key)) for key in ("__module__", "__class__", "__loader__")
    )
    known = name in _VALUES.get(module, ()) or (
        _MODULES.fullmatch(module) and _CLASS.fullmatch(name)
    )
    if not known or loader not in _LOADERS:
        shown = f"{module}.{name}"[:120]
        raise runs_code(
            f"{file} needs {shown!r} by {loader[:40]}, which is not among what is allowed", _ADVICE
        )
