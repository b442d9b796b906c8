"""A repaired model is written whole or not at all, in the form of its source."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from fixtures.graphs import build
from onnx_soda._errors import ModelFileError, OutputError
from onnx_soda._model.load import OnnxModel, load_model
from onnx_soda._repair.files import PROVENANCE_KEY, read_proto, with_provenance, write_model


@pytest.fixture
def source(tmp_path: Path) -> OnnxModel:
    path = tmp_path / "model.onnx"
    onnx.save(build("gemm"), path)
    return load_model(path)


@pytest.fixture
def outside(tmp_path: Path) -> OnnxModel:
    """A model with a weight of 4 kB beside it."""
    model = build("gemm")
    big = numpy_helper.from_array(np.arange(1024, dtype=np.float32), "unused")
    model.graph.initializer.append(big)
    path = tmp_path / "model.onnx"
    onnx.save_model(
        model, path, save_as_external_data=True, location="model.onnx.data", size_threshold=1024
    )
    return load_model(path)


def test_it_is_what_was_given_and_loads(source: OnnxModel, tmp_path: Path) -> None:
    proto = read_proto(source)
    write_model(proto, source, tmp_path / "out.onnx")
    assert onnx.load(tmp_path / "out.onnx") == proto
    assert {path.name for path in tmp_path.iterdir()} == {"model.onnx", "out.onnx"}


def test_provenance_is_in_the_metadata_once(source: OnnxModel) -> None:
    proto = read_proto(source)
    proto.metadata_props.add(key="author", value="somebody")
    marked = with_provenance(with_provenance(proto, source, (1, 2)), source, (1, 2))
    kept = {entry.key: entry.value for entry in marked.metadata_props}
    assert list(kept) == ["author", PROVENANCE_KEY]
    assert len(marked.metadata_props) == 2
    assert source.sha256 in kept[PROVENANCE_KEY]
    assert [entry.key for entry in proto.metadata_props] == ["author"]


def test_weights_outside_stay_outside(outside: OnnxModel, tmp_path: Path) -> None:
    before = (tmp_path / "model.onnx.data").read_bytes()
    proto = read_proto(outside)
    write_model(proto, outside, tmp_path / "out.onnx")
    assert proto == read_proto(outside), "what was given stays as it is"
    modes = {(tmp_path / name).stat().st_mode for name in ("out.onnx", "out.onnx.data")}
    assert len(modes) == 1
    assert (tmp_path / "model.onnx.data").read_bytes() == before
    assert load_model(tmp_path / "out.onnx").external_data[0].file == "out.onnx.data"
    assert onnx.load(tmp_path / "out.onnx").graph == onnx.load(tmp_path / "model.onnx").graph


def test_the_source_is_never_written_over(source: OnnxModel, tmp_path: Path) -> None:
    before = (tmp_path / "model.onnx").read_bytes()
    (tmp_path / "link.onnx").symlink_to("model.onnx")
    for name in ("model.onnx", "link.onnx"):
        with pytest.raises(OutputError):
            write_model(read_proto(source), source, tmp_path / name)
    assert (tmp_path / "model.onnx").read_bytes() == before


def test_weights_of_the_source_are_never_written_over(outside: OnnxModel, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    with pytest.raises(OutputError, match=r"model\.onnx"):
        write_model(read_proto(outside), outside, tmp_path / "model.onnx")


def test_what_cannot_be_loaded_leaves_nothing_behind(source: OnnxModel, tmp_path: Path) -> None:
    broken = read_proto(source)
    broken.graph.node[0].op_type = "NoSuchOperator"
    (tmp_path / "out.onnx").write_text("what was there")
    with pytest.raises(Exception, match="NoSuchOperator"):
        write_model(broken, source, tmp_path / "out.onnx")
    assert (tmp_path / "out.onnx").read_text() == "what was there"
    assert {path.name for path in tmp_path.iterdir()} == {"model.onnx", "out.onnx"}


def test_a_file_that_changed_meanwhile_is_refused(source: OnnxModel, tmp_path: Path) -> None:
    onnx.save(build("keras"), tmp_path / "model.onnx")
    with pytest.raises(ModelFileError, match="changed"):
        read_proto(source)
