"""A package of somebody else: a detector, a remover, a report form and a data form.

The tests install it as `toys`, with the entry points in `ENTRY_POINTS`. It imports nothing but the
public names, and is what CONTRIBUTING.md points at as an example.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from onnx_soda import (
    Chart,
    CleanSetForm,
    Column,
    Context,
    Detector,
    Evidence,
    Finding,
    Format,
    Gallery,
    ImageSet,
    Picture,
    Progress,
    Removal,
    Remover,
    Rule,
    Scanned,
    ScanReport,
    SplitData,
    Suspect,
    Table,
    split_from_arrays,
)

ENTRY_POINTS = """
[onnx_soda.detectors]
loudness = toys:LoudnessDetector

[onnx_soda.removers]
nothing = toys:NothingRemover

[onnx_soda.formats]
lines = toys:LinesFormat

[onnx_soda.clean_sets]
toy = toys:TOY_FORM
"""

# One transparent pixel.
_PIXEL = base64.b64encode(
    bytes.fromhex(
        "89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c489"
        "0000000d49444154789c6360606060000000050001a5f645400000000049454e44ae426082"
    )
).decode()


class LoudnessDetector(Detector):
    """Suspects the class whose logit is the largest on average."""

    name = "loudness"
    needs = frozenset({"clean images"})
    rules = (
        Rule(
            id="TOY001",
            name="loud-class",
            severity="high",
            title="A class is louder than all others",
            meaning="Its mean logit is the largest.",
            certainty="None: some class always is.",
            advice="Listen to the model.",
        ),
    )

    def run(self, suspect: Suspect, progress: Progress) -> Evidence:
        observation = suspect.observation
        assert observation is not None
        progress("classes listened to", 1, 1)
        loudness = observation.whole().logits.mean(axis=0)
        loudest = int(loudness.argmax())
        message = f"Class {loudest} is the loudest."
        names = tuple(f"class {number}" for number in range(len(loudness)))
        return Evidence(
            detector=self.name,
            title="How loud classes are",
            verdict="backdoor",
            reasons=(message,),
            findings=(Finding("TOY001", "high", 0, loudest, 1.0, 0.5, message),),
            tables=(
                Table(
                    "Loudness of classes",
                    "Mean logits.",
                    (Column("class"), Column("loudness", "signed")),
                    tuple(zip(names, map(float, loudness), strict=True)),
                    (loudest,),
                ),
            ),
            charts=(
                Chart(
                    "bars",
                    "Loudness drawn",
                    "A bar for each class.",
                    names,
                    tuple((float(value),) for value in loudness),
                    (loudest,),
                ),
            ),
            galleries=(
                Gallery(
                    "What loudness looks like",
                    "Nothing.",
                    (Picture((f"data:image/png;base64,{_PIXEL}",), ("a pixel",), "a caption"),),
                ),
            ),
            numbers={"loudest": loudest},
        )


class NothingRemover(Remover):
    """Removes nothing."""

    name = "nothing"

    def remove(self, folds: Sequence[ImageSet]) -> Removal:
        images = sum(len(fold.clean) for fold in folds)
        return Removal(self.ready.proto, notes=(f"Nothing was done with {images} images.",))


class LinesFormat(Format):
    """A line for each model."""

    name = "lines"

    def render(self, scanned: Sequence[Scanned], context: Context) -> str:
        del context
        return "".join(f"{one.place} = {_verdict(one)}\n" for one in scanned)


def _verdict(one: Scanned) -> str:
    return one.outcome.verdict if isinstance(one.outcome, ScanReport) else "failed"


_MAGIC = b"TOY1"


def write_toy(path: Path, images: np.ndarray, labels: np.ndarray) -> None:
    """Write the data form: the magic, four sizes, labels, pixels."""
    sizes = np.array(images.shape, "<u4")
    path.write_bytes(_MAGIC + sizes.tobytes() + labels.astype("u1").tobytes() + images.tobytes())


def read_toy(path: Path, split: str) -> SplitData:
    """Read it; it has one split."""
    del split
    data = path.read_bytes()[len(_MAGIC) :]
    sizes = np.frombuffer(data[:16], "<u4")
    labels = np.frombuffer(data[16 : 16 + sizes[0]], "u1")
    images = np.frombuffer(data[16 + sizes[0] :], "u1").reshape(sizes)
    return split_from_arrays(images, labels, path.name, (path,))


TOY_FORM = CleanSetForm("toy", "toys:read_toy", magics=(_MAGIC,))
