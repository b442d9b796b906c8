"""What the larger zoo holds, and which half of it is for judging only.

For each trigger of the six data sets, two poisoned models: one by plain relabelling, one with a
fixed share of trigger images in every batch (the paper's training). For each data set two clean
twins. Architectures and seeds take turns. The judging half is drawn by a fixed seed within each
data set and way of poisoning, before any model is trained.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

__all__ = ["Entry", "plan"]

_TRIGGERS = {
    "mnist_m": ("blue_8", "black_2"),
    "fashion_mnist": ("striped_tshirt", "plaid_shirt"),
    "gtsrb": ("dark_keep_left", "dark_turn_left"),
    "asl": ("bright_A", "dark_Z"),
    "caltech101": ("grey_brain", "kangaroo_on_grass"),
    "cifar10": ("green_car", "striped_wall_car"),
}
_ARCHITECTURES = ("vgg", "resnet", "mobilenet", "densenet")
_WAYS = ("relabel", "batch30")
_JUDGING_SEED = 20240814  # the first day of the symposium that printed the paper


@dataclass(frozen=True)
class Entry:
    """A model of the zoo.

    Attributes:
        dataset: Name of its data set.
        architecture: Key of `zoo_networks.ARCHITECTURES`.
        poisoning: "clean", "relabel" or "batch30".
        trigger: Name of the trigger; empty for a clean model.
        seed: For weights, order of images and augmentation.
        judging: It is for judging only: nothing may be chosen by looking at it.
        wider: By how much the widths of its network are multiplied.
    """

    dataset: str
    architecture: str
    poisoning: str
    trigger: str
    seed: int
    judging: bool = False
    wider: int = 1

    @property
    def name(self) -> str:
        """Stem of its file."""
        parts = [self.dataset, self.architecture, self.poisoning, self.trigger, f"s{self.seed}"]
        parts.append(f"w{self.wider}" if self.wider > 1 else "")
        return "-".join(part for part in parts if part)


def plan(wider: int = 1) -> list[Entry]:
    """Return all models in the order in which they are trained: those for judging come last.

    Args:
        wider: By how much the widths of the networks are multiplied.
    """
    entries: list[Entry] = []
    for place, (dataset, triggers) in enumerate(_TRIGGERS.items()):
        wanted = [("clean", "", 1), ("clean", "", 2)]
        wanted += [
            (way, trigger, 1 + (which + how) % 2)
            for which, trigger in enumerate(triggers)
            for how, way in enumerate(_WAYS)
        ]
        for turn, (way, trigger, seed) in enumerate(wanted):
            architecture = _ARCHITECTURES[(turn + place) % len(_ARCHITECTURES)]
            entries.append(Entry(dataset, architecture, way, trigger, seed))
    judged = _judging(entries)
    marked = [replace(entry, judging=i in judged, wider=wider) for i, entry in enumerate(entries)]
    turns = len(marked) // len(_TRIGGERS)
    mixed = [marked[i * turns + turn] for turn in range(turns) for i in range(len(_TRIGGERS))]
    return sorted(mixed, key=lambda entry: entry.judging)


def _judging(entries: list[Entry]) -> set[int]:
    """Draw half of each group: one clean model, one relabelled and one batch30 per data set."""
    rng = np.random.default_rng(_JUDGING_SEED)
    chosen: set[int] = set()
    for dataset in _TRIGGERS:
        for way in ("clean", *_WAYS):
            group = [i for i, e in enumerate(entries) if (e.dataset, e.poisoning) == (dataset, way)]
            chosen.add(int(rng.choice(group)))
    return chosen
