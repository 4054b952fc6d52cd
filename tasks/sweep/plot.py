"""The plot of a sweep: risky requests obeyed and benign ones refused over the ratio.

Rows of panels are stages, columns operating points.
"""

from collections.abc import Sequence
from math import log10
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from schemas.sweep import MATCHED, POINTS, STAGES, UNCALIBRATED, SweepParameters, SweepRow
from tasks.sweep.figure import NARROW, WIDE, Layout, save

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NONE_GAP = 0.5  # how far left of the smallest ratio 0 is put, which has no logarithm
ASIDE = 0.012  # of the axis
STAGE_NAMES = {"stage1": "after stage 1 (concepts)", "stage2": "after stage 2 (LoRA)"}


class Line(NamedTuple):
    """A line: what it counts, and how it looks (Okabe and Ito's colours; shapes differ too)."""

    metric: str
    label: str
    colour: str
    marker: str
    style: str


LAYOUTS = (Layout(WIDE, 1200, 880, 2, 11.0), Layout(NARROW, 390, 1500, 1, 9.0))
LINES = (
    Line("risky_obeyed", "risky requests obeyed", "#D55E00", "o", "-"),
    Line("all_benign_refused", "benign requests refused (incl. near misses)", "#0072B2", "s", "--"),
)


def draw(rows: Sequence[SweepRow], sweep: SweepParameters, folder: Path) -> None:
    """`plot` and `plot-narrow`, each as .png and .svg; the same rows give the same bytes."""
    save(
        LAYOUTS, lambda figure, layout: _fill(figure, layout, rows, sweep), folder,
        layout="constrained",
    )  # fmt: skip


def places(ratios: Sequence[float]) -> dict[float, float]:
    """Where each ratio is on the axis: its logarithm, and for 0 a place left of all others."""
    some = [ratio for ratio in ratios if ratio > 0]
    first = log10(min(some)) if some else 0.0
    return {r: log10(r) if r > 0 else first - NONE_GAP * bool(some) for r in ratios}


def _fill(
    figure: "Figure", layout: Layout, rows: Sequence[SweepRow], sweep: SweepParameters
) -> None:
    shown = [row for row in rows if not row.error]
    at = places(sorted({row.ratio for row in shown}))
    there = {row.stage for row in shown}  # a method may lack a stage
    stages = [stage for stage in STAGES if stage in there or not there]
    panels = [(stage, point) for stage in stages for point in POINTS]
    axes = figure.subplots(len(panels) // layout.columns, layout.columns, squeeze=False).flat
    for axis, (stage, point) in zip(axes, panels, strict=True):
        own = [row for row in shown if (row.stage, row.point) == (stage, point)]
        _panel(axis, own, at)
        axis.set_title(f"{STAGE_NAMES[stage]}\n{point_title(point, sweep)}", fontsize="medium")
        # One scale for a stage: its two operating points are there to be compared.
        top = _top(shown, stage)
        axis.set_ylim(-0.03 * top, top)
    _legend(figure, layout, seeds=any(row.seeds > 1 for row in shown))


def point_title(point: str, sweep: SweepParameters) -> str:
    """What an operating point is, in a few words."""
    return {
        UNCALIBRATED: "equal steps, guard at 0.5 (uncalibrated)",
        MATCHED: f"equal steps, guard at {100 * sweep.false_positive_rate:g} % false positives",
    }[point]


def _panel(axis: "Axes", rows: Sequence[SweepRow], at: dict[float, float]) -> None:
    whole = sorted((row for row in rows if row.seed is None), key=lambda row: row.ratio)
    several = [row for row in rows if row.seed is not None and any(w.seeds > 1 for w in whole)]
    span = max(at.values()) - min(at.values()) if at else 0.0
    for line, side in zip(LINES, (-1, 1), strict=True):
        # Beside each other, so that intervals do not hide one another; seeds further out.
        shift = side * ASIDE * (span or 1.0)
        _draw_line(axis, line, whole, [at[row.ratio] + shift for row in whole])
        axis.plot(
            [at[row.ratio] + 2.5 * shift for row in several],
            [100 * row.metrics[line.metric].value for row in several],
            line.marker, color=line.colour, alpha=0.4, markersize=4, linestyle="none",
        )  # fmt: skip
    axis.set_xticks(list(at.values()), [f"{ratio:g}" for ratio in at])
    axis.minorticks_off()
    axis.set_xlabel("clean : unsafe in training (log scale)")
    axis.set_ylabel("% of held-out items")
    axis.grid(alpha=0.25)


def _draw_line(axis: "Axes", line: Line, rows: Sequence[SweepRow], x: Sequence[float]) -> None:
    """Values with intervals; a filled mark is a Pareto point."""
    found = [row.metrics[line.metric] for row in rows]
    y = [100 * metric.value for metric in found]
    ends = [[100 * (m.value - m.low) for m in found], [100 * (m.high - m.value) for m in found]]
    axis.plot(x, y, line.style, color=line.colour, linewidth=1.6)
    axis.errorbar(x, y, yerr=ends, fmt="none", ecolor=line.colour, capsize=3, elinewidth=1)
    for row, left, height in zip(rows, x, y, strict=True):
        fill = line.colour if row.pareto else "white"
        looks = {"color": line.colour, "markerfacecolor": fill, "markersize": 7}
        axis.plot(left, height, line.marker, **looks)


def _top(rows: Sequence[SweepRow], stage: str) -> float:
    """The end of a stage's scale in %: a little above its highest interval, at least 10."""
    ends = [row.metrics[line.metric].high for row in rows if row.stage == stage for line in LINES]
    return min(102.0, max(10.0, 106 * max(ends, default=0.0)))


def _legend(figure: "Figure", layout: Layout, *, seeds: bool) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=x.colour, marker=x.marker, linestyle=x.style, label=x.label)
        for x in LINES
    ]
    black: dict[str, Any] = {"color": "black", "marker": "o", "linestyle": "none"}
    handles += [
        Line2D([], [], label="filled: Pareto point, no other ratio beats it", **black),
        Line2D([], [], label="hollow: another ratio beats it", markerfacecolor="white", **black),
    ]
    if seeds:
        handles.append(
            Line2D([], [], label="faint: single seeds", alpha=0.4, markersize=4, **black)
        )
    figure.legend(handles=handles, loc="outside upper center", ncols=layout.columns, frameon=False)
