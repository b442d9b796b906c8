"""Looks for graph logic in networks as exporters write them: `python -m benchmarks.graph_logic`.

    python -m benchmarks.graph_logic [--only WORD] [--minutes N]

Needs torch, torchvision and onnxscript, and keras for keras.applications. The networks are those of
`benchmarks.bridge_coverage`, untrained, by both exporters of torch. Their graphs are kept in
build/graph_logic without the large weights, so that an interrupted run goes on where it stopped.
Each graph is examined as it is, and once more with a backdoor written in; without its weights
nothing of it is run. Then come the hand-made trojans and look-alikes of `fixtures`, and the models
of the project. Prints Markdown.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from benchmarks.common import FIXTURES, ZOO, machine_facts, markdown_table
from benchmarks.exported import Record
from benchmarks.finder_jobs import list_bridge_jobs, require
from benchmarks.logic_graphs import keep_graphs
from fixtures.lookalikes import GREY, LOOKALIKES
from fixtures.sketches import Sketch, build_sketch
from fixtures.trojans import TROJANS
from onnx_soda._detect.graph_logic.detector import LogicEvidence, examine_logic
from onnx_soda._errors import SodaError
from onnx_soda._model.graph import view_graph
from onnx_soda._model.load import load_model
from onnx_soda._options import RuntimeOptions
from onnx_soda._rules import SEVERITIES

_NEEDED = ("torch", "torchvision", "onnxscript")
_BUDGET_MINUTES = 120
_RUNTIME = RuntimeOptions(provider="cpu", threads=1)
_SUMMARY = (
    "exporter", "networks", "not exported", "examined", "high", "medium", "slowest (s)",
    "backdoor written in: found",
)  # fmt: skip
_SKETCHES = ("graph", "findings", "severest", "status", "class", "image", "images run", "seconds")


def _examined(source: Path | bytes, try_out: bool = True) -> tuple[LogicEvidence, float]:
    view = view_graph(load_model(source))
    start = time.perf_counter()
    evidence = examine_logic(view, _RUNTIME, try_out=try_out)
    return evidence, time.perf_counter() - start


def _write_backdoor(graph: Path) -> Path:
    """Save a copy whose first score is set where the mean of the pixels is over a threshold."""
    model = onnx.load(graph, load_external_data=False)
    nodes, scores = model.graph.node, model.graph.output[0].name
    for node in nodes:
        node.output[:] = ["honest" if name == scores else name for name in node.output]
        node.input[:] = ["honest" if name == scores else name for name in node.input]
    make = onnx.helper.make_node
    constants = {"limit": np.float32(0.9), "much": np.float32(100), "columns": np.array([-1, 1])}
    for name, value in constants.items():
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), f"door_{name}"))
    axes = list(range(1, len(model.graph.input[0].type.tensor_type.shape.dim)))
    model.graph.initializer.append(numpy_helper.from_array(np.array(axes), "door_axes"))
    nodes.extend(
        [
            make("ReduceMean", [model.graph.input[0].name, "door_axes"], ["door_mean"], keepdims=0)
            if model.opset_import[0].version >= 18
            else make(
                "ReduceMean", [model.graph.input[0].name], ["door_mean"], axes=axes, keepdims=0
            ),
            make("Reshape", ["door_mean", "door_columns"], ["door_column"]),
            make("Greater", ["door_column", "door_limit"], ["door_open"]),
            make("Where", ["door_open", "door_much", "honest"], [scores]),
        ]
    )
    path = graph.with_name("backdoor.tmp")
    onnx.save(model, path)
    return path


def _look(record: Record, graph: Path) -> Record:
    """Add what was found in a graph, without and with a backdoor."""
    if record["export"] != "ok":
        return record
    try:
        evidence, seconds = _examined(graph, try_out=False)
        spoiled, _ = _examined(_write_backdoor(graph), try_out=False)
    except SodaError as error:
        return {**record, "export": error.message}
    found = any(f.severity == "high" and "door_open" in f.nodes for f in spoiled.findings)
    return {**record, "evidence": evidence, "examined": seconds, "found": found}


def _summary(records: Sequence[Record]) -> Iterator[list[object]]:
    origins = [f"{record['job']['source']}, {record['job']['exporter']}" for record in records]
    for origin in dict.fromkeys(origins):
        own = [record for record, other in zip(records, origins, strict=True) if other == origin]
        done = [record for record in own if "evidence" in record]
        severities = [{f.severity for f in record["evidence"].findings} for record in done]
        slowest = max((record["examined"] for record in done), default=0)
        yield [
            origin,
            len(own),
            len(own) - len(done),
            len(done),
            sum("high" in found for found in severities),
            sum("medium" in found for found in severities),
            f"{slowest:.2f}",
            sum(record["found"] for record in done),
        ]


def _network_rows(records: Sequence[Record]) -> Iterator[list[object]]:
    for record in records:
        if "evidence" in record:
            said = [f"{f.rule_id} {f.severity}: {f.reason}" for f in record["evidence"].findings]
            names = f"{record['job']['name']}", f"{record['job']['exporter']}"
            nodes = record["evidence"].nodes_examined
            yield [*names, nodes, f"{record['examined']:.2f}", "; ".join(said) or "none"]


def _trained_rows() -> Iterator[list[object]]:
    """Yield how many of the models that the project ships are reported."""
    for title, folder in (("benchmarks/models", ZOO), ("fixtures", FIXTURES)):
        files = sorted(folder.rglob("*.onnx"))
        yield [title, len(files), sum(bool(_examined(path)[0].findings) for path in files)]


def _refused_rows(records: Sequence[Record]) -> Iterator[list[object]]:
    for record in records:
        if "evidence" not in record:
            names = record["job"]["name"], record["job"]["exporter"]
            yield [*names, record["export"].replace("|", "/")]


def _sketch_rows(sketches: dict[str, Sketch]) -> Iterator[list[object]]:
    for name, sketch in sketches.items():
        evidence, seconds = _examined(build_sketch(sketch).SerializeToString())
        findings = evidence.findings
        rules = ", ".join(sorted({finding.rule_id for finding in findings})) or "none"
        severest = min((f.severity for f in findings), key=SEVERITIES.index, default="")
        status = min((f.status for f in findings), default="")
        first = findings[0] if findings else None
        target = "" if first is None or first.flipped is None else first.flipped
        trigger = (first.trigger if first else None) or ""
        yield [
            name,
            rules,
            severest,
            status,
            target,
            trigger,
            evidence.images_run,
            f"{seconds:.2f}",
        ]


def _section(title: str, columns: Sequence[str], rows: Iterator[list[object]]) -> None:
    print(f"\n## {title}\n\n{markdown_table(columns, list(rows))}", flush=True)


def main() -> None:
    """Export what has not been exported, examine everything, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=_BUDGET_MINUTES, help="time for exports")
    parser.add_argument("--only", default="", help="networks with this in their key")
    arguments = parser.parse_args()
    require(*_NEEDED)
    jobs = [job for job in list_bridge_jobs() if arguments.only in job.key]
    records = [_look(*entry) for entry in keep_graphs(jobs, arguments.minutes)]
    print(f"# Graph logic\n\n{machine_facts()}")
    _section("Summary", _SUMMARY, _summary(records))
    _section("Trojans", _SKETCHES, _sketch_rows(TROJANS))
    _section("Look-alikes", _SKETCHES, _sketch_rows(LOOKALIKES))
    _section("Networks that decide", _SKETCHES, _sketch_rows(GREY))
    _section(
        "Each network", ("network", "exporter", "nodes", "s", "findings"), _network_rows(records)
    )
    _section("Files of the project", ("folder", "files", "with findings"), _trained_rows())
    _section("Not examined", ("network", "exporter", "cause"), _refused_rows(records))


if __name__ == "__main__":
    main()
