"""The part of the scikit-learn converter that runs scikit-learn."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import onnx
import onnx.utils
import skl2onnx
import skops.io
from numpy.typing import NDArray
from skl2onnx.common.data_types import FloatTensorType

from onnx_soda._answers import Conversion
from onnx_soda._errors import UnsupportedSourceError
from onnx_soda._options import ConvertOptions

from .result import Source, finish

_OPSET = 18
_PACKAGES = ("scikit-learn", "skl2onnx", "skops")


def convert_estimator(converter: str, path: Path, out: Path, options: ConvertOptions) -> Conversion:
    """Convert a checked `.skops` file.

    Args:
        converter: Name of the converter.
        path: The file.
        out: File to write.
        options: See `ConvertOptions`.

    Raises:
        UnsupportedSourceError: It is no classifier.
    """
    # All types in the file were checked by module and name.
    model = skops.io.load(path, trusted=skops.io.get_untrusted_types(file=path))
    scores = getattr(model, "predict_proba", None) or getattr(model, "decision_function", None)
    if scores is None or not hasattr(model, "classes_"):
        raise UnsupportedSourceError(
            f"{path.name} is no classifier", "Only classifiers are scanned."
        )
    features = int(model.n_features_in_)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what will change in scikit-learn
        made = skl2onnx.convert_sklearn(
            model,
            initial_types=[("image", FloatTensorType([None, features]))],
            options={"zipmap": False},
            target_opset={"": options.opset or _OPSET, "ai.onnx.ml": 1},
        )

    def run(images: NDArray[Any]) -> list[NDArray[Any]]:
        return [scores(images)]

    source = Source(
        converter,
        path,
        run,
        (None, features),
        _PACKAGES,
        facts=(("class_names", [str(name) for name in model.classes_]),),
    )
    return finish(_scores_only(made), source, out, options)


def _scores_only(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Leave out the output of labels, and what computes them."""
    image, (_, scores) = proto.graph.input[0].name, (one.name for one in proto.graph.output)
    found = onnx.utils.Extractor(proto).extract_model([image], [scores])
    # skl2onnx names an operator set once for each part it converts, with the version that it needs.
    versions: dict[str, int] = {}
    for one in found.opset_import:
        versions[one.domain] = max(one.version, versions.get(one.domain, 0))
    del found.opset_import[:]
    found.opset_import.extend(
        onnx.helper.make_opsetid(domain, version) for domain, version in versions.items()
    )
    return found
