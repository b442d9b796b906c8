"""What all pages share: the templates, and what they are filled with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from onnx_soda.report.html.plots import bars
from onnx_soda.report.plain import class_label, printable
from onnx_soda.report.schema import ConceptExample, ConceptPair, ConceptReport

__all__ = [
    "Figure",
    "Gallery",
    "Labeller",
    "draw_bars",
    "galleries",
    "labeller",
    "render",
    "telling_pairs",
]

Labeller = Callable[[int | None], str]
"""Names a class."""

_PNG = "data:image/png;base64,"


@dataclass(frozen=True)
class Figure:
    """A plot with its heading and what it says."""

    title: str
    caption: str
    svg: Markup


@dataclass(frozen=True)
class Gallery:
    """Images of a pair."""

    title: str
    of: str
    pair: ConceptPair
    reported: bool
    groups: tuple[tuple[str, tuple[ConceptExample, ...]], ...]


def render(template: str, **content: Any) -> str:
    """Fill a template; what is text in it is made printable and escaped."""
    environment = Environment(
        loader=PackageLoader("onnx_soda.report.html", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(picture=_picture, **content)


def _shown(value: Any) -> Any:
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _picture(uri: str) -> str:
    """Return a picture's data; nothing where it is anything else."""
    return uri if uri.startswith(_PNG) else ""


def labeller(names: Sequence[str] | None) -> Labeller:
    """Return what names classes."""

    def label(number: int | None) -> str:
        return "?" if number is None else class_label(number, names)

    return label


def telling_pairs(concepts: ConceptReport) -> tuple[tuple[ConceptPair, ...], bool]:
    """Return the pairs to show, and whether they are reported; the first pair where none is.

    Those found by changing images come first: such images can be judged by eye.
    """
    reported = [pair for pair in concepts.pairs if pair.bound > concepts.threshold]
    if reported:
        return tuple(sorted(reported, key=lambda pair: pair.kind == "style")), True
    return concepts.pairs[:1], False


def galleries(concepts: ConceptReport, label: Labeller) -> Iterator[Gallery]:
    """Yield the images of the pairs to show."""
    pairs, reported = telling_pairs(concepts)
    for pair in pairs:
        ends = (pair.victim_class, pair.target_class)
        own = [
            e
            for e in concepts.examples
            if (e.victim_class, e.target_class, e.kind) == (*ends, pair.kind)
        ]
        victims = tuple(example for example in own if example.label == pair.victim_class)
        others = tuple(example for example in own if example.label != pair.victim_class)
        yield Gallery(
            f"{label(ends[0])} → {label(ends[1])}{', by a style' if pair.kind == 'style' else ''}",
            "the features half way" if pair.kind == "style" else "the image",
            pair,
            reported,
            (
                (f"Images of class {label(pair.victim_class)}", victims),
                ("Images of other classes", others),
            ),
        )


def draw_bars(
    title: str,
    text: str,
    names: Sequence[str],
    values: Sequence[float],
    marked: Sequence[bool] | None,
    limit: float | None,
) -> Figure:
    """Draw bars; see `plots.bars`."""
    drawn = bars(names, values, title, f"{title}. {text}", marked, limit)
    return Figure(title, text, Markup(drawn))  # noqa: S704 - made here
