"""Plots as SVG to stand inside a page: text stays text, and takes the page's colour.

Made by matplotlib, without its state: figures are not registered anywhere. The same numbers give
the same bytes.
"""

from __future__ import annotations

import html
import io
import re
import zlib
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray

from onnx_soda._results import Box, Chart, Drawing
from onnx_soda._words import printable

# Stands for the colour of the page's text, which is not known here.
_INK = "#010203"
_PLAIN, _MARKED = "#4c78a8", "#c8442e"
_SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",  # text as text: readable by machines, in the page's font
    "svg.hashsalt": "onnx-soda",
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": _INK,
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "text.parse_math": False,  # a "$" in the name of a class is a dollar
}
# What matplotlib would write into the file about itself.
_NOTES = ("Creator", "Date", "Format", "Type")
# From the colour of the page, which is not known here, to blue.
_SHARES = LinearSegmentedColormap.from_list("shares", ["#2f6db500", "#2f6db5"])
_WIDTH = 5.4
_ROW = 0.26
_LINES = 2.8
# Larger heat maps have no room for the numbers in the cells.
_MOST_NUMBERED = 12


def draw(chart: Chart) -> str:
    """Draw a chart as SVG."""
    description = f"{chart.title}. {chart.text}"
    if chart.kind == "heat map":
        counts = np.array(chart.values)
        return heat_map(chart.names, counts, description, chart.across, chart.down)
    if chart.kind == "lines":
        return lines(chart, description)
    marked = [row in chart.marked for row in range(len(chart.names))]
    values = [value for (value,) in chart.values]
    return bars(chart.names, values, chart.title, description, marked, chart.limit)


def bars(
    names: Sequence[str],
    values: Sequence[float],
    label: str,
    description: str,
    marked: Sequence[bool] | None = None,
    limit: float | None = None,
) -> str:
    """Draw horizontal bars, the first one on top.

    Args:
        names: Of the bars.
        values: Lengths; may be negative.
        label: What is measured.
        description: Says in words what is to be seen, for screen readers.
        marked: Bars to stand out.
        limit: A line across all bars.
    """
    with mpl.rc_context(_SETTINGS):
        figure, axes = _figure(0.9 + _ROW * len(names))
        places = np.arange(len(names))
        colours = [_MARKED if one else _PLAIN for one in marked or [False] * len(names)]
        axes.barh(places, values, color=colours)
        axes.set_yticks(places, [printable(name) for name in names])
        axes.invert_yaxis()
        axes.set_xlabel(label)
        axes.axvline(0, color=_INK, linewidth=0.8)
        if limit is not None:
            axes.axvline(limit, color=_MARKED, linewidth=1, linestyle="--")
        return _svg(figure, description)


def heat_map(
    names: Sequence[str], counts: NDArray[np.floating], description: str, across: str, down: str
) -> str:
    """Draw a table of counts as colours; each row is a share of its own sum.

    Args:
        names: Of rows and columns.
        counts: Shape (rows, columns).
        description: Says in words what is to be seen, for screen readers.
        across: What the columns are.
        down: What the rows are.
    """
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    with mpl.rc_context(_SETTINGS):
        figure, axes = _figure(max(2.5, 1.2 + 0.36 * len(names)))
        axes.imshow(shares, cmap=_SHARES, vmin=0, vmax=1, aspect="auto")
        step = -(-len(names) // 40)
        places = np.arange(0, len(names), step)
        shown = [printable(names[int(place)]) for place in places]
        axes.set_xticks(places, shown, rotation=45, ha="right", rotation_mode="anchor")
        axes.set_yticks(places, shown)
        axes.set_xlabel(across)
        axes.set_ylabel(down)
        if len(names) <= _MOST_NUMBERED:
            _number(axes, counts, shares)
        return _svg(figure, description)


def lines(chart: Chart, description: str) -> str:
    """Draw shares as lines, those marked thick and on top.

    Args:
        chart: Of the kind "lines".
        description: Says in words what is to be seen, for screen readers.
    """
    with mpl.rc_context(_SETTINGS):
        figure, axes = _figure(_LINES)
        places = np.arange(len(chart.names))
        for number, values in enumerate(zip(*chart.values, strict=True)):
            marked = number in chart.marked
            axes.plot(
                places,
                values,
                color=_MARKED if marked else _PLAIN,
                linewidth=2.4 if marked else 1.2,
                marker="o",
                markersize=4,
                zorder=3 if marked else 2,
                label=printable(chart.series[number]),
            )
        axes.set_ylim(-0.02, 1.02)
        axes.yaxis.set_major_formatter(PercentFormatter(1))
        axes.set_xticks(places, [printable(name) for name in chart.names])
        axes.set_xlabel(chart.across)
        axes.set_ylabel(chart.down)
        axes.legend(frameon=False, fontsize=9)
        return _svg(figure, description)


def _number(axes: Axes, counts: NDArray[np.floating], shares: NDArray[np.floating]) -> None:
    for (row, column), count in np.ndenumerate(counts):
        if count:
            colour = "white" if shares[row, column] > 0.5 else _INK
            axes.text(column, row, f"{count:g}", ha="center", va="center", color=colour, fontsize=9)


def _figure(height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _svg(figure: Figure, description: str) -> str:
    stream = io.StringIO()
    figure.savefig(stream, format="svg", transparent=True, metadata=dict.fromkeys(_NOTES))
    drawn = stream.getvalue()
    drawn = drawn[drawn.index("<svg") :].replace(_INK, "currentColor")
    # Ids must differ from those of other plots in the page.
    prefix = f"p{zlib.crc32(description.encode('utf-8', 'replace')):08x}-"
    drawn = re.sub(r'\bid="', f'id="{prefix}', drawn)
    drawn = re.sub(r'(xlink:href="#|url\(#)', rf"\1{prefix}", drawn)
    label = f'<svg role="img" aria-label="{html.escape(printable(description))}" '
    return drawn.replace("<svg ", label, 1)


# Units of a drawing: boxes, the space between them, and letters that fit into one.
_BOX = (180, 44)
_GAP = (24, 26)
_MOST_LETTERS = 20


def sketch(drawing: Drawing) -> str:
    """Draw a part of the graph as SVG: boxes with arrows, downwards."""
    mark = f"d{zlib.crc32(drawing.text.encode('utf-8', 'replace')):08x}"
    columns = 1 + max(box.column for box in drawing.boxes)
    rows = 1 + max(box.row for box in drawing.boxes)
    width = columns * (_BOX[0] + _GAP[0])
    height = rows * (_BOX[1] + _GAP[1])
    label = html.escape(printable(f"{drawing.title}. {drawing.text}"))
    ways = (
        _arrow(drawing, drawing.boxes[start], drawing.boxes[end]) for start, end in drawing.arrows
    )
    arrows = "".join(
        f'<path d="{way}" fill="none" stroke="currentColor" marker-end="url(#{mark})"/>'
        for way in ways
    )
    return (
        f'<svg role="img" aria-label="{label}" class="sketch" viewBox="0 0 {width} {height}" '
        f'font-family="sans-serif" font-size="14" style="max-width: {width}px">'
        f'<defs><marker id="{mark}" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8" '
        'markerHeight="8" orient="auto"><path d="M0 0 L8 4 L0 8 z" fill="currentColor"/></marker>'
        f"</defs>{arrows}{''.join(map(_boxed, drawing.boxes))}</svg>"
    )


def _corner(box: Box) -> tuple[float, float]:
    return (
        _GAP[0] / 2 + box.column * (_BOX[0] + _GAP[0]),
        _GAP[1] / 2 + box.row * (_BOX[1] + _GAP[1]),
    )


def _boxed(box: Box) -> str:
    left, top = _corner(box)
    colour, width = (_MARKED, 2.5) if box.marked else ("currentColor", 1)
    middle = left + _BOX[0] / 2
    return (
        f'<rect x="{left:g}" y="{top:g}" width="{_BOX[0]}" height="{_BOX[1]}" rx="5" '
        f'fill="none" stroke="{colour}" stroke-width="{width}"/>'
        f'<text x="{middle:g}" y="{top + 19:g}" text-anchor="middle" fill="currentColor" '
        f'font-weight="{"bold" if box.marked else "normal"}">{_fitted(box.name)}</text>'
        f'<text x="{middle:g}" y="{top + 36:g}" text-anchor="middle" fill="currentColor" '
        f'font-size="11">{_fitted(box.kind)}</text>'
    )


def _fitted(text: str) -> str:
    shown = printable(text)
    return html.escape(shown if len(shown) <= _MOST_LETTERS else f"{shown[:_MOST_LETTERS]}...")


def _arrow(drawing: Drawing, start: Box, end: Box) -> str:
    """Return the way of an arrow; it passes no other box."""
    (left, top), (to_left, to_top) = _corner(start), _corner(end)
    middle, side, bottom = left + _BOX[0] / 2, top + _BOX[1] / 2, top + _BOX[1]
    to_middle, to_side, right = to_left + _BOX[0] / 2, to_top + _BOX[1] / 2, to_left + _BOX[0]
    if start.column == end.column:
        return f"M{middle:g} {bottom:g} L{to_middle:g} {to_top:g}"
    if start.column > end.column and start.row == end.row:
        return f"M{left:g} {side:g} L{right:g} {to_side:g}"
    if start.column > end.column:
        # Between the rows, and into the box beside what comes from above.
        between, beside = bottom + _GAP[1] / 3, to_left + 0.8 * _BOX[0]
        return f"M{middle:g} {bottom:g} V{between:g} H{beside:g} V{to_top:g}"
    if _is_free(drawing, start, end):
        return f"M{left + _BOX[0]:g} {side:g} H{to_middle:g} V{to_top:g}"
    lane = right + _GAP[0] / 2
    return f"M{left + _BOX[0]:g} {side:g} H{lane:g} V{to_side:g} H{right:g}"


def _is_free(drawing: Drawing, start: Box, end: Box) -> bool:
    """Tell whether no box stands above one in its column, below the row of another."""
    return not any(
        box.column == end.column and start.row < box.row < end.row for box in drawing.boxes
    )
