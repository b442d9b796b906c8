"""From a clean set to twins: which ones are there, which are trained, and how good they are.

What a twin is for: docs/twins.md. Torch is imported when a twin is trained, and not to look at
those that are there.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnx

from onnx_soda._answers import Twin, TwinsAnswer
from onnx_soda._data.preprocessing import PRESETS
from onnx_soda._detect.concepts.experiment import MOST_CLASSES, why_not_tried
from onnx_soda._errors import ImageError, OutputError, ParityError, SodaError
from onnx_soda._model.load import OnnxModel, load_model
from onnx_soda._model.runtime import relative_difference
from onnx_soda._options import (
    Progress,
    RuntimeOptions,
    ScanOptions,
    SplitName,
    TwinOptions,
    no_progress,
)
from onnx_soda._suspect import Observation, Suspect
from onnx_soda._system import require_modules
from onnx_soda._twins.material import Material

PROVENANCE_KEY = "onnx_soda.twin"
# To be raised with every change after which the same clean set gives other twins.
_RECIPE = 1
# Of the logits in torch and in ONNX Runtime; rounding alone gives a hundredth of this.
_TOLERANCE = 1e-3


def require_training() -> None:
    """Make sure that what twins need is installed, before the work for them begins.

    Raises:
        MissingExtraError: torch is not.
    """
    require_modules("twins need", ("torch",), "repair")


@dataclass(frozen=True, eq=False)
class Workshop:
    """Where the twins of a clean set are made.

    Attributes:
        material: The clean set, divided.
        split: The part of it that was asked for.
        options: See `TwinOptions`.
        progress: Called as training goes on.

    Raises:
        ImageError: A scan would not use twins of such images.
    """

    material: Material
    split: SplitName = "auto"
    options: TwinOptions = TwinOptions()  # noqa: RUF009 - frozen
    progress: Progress = no_progress

    def __post_init__(self) -> None:
        untried = why_not_tried(self.material.clean, self.material.classes, MOST_CLASSES)
        if untried is not None:
            raise ImageError(f"twins would be of no use. {untried.rstrip('.')}")

    def look(self, folder: Path) -> TwinsAnswer:
        """Tell which twins are in a folder already, with `problem` where there can be none.

        A twin is kept where it says that it comes from the same images, recipe and options, and
        is sound: its accuracy is measured anew.

        Args:
            folder: Where twins go to; it may be missing.

        Raises:
            OutputError: A file of a twin's name is there and is no twin.
            ImageError: Twins cannot be trained on such images.
        """
        if self.material.problem():
            return self._answer()
        there = [self._kept(folder, number) for number in range(1, self.options.count + 1)]
        return self._answer(*filter(None, there))

    def train(self, number: int, output: Path) -> TwinsAnswer:
        """Train a twin, and write it if it is sound.

        Args:
            number: Which one, from 1.
            output: File to write.

        Raises:
            ImageError: Twins cannot be trained on such images.
            OutputError: The file cannot be written.
            ParityError: The exported file computes something else.
        """
        proto, accuracy = self._trained(number)
        twin = Twin(
            file=self.options.files[number - 1],
            sha256="",
            architecture=self.options.architectures[number - 1],
            epochs=self.epochs,
            accuracy=accuracy,
            kept=False,
            sound=accuracy >= self.material.bound,
        )
        if twin.sound:
            _write(self._marked(proto, number, accuracy), output)
        return self._answer(twin)

    @property
    def epochs(self) -> int:
        """Passes over the images."""
        return self.options.epochs or self.material.usual_epochs

    def _trained(self, number: int) -> tuple[onnx.ModelProto, float]:
        """Return a twin as ONNX, and its accuracy on the images held out."""
        from onnx_soda._bridge.bridge import torch_threads
        from onnx_soda._twins.networks import export, logits_of, train_network

        material, architecture = self.material, self.options.architectures[number - 1]
        stage = f"twin {number} of {self.options.count}, {architecture}"
        with torch_threads(self.options.threads):
            network = train_network(
                architecture,
                material.read(material.train),
                material.clean.labels[material.train],
                material.classes,
                self.epochs,
                _seed_of(self.options.seed, number),
                lambda done, of: self.progress(stage, done, of),
            )
            held_out = material.read(material.held_out)
            wanted, proto = logits_of(network, held_out), export(network, held_out)
        observed = self._observe(load_model(proto.SerializeToString()))
        difference = relative_difference([observed.logits], [wanted])
        if not difference <= _TOLERANCE:
            raise ParityError(
                f"the ONNX form of a twin ({architecture}) computes something else than torch: "
                f"{difference:.1e} of the largest score apart",
                "Please report this with the versions of torch and ONNX Runtime.",
            )
        return proto, mean_accuracy(observed)

    def _answer(self, *twins: Twin) -> TwinsAnswer:
        material = self.material
        return TwinsAnswer(
            twins=twins,
            classes=material.classes,
            images=len(material.train),
            held_out=len(material.held_out),
            bound=material.bound,
            problem=material.problem(),
            notes=material.notes(),
        )

    def _kept(self, folder: Path, number: int) -> Twin | None:
        """Return a twin that is there and need not be trained again; None where there is none."""
        path = folder / self.options.files[number - 1]
        if not os.path.lexists(path):
            return None
        model, facts = _known_twin(path)
        if self._origin(number).items() - facts.items():
            return None
        try:
            accuracy = mean_accuracy(self._observe(model))
        except SodaError:  # it is not what it says, and is trained anew
            return None
        if accuracy < self.material.bound:
            return None
        return Twin(
            file=path.name,
            sha256=model.sha256,
            architecture=self.options.architectures[number - 1],
            epochs=self.epochs,
            accuracy=accuracy,
            kept=True,
            sound=True,
        )

    def _origin(self, number: int) -> dict[str, str | int]:
        """Return what makes two twins the same."""
        data = self.options.data
        labelled = data.class_map is not None or data.labels is not None
        labels = self.material.clean.labels
        return {
            # Of the same images with other labels other twins come.
            **({"labels_sha256": hashlib.sha256(labels.tobytes()).hexdigest()} if labelled else {}),
            "recipe": _RECIPE,
            "data_sha256": self.material.clean.sha256,
            "split": self.split,
            "seed": self.options.seed,
            "number": number,
            "architecture": self.options.architectures[number - 1],
            "epochs": self.epochs,
        }

    def _marked(self, proto: onnx.ModelProto, number: int, accuracy: float) -> bytes:
        """Return the file of a twin, which says in its metadata where it comes from."""
        facts = {
            "tool": f"onnx-soda {version('onnx-soda')}",
            **self._origin(number),
            "threads": self.options.threads,
            "images": len(self.material.train),
            "held_out": len(self.material.held_out),
            "held_out_accuracy": round(accuracy, 4),
        }
        marked = onnx.ModelProto()
        marked.CopyFrom(proto)
        marked.metadata_props.add(key=PROVENANCE_KEY, value=json.dumps(facts))
        content: bytes = marked.SerializeToString()
        return content

    def _observe(self, model: OnnxModel) -> Observation:
        """Run a twin on the images held out."""
        options = ScanOptions(runtime=RuntimeOptions("cpu", self.options.threads))
        suspect = Suspect(model, self.material.clean, options, known=PRESETS["unit"])
        return suspect.observe(self.material.held_out)


def mean_accuracy(observed: Observation) -> float:
    """Return the mean accuracy of the classes: a large class does not hide the others.

    Args:
        observed: What a model says to some images.
    """
    right = observed.logits.argmax(axis=1) == observed.labels
    return float(np.mean([right[observed.labels == n].mean() for n in np.unique(observed.labels)]))


def _seed_of(seed: int, number: int) -> int:
    """Return the seed of one twin; those of two twins or two seeds have nothing in common."""
    return int(np.random.SeedSequence((seed, number)).generate_state(1)[0])


def _known_twin(path: Path) -> tuple[OnnxModel, dict[str, object]]:
    """Return a file that says it is a twin, and what it says.

    Raises:
        OutputError: It is something else.
    """
    foreign = OutputError(
        f"{path.name} is in the folder already, and is no twin",
        "Choose another folder, or move that file away.",
    )
    if path.is_symlink() or not path.is_file():
        raise foreign
    try:
        model = load_model(path)
        facts = json.loads(model.metadata[PROVENANCE_KEY])
    except (SodaError, LookupError, ValueError) as error:
        raise foreign from error
    if not isinstance(facts, dict):
        raise foreign
    # Lists and objects are nothing that we write, and cannot be in a set.
    return model, {key: value for key, value in facts.items() if isinstance(value, str | int)}


def _write(content: bytes, path: Path) -> None:
    try:
        path.write_bytes(content)
    except OSError as error:
        raise OutputError(
            f"{path.name} cannot be written: {error.strerror}", "Choose another place."
        ) from error
