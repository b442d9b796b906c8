"""Concepts are refined on the fold that chooses them, and are never worse there."""

from __future__ import annotations

import numpy as np
import pytest

from fixtures.graphs import build
from onnx_soda._detect.concepts.closer import refine
from onnx_soda._detect.concepts.concept import Concept, ConceptVariations, draw_concept
from onnx_soda._detect.concepts.examination import FoldedImages
from onnx_soda._detect.concepts.judge import Judge
from onnx_soda._detect.concepts.probe import Probe
from onnx_soda._detect.concepts.score import FloatArray
from onnx_soda._detect.concepts.search import PairFinding
from onnx_soda._detect.concepts.verify import Shown, show_fold
from onnx_soda._model.load import load_model
from onnx_soda._options import RuntimeOptions, ScanOptions
from onnx_soda._suspect import Suspect

PAIR = (0, 1)


@pytest.fixture(scope="module")
def shown() -> list[Shown]:
    pixels = np.random.default_rng(0).random((24, 1, 2, 2)).astype(np.float32)
    labels, fold = np.arange(24) % 3, np.arange(24) // 12
    options = ScanOptions(preprocess="unit", runtime=RuntimeOptions("cpu", 1))
    suspect = Suspect(load_model(build("gemm").SerializeToString()), options=options)
    images = FoldedImages(pixels, labels, fold)
    probe = Probe(suspect, images.one_by_one(), (), 3)
    halves = [images.of(fold == number) for number in range(2)]
    return [show_fold(probe.over(half.one_by_one()), half, np.arange(3)) for half in halves]


def flows(shown: list[Shown], change: Concept | None) -> FloatArray:
    return np.stack([half.flows(change)[fold] for fold, half in enumerate(shown)])


@pytest.fixture(scope="module")
def judge(shown: list[Shown]) -> Judge:
    nothing = np.zeros((2, 3, 3))
    counts = np.full((2, 3), 4)
    return Judge(flows(shown, None), counts, counts, np.zeros((3, 3)), np.zeros(0), nothing)


def test_flows_by_fold_and_class_are_means_over_images(shown: list[Shown]) -> None:
    single = shown[1].probe.flows(None)[0]
    own = shown[1].labels == 2
    assert own.sum() == 4
    np.testing.assert_allclose(shown[1].flows(None)[1, 0, 2], single[own].mean(axis=0), rtol=1e-6)
    np.testing.assert_array_equal(shown[1].flows(None)[0], 0)


@pytest.mark.parametrize("seed", range(5))
def test_each_fold_keeps_what_it_thinks_best(seed: int, shown: list[Shown], judge: Judge) -> None:
    rng = np.random.default_rng(seed)
    chosen = tuple(tuple(draw_concept(rng, 1) for _ in range(3)) for _ in range(2))
    finding = PairFinding(*PAIR, 0.0, chosen)

    def mean_score(concepts: tuple[Concept, ...], fold: int) -> float:
        scores, _ = judge.score(np.stack([flows(shown, concept) for concept in concepts]))
        return float(scores[:, fold, *PAIR].mean())

    found = refine(shown, judge, finding, ConceptVariations(1), rng)
    refined = found.finding
    assert (refined.victim_class, refined.target_class, refined.background) == (*PAIR, 0.0)
    for fold in range(2):
        assert len(refined.changes[fold]) == 3
        assert mean_score(refined.changes[fold], fold) >= mean_score(chosen[fold], fold)
        assert found.scores[fold] == pytest.approx(mean_score(refined.changes[fold], fold))
    assert refined.changes != chosen
