"""How often graph logic is wrong about honest networks: `python -m benchmarks.honest`.

    python -m benchmarks.honest [--part PART ...] [--minutes N]

Parts: `field` (files rebuilt from public bug reports, where they are at hand), `scans` (whole scans
of these files with their clean set, held against what is right), `exports` (networks of timm,
keras.applications and torchvision with random weights, as `benchmarks.graph_logic` exports and
keeps them; it goes on where it stopped), `small` (honest networks with skips and gates, untrained),
`trained` (the same kinds, trained on digits; kept in build/honest), `planted` (networks with a
backdoor). `exports` needs torch, torchvision and onnxscript, and takes timm and keras where they
are installed; `trained` needs torch and scikit-learn. Prints Markdown.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import h5py
import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from benchmarks.common import FIXTURES, HONEST, SHARED, machine_facts, markdown_table
from benchmarks.field_scans import scan_field
from benchmarks.finder_jobs import list_honest_jobs, require
from benchmarks.logic_graphs import keep_graphs
from fixtures.gates import ACTIVATIONS, HIDDEN, HONEST_GATES, honest_skips
from fixtures.lookalikes import GREY, LOOKALIKES
from fixtures.sketches import Sketch, build_sketch
from fixtures.trojans import TROJANS
from onnx_soda._detect.graph_logic.detector import examine_logic
from onnx_soda._detect.graph_logic.images import Clean
from onnx_soda._errors import SodaError
from onnx_soda._model.graph import view_graph
from onnx_soda._model.load import load_model
from onnx_soda._options import RuntimeOptions
from onnx_soda._rules import SEVERITIES

_RUNTIME = RuntimeOptions(provider="cpu", threads=1)
_CLEAN = 12
_GATE_ACTIVATIONS = ("relu", "silu")
_DRAWS = 3
# Name, severest finding (or "none", or why it was refused), and rules.
Row = tuple[str, str, str]
Images = NDArray[np.float32]


def _examined(
    name: str, source: Path | bytes, images: tuple[Images, ...] = (), try_out: bool = True
) -> Row:
    try:
        view = view_graph(load_model(source))
        found = examine_logic(view, _RUNTIME, try_out=try_out, clean=lambda: Clean(images)).findings
    except SodaError as error:
        return name, "refused", error.message
    severest = min((one.severity for one in found), key=SEVERITIES.index, default="none")
    return name, severest, ", ".join(sorted({one.rule_id for one in found}))


def _sketched(sketches: dict[str, Sketch]) -> Iterator[Row]:
    """Examine each sketch with several draws of its random weights."""
    for name, sketch in sketches.items():
        for seed in range(_DRAWS):
            model = build_sketch(sketch, seed=seed)
            yield _examined(f"{name}, draw {seed}", model.SerializeToString())


def _field(_minutes: float) -> Iterator[Row]:
    for path in sorted((SHARED / "field").glob("*.onnx")):
        yield _examined(path.stem, path)


def _scans(_minutes: float) -> Iterator[Row]:
    for one in scan_field():
        told = f"wrong: {one.wrong}" if one.wrong else f"right: exit {one.code}, {one.said[:90]}"
        print(f"{one.name}: {told}", flush=True)
        yield one.name, "none" if one.severest == "info" else one.severest, told


def _exports(minutes: float) -> Iterator[Row]:
    require("torch", "torchvision", "onnxscript")
    for record, graph in keep_graphs(list_honest_jobs(), minutes):
        name = "{source}, {name}, {exporter}".format(**record["job"])
        if record["export"] == "ok":
            yield _examined(name, graph, try_out=False)
        elif "out of time" not in record["export"]:
            print(f"{name}: not exported: {record['export'][:90]}", flush=True)


def _small(_minutes: float) -> Iterator[Row]:
    for kind in ACTIVATIONS:
        yield from _sketched(honest_skips(kind))
    yield from _sketched({**HONEST_GATES, **GREY, **LOOKALIKES})


def _trained(_minutes: float) -> Iterator[Row]:
    require("torch", "sklearn")
    # Torch takes long to import, and the other parts need none.
    from benchmarks.trained_networks import GATES, SKIPS, Drawn, draw_digits, train_network

    HONEST.mkdir(parents=True, exist_ok=True)
    with h5py.File(FIXTURES / "digits-clean.h5") as file:
        images = file["images"][:].transpose(0, 3, 1, 2).astype(np.float32) / 255
        labels = file["labels"][:].astype(np.int64)
    clean = tuple(images[:: len(images) // _CLEAN])
    drawn: Drawn | None = None
    kinds = {**dict.fromkeys(GATES, _GATE_ACTIVATIONS), **dict.fromkeys(SKIPS, ACTIVATIONS)}
    for name, kind in ((name, kind) for name, some in kinds.items() for kind in some):
        path = HONEST / f"{name}-{kind}.onnx"
        if not path.is_file():
            drawn = drawn or draw_digits()
            train_network(path, name, kind, drawn)
        told = f"{path.stem}, {100 * _accuracy(path, images, labels):.0f} % right"
        print(told, flush=True)
        yield _examined(f"{told}, with clean images", path, clean)
        yield _examined(told, path)


def _accuracy(path: Path, images: Images, labels: NDArray[np.int64]) -> float:
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    (scores,) = session.run(None, {session.get_inputs()[0].name: images})
    return float((scores.argmax(1) == labels).mean())


def _planted(_minutes: float) -> Iterator[Row]:
    yield from _sketched({**TROJANS, **HIDDEN})


_PARTS: dict[str, Callable[[float], Iterable[Row]]] = {
    "field": _field, "scans": _scans, "exports": _exports, "small": _small, "trained": _trained,
    "planted": _planted,
}  # fmt: skip
_COLUMNS = ("part", "files", "high", "medium", "none", "refused")


def main() -> None:
    """Examine the parts asked for, and print a line for each and one for every finding."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", nargs="+", choices=_PARTS, default=list(_PARTS))
    parser.add_argument("--minutes", type=float, default=60, help="time for exports")
    arguments = parser.parse_args()
    print(f"# Honest files\n\n{machine_facts()}\n", flush=True)
    told = {part: list(_PARTS[part](arguments.minutes)) for part in arguments.part}
    counts = [
        [part, len(rows), *(sum(row[1] == one for row in rows) for one in _COLUMNS[2:])]
        for part, rows in told.items()
    ]
    print(f"\n## Summary\n\n{markdown_table(_COLUMNS, counts)}\n")
    # A backdoor is worth a line where it is missed, an honest network where it is not passed over.
    worth = [
        (part, *row)
        for part, rows in told.items()
        for row in rows
        if row[1] != ("high" if part == "planted" else "none") or row[2].startswith("wrong")
    ]
    print(markdown_table(("part", "network", "severest", "rules, or why refused"), worth))


if __name__ == "__main__":
    main()
