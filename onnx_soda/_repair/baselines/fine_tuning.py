"""Fine-tuning: all weights are trained on clean images, and nothing else is done.

The row that belongs beside NAD and its like. With the attention loss of NAD's own demonstration
masked out, fine-tuning alone did nearly as well there (bboylyg/NAD#17), so what a method adds is
what it does better than this.

Parameters, as those of NAD's student without its distillation:

- "paper": the program of Li et al. (ICLR 2021, github.com/bboylyg/NAD): SGD with Nesterov's
  momentum of 0.9, weight decay 1e-4, batches of 64, rate 0.1 for two epochs and 0.01 after them. Of
  its 20 epochs 10 are run, which keeps the digits of this project under a minute on one thread;
- "published": what the comparison in the SODA paper was run with (github.com/sunbing7/NAD): Adam,
  10 epochs, rate 1e-3 or 1e-4 by data set.

The rates of "paper" are meant for networks whose BatchNorm follows the images, which that of an
ONNX file does not; it is mostly folded into the convolutions. So a tenth and a hundredth of the
rates are tried where the whole ones lose too much of the accuracy, and what was taken is told.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import ClassVar

from onnx_soda._repair.base import Removal
from onnx_soda._repair.baselines.base import Examples, Rival, clean_of, strongest
from onnx_soda._repair.baselines.networks import Network, Recipe, network_of
from onnx_soda._repair.preparation import ImageSet, Preparation

# As above; of the published comparison the larger rate, which the factors make the smaller one.
_EPOCHS, _FIRST = 10, 2
_PAPER = Recipe((0.1,) * _FIRST + (0.01,) * (_EPOCHS - _FIRST), decay=1e-4)
_PUBLISHED = Recipe((1e-3,) * _EPOCHS, adam=True)
# Of the rates, tried in this order.
_FACTORS, _PUBLISHED_FACTORS = (1.0, 0.1, 0.01), (1.0, 0.1)


class FineTuningRemover(Rival):
    """Trains all weights on clean images."""

    name: ClassVar[str] = "fine-tuning"
    title: ClassVar[str] = "Fine-tuning"
    source: ClassVar[str] = "as the student of Li et al., ICLR 2021, without distillation"
    trains: ClassVar[str] = "all"

    def __init__(self, ready: Preparation) -> None:
        super().__init__(ready)
        self.network = self.converted()
        self.recipe = _PUBLISHED if self.published else _PAPER

    def converted(self) -> Network:
        """Return the classifier in torch."""
        return network_of(self.ready, f"{self.title} needs")

    def begin(self, teaching: Examples, held_out: Examples) -> tuple[str, ...]:
        """Do what comes before the training; return sentences on it.

        Args:
            teaching: Images that may teach.
            held_out: Images that may judge.
        """
        del teaching, held_out
        return ()

    def trained(self, examples: Examples, factor: float) -> bool:
        """Train the network, from its start; tell whether it went well.

        Args:
            examples: Images to train on.
            factor: Of the rates.
        """
        self.network.put(self.network.start)
        return self.network.train(examples, self.recipe.times(factor), self.teller(self.title))

    def teller(self, stage: str) -> Callable[[int, int], None]:
        """Return what tells how far a training is."""
        return lambda done, total: self.ready.progress(f"{stage}: epochs", done, total)

    def remove(self, folds: Sequence[ImageSet]) -> Removal:
        """Train with the largest rates that keep the accuracy; see `Remover.remove`.

        They are tried on all folds but the last, which judges; the one taken trains on all.
        """
        network, held_out = self.network, clean_of(folds[-1:])
        teaching, every = clean_of(folds[:-1]), clean_of(folds)
        judged = self.judged(network.accuracy(held_out))
        done = self.begin(teaching, held_out)

        def tries() -> Iterator[tuple[float, float | None]]:
            for factor in _PUBLISHED_FACTORS if self.published else _FACTORS:
                well = self.trained(teaching, factor)
                yield factor, network.accuracy(held_out) if well else None

        factor, judged = strongest(tries(), judged)
        if factor is None or not self.trained(every, factor):
            return self.failed(judged, *done)
        rates = self.recipe.times(factor).rates
        facts = {"rate": rates[0], "epochs": len(rates)}
        return Removal(network.bridge.write_back(), facts=facts, notes=self.told(*done))
