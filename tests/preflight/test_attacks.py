"""Every attack of fixtures/hostile.py is refused for its own reason, soon and in little memory."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fixtures.hostile import ATTACKS, RUNTIME_BOMBS
from fixtures.stolen_weights import CANARY
from onnx_soda._errors import (
    ExternalDataError,
    ModelFileError,
    SodaError,
    UnsupportedModelError,
)
from onnx_soda._model.graph import view_graph
from onnx_soda._model.load import load_model
from onnx_soda._rules import RULES

SECONDS = 2.0
ROOT = Path(__file__).parents[2]

OUTSIDE = (ExternalDataError, "SODA301", "outside its own folder")
BOMB = UnsupportedModelError, "SODA303"
DAMAGED = ModelFileError, None
TWICE = ModelFileError, "SODA305"
REFUSALS = {
    "external-parent": OUTSIDE,
    "external-parent-inside": OUTSIDE,
    "external-absolute": (ExternalDataError, "SODA301", "not a path beside it"),
    "external-drive": (ExternalDataError, "SODA301", "not a path beside it"),
    "external-backslash": (ExternalDataError, "SODA301", "with a backslash"),
    "external-nul": (ExternalDataError, None, "missing beside the model"),
    "external-symlink": OUTSIDE,
    "external-checksum": (ExternalDataError, "SODA302", "SHA-1 checksum"),
    "external-length": (ExternalDataError, "SODA302", "which has 64"),
    "external-offset": (ExternalDataError, "SODA302", "which has 64"),
    "external-short": (ExternalDataError, "SODA302", "needs 64 bytes"),
    "external-many-readers": (*BOMB, "read 2560 bytes from weights files of 64"),
    "external-mostly-hole": (*BOMB, "weights files of .* have 68719476736 bytes"),
    "external-constant": OUTSIDE,
    "external-sparse-constant": OUTSIDE,
    "external-sparse-initializer": OUTSIDE,
    "allocation-171-bytes": (*BOMB, "result of ConstantOfShape 'k'"),
    "allocation-computed": (*BOMB, "result of ConstantOfShape 'large'"),
    "allocation-unsorted": (*BOMB, "result of ConstantOfShape 'large'"),
    "allocation-from-shape": (*BOMB, "vectors of 1.68e"),
    "allocation-vector": (*BOMB, "vectors of 6.71e"),
    "allocation-vectors-joined": (*BOMB, "vectors of 3.38e"),
    "allocation-range": (*BOMB, "result of Range"),
    "allocation-expand": (*BOMB, "result of Expand"),
    "allocation-tile": (*BOMB, "result of Tile"),
    "allocation-pad": (*BOMB, "result of Pad"),
    "allocation-intermediate": (*BOMB, "tensor 'a7' .* has 4.29e"),
    "unchecked-from-shape": (*BOMB, "vectors of 1.68e"),
    "unchecked-vectors-joined": (*BOMB, "vectors of 3.38e"),
    "unchecked-intermediate": (*BOMB, "tensor 'a7' .* has 4.29e"),
    "unchecked-batch": (*BOMB, "2147483648 images at once"),
    "rank": (*BOMB, "has 100000 axes"),
    "functions-1e4": (*BOMB, "once its functions are put in, over the limit of 8000"),
    "functions-1e7": (*BOMB, "once its functions are put in"),
    "functions-1e9": (*BOMB, "once its functions are put in"),
    "functions-1e30": (*BOMB, "once its functions are put in"),
    "functions-deep": (*BOMB, "functions that call functions too deep"),
    "functions-recursive": (*DAMAGED, "own::F0 calls itself"),
    "functions-recursive-branch": (*DAMAGED, "own::F0 calls itself"),
    "functions-twice": (*TWICE, "function own::F0 2 times"),
    "functions-shadowing": (*TWICE, "ai.onnx::Relu, in place of a standard"),
    "domain": (UnsupportedModelError, "SODA304", "unknown operators: nobody::Relu"),
    "truncated": (*DAMAGED, "cut short"),
    "nested-ifs": (*BOMB, "nests graphs 9 deep"),
    "nested-messages": (*BOMB, "nests messages 65 deep"),
    "empty-messages": (*BOMB, "too many messages"),
    "long-list": (*BOMB, "number lists"),
    "metadata": (*BOMB, "metadata and doc strings"),
    "strings": (*BOMB, "200000 strings"),
    "name": (*BOMB, "producer_name of 20971520 bytes"),
    "outputs": (*BOMB, "too many outputs of a graph"),
    "outputs-of-a-node": (*BOMB, "too many outputs of a node"),
    "twice-initializer": (*TWICE, "initializer 'W' 2 times"),
    "twice-output": (*TWICE, "node output 'h' 2 times"),
    "twice-input": (*TWICE, "input 'x' 2 times"),
    "twice-weight": (*TWICE, "computes the tensor 'W'"),
    "dims-huge": (ModelFileError, "SODA306", "needs 18446744073709551616 bytes"),
    "dims-overflowing": (ModelFileError, "SODA306", "needs 18446744073709551616 bytes"),
    "dims-negative": (ModelFileError, "SODA306", "negative dimension"),
    "dims-many": (*BOMB, "1002 axes"),
    "batch": (*BOMB, "2147483648 images at once"),
    "pipe": (*DAMAGED, "not a regular file"),
    "folder": (*DAMAGED, "is a folder"),
    "empty": (*DAMAGED, "is empty"),
    "zip": (*DAMAGED, "a zip archive"),
    "pickle": (*DAMAGED, "a Python pickle, which can run code"),
}  # fmt: skip


def test_every_attack_has_an_expected_end() -> None:
    assert set(REFUSALS) == set(ATTACKS)
    assert {rule for _, rule, _ in REFUSALS.values() if rule} <= set(RULES)


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_is_refused(name: str, tmp_path: Path) -> None:
    path = ATTACKS[name](tmp_path)
    before = sorted(tmp_path.rglob("*"))
    kind, rule, words = REFUSALS[name]
    start = time.process_time()
    with pytest.raises(kind, match=words) as caught:
        view_graph(load_model(path))
    assert time.process_time() - start < SECONDS
    assert type(caught.value) is kind
    assert caught.value.rule_id == rule
    assert caught.value.advice
    assert len(caught.value.message) < 500
    assert CANARY.decode()[:16] not in caught.value.message
    assert sorted(tmp_path.rglob("*")) == before, "nothing was written"


# Reads models one after another and tells how much memory it has come to.
WATCHED = """
import json, resource, sys
from onnx_soda._errors import SodaError
from onnx_soda._model.graph import view_graph
from onnx_soda._model.load import load_model
def top(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
start, grown = top(), {}
for path in sys.argv[1:]:
    try: view_graph(load_model(path))
    except SodaError: pass
    grown[path] = top() - start
print(json.dumps(grown))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="counts memory in Linux's units")
def test_no_attack_takes_much_memory(tmp_path: Path) -> None:
    paths = {}
    for name, build in ATTACKS.items():
        (tmp_path / name).mkdir()
        paths[str(build(tmp_path / name))] = name
    run = subprocess.run(
        [sys.executable, "-c", WATCHED, *paths], cwd=ROOT, capture_output=True, timeout=60
    )
    assert run.returncode == 0, run.stderr
    grown = json.loads(run.stdout)
    # The largest file has 68 MB, which are read.
    assert max(grown.values()) < 250 * 1024, {paths[path]: kib for path, kib in grown.items()}


@pytest.mark.parametrize("name", RUNTIME_BOMBS)
def test_a_bomb_of_the_run_time_does_no_harm_while_it_is_only_read(
    name: str, tmp_path: Path
) -> None:
    start = time.process_time()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        view_graph(load_model(RUNTIME_BOMBS[name](tmp_path)))
    except SodaError as error:
        assert error.message  # noqa: PT017 - refusing it would be right too
    assert time.process_time() - start < SECONDS
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 1024
