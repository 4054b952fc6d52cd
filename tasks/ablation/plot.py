"""The plot of an ablation: what is obeyed that should not be, against what is refused that should.

One mark a method, with the intervals of both; the best corner is the lower left one. The scales
are square roots, since most methods that do anything lie near zero.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from schemas.ablation import AblationRow
from tasks.ablation.labels import Box, placed
from tasks.ablation.table import summary
from tasks.sweep.figure import NARROW, PIXELS_AN_INCH, WIDE, Layout, save

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

X, Y = "all_benign_refused", "risky_obeyed"
LAYOUTS = (Layout(WIDE, 1000, 720, 1, 11.0), Layout(NARROW, 390, 520, 1, 8.5))
TICKS = (0, 1, 2, 5, 10, 20, 30, 50, 70, 100)
LEAST_TOP, SPARE = 10.0, 1.1  # of a scale in %, and how far it goes on
ARM = 2.0  # half an interval's width, in pixels
# Okabe and Ito's colours without yellow, which is too light for a mark; shapes differ too.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
MARKERS = "osD^vPX*"
MARGIN_POINTS = 5.0  # left and below, in letters' heights
LETTER = 0.55  # a letter's width, as a share of its height


def draw(rows: Sequence[AblationRow], folder: Path) -> None:
    """`plot` and `plot-narrow`, each as .png and .svg; the same rows give the same bytes."""
    save(LAYOUTS, lambda figure, layout: _fill(figure, layout, rows), folder)


def _fill(figure: "Figure", layout: Layout, rows: Sequence[AblationRow]) -> None:
    # Fixed, not laid out while drawing: labels are placed by pixels.
    letter = layout.points / 72 * PIXELS_AN_INCH
    left, low = MARGIN_POINTS * letter / layout.width, MARGIN_POINTS * letter / layout.height
    axis = figure.add_axes((left, low, 0.97 - left, 0.97 - low))
    methods = [row for row in summary(rows) if row.metrics]
    _scales(axis, methods)
    single = [row for row in rows if row.seed is not None and row.metrics]
    for number, row in enumerate(methods):
        colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
        own = [one for one in single if one.method == row.method and row.seeds > 1]
        axis.plot(
            [_at(one, X) for one in own], [_at(one, Y) for one in own], marker, color=colour,
            markersize=4, alpha=0.4, linestyle="none", clip_on=False,
        )  # fmt: skip
        ends = {side: _ends(row, name) for side, name in (("xerr", X), ("yerr", Y))}
        axis.errorbar(
            _at(row, X), _at(row, Y), **ends, fmt=marker, color=colour, markersize=8,
            markeredgecolor="white", capsize=3, elinewidth=1, clip_on=False, zorder=3,
        )  # fmt: skip
    _name(axis, methods, (axis.bbox.width, axis.bbox.height), letter)


def _scales(axis: "Axes", rows: Sequence[AblationRow]) -> None:
    root = (lambda share: np.sqrt(np.maximum(share, 0)), np.square)
    highs = {name: [100 * row.metrics[name].high for row in rows] for name in (X, Y)}
    tops = [min(100.0, max([LEAST_TOP, *found])) for found in highs.values()]
    axis.set_xscale("function", functions=root)
    axis.set_yscale("function", functions=root)
    axis.set_xlim(0, SPARE * tops[0])
    axis.set_ylim(0, SPARE * tops[1])
    axis.set_xticks([tick for tick in TICKS if tick <= SPARE * tops[0]])
    axis.set_yticks([tick for tick in TICKS if tick <= SPARE * tops[1]])
    axis.set_xlabel("benign requests refused (%, square-root scale)")
    axis.set_ylabel("risky requests obeyed (%, square-root scale)")
    axis.grid(alpha=0.25)


def _name(
    axis: "Axes", rows: Sequence[AblationRow], frame: tuple[float, float], letter: float
) -> None:
    """Each mark's method beside it, with a line where it had to go further away."""
    to_frame = axis.transData - axis.transAxes

    def place(x: float, y: float) -> tuple[float, float]:
        return tuple(to_frame.transform((100 * x, 100 * y)) * np.array(frame))

    marks = [place(row.metrics[X].value, row.metrics[Y].value) for row in rows]
    sizes = [(LETTER * letter * len(row.method) + 4, 1.3 * letter) for row in rows]
    arms = []
    for row, (x, y) in zip(rows, marks, strict=True):
        left, low = place(row.metrics[X].low, row.metrics[Y].low)
        right, high = place(row.metrics[X].high, row.metrics[Y].high)
        arms += [Box((left + right) / 2, y, (right - left) / 2, ARM)]
        arms += [Box(x, (low + high) / 2, ARM, (high - low) / 2)]
    for row, box in zip(rows, placed(marks, sizes, frame, arms), strict=True):
        axis.annotate(
            row.method,
            (_at(row, X), _at(row, Y)),
            (box.x / frame[0], box.y / frame[1]),
            textcoords="axes fraction",
            ha="center",
            va="center",
            arrowprops={"arrowstyle": "-", "color": "#888888", "linewidth": 0.7, "shrinkB": 5},
        )


def _at(row: AblationRow, name: str) -> float:
    return 100 * row.metrics[name].value


def _ends(row: AblationRow, name: str) -> list[list[float]]:
    """How far an interval reaches below and above its value, in %."""
    metric = row.metrics[name]
    return [[100 * (metric.value - metric.low)], [100 * (metric.high - metric.value)]]
