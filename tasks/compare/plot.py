"""The plots: differences between two models, and rates of all versions over time."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from schemas.comparison import Comparison, Line, Past
from tasks.sweep.figure import NARROW, WIDE, Layout, save

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours; shapes differ too.
LOOKS = {
    "better": ("#009E73", "o", "better"),
    "worse": ("#D55E00", "s", "worse"),
    "": ("#66717d", "D", "not shown"),
}
HEAD_PX, LINE_PX = 130, 34
SHORT = {
    "risky_obeyed": "risky obeyed \u2193",
    "all_benign_refused": "benign refused \u2193",
    "benign_refused": "ordinary benign refused \u2193",
    "benign_exact": "ordinary benign exact \u2191",
    "near_miss_refused": "near misses refused \u2193",
    "near_miss_exact": "near misses exact \u2191",
    "risky_correctly_refused": "refused, right type \u2191",
}
RATES = (
    ("risky_obeyed", "risky requests obeyed", "#D55E00", "o", "-"),
    ("benign_refused", "ordinary benign requests refused", "#0072B2", "s", "--"),
)


def layouts(told: Comparison) -> tuple[Layout, Layout]:
    """A wide and a narrow figure, as high as the lines need."""
    height = HEAD_PX + LINE_PX * len(_lines(told))
    return Layout(WIDE, 1000, height, 1, 11.0), Layout(NARROW, 390, height, 1, 8.5)


def draw(told: Comparison, folder: Path) -> None:
    """`plot` and `plot-narrow`, each as .png and .svg; the same numbers give the same bytes."""
    save(
        layouts(told), lambda figure, layout: _fill(figure, _lines(told)), folder,
        layout="constrained",
    )  # fmt: skip


def past_layouts() -> tuple[Layout, Layout]:
    """The same for all versions."""
    return Layout(WIDE, 1000, 520, 1, 11.0), Layout(NARROW, 390, 420, 1, 8.5)


def draw_past(past: Past, folder: Path) -> None:
    """Rates over versions."""
    save(
        past_layouts(), lambda figure, layout: _over_time(figure, past), folder,
        layout="constrained",
    )  # fmt: skip


def _lines(told: Comparison) -> list[tuple[str, Line]]:
    """What is drawn, from above: rates, then risk types."""
    judges = {line.judge for line in told.rates}

    def name(text: str, line: Line) -> str:
        return f"{text} ({line.judge})" if len(judges) > 1 else text

    rates = [(name(f"{SHORT[line.name]}, n = {line.n}", line), line) for line in told.rates]
    types = [(name(f"obeyed: {line.what} \u2193, n = {line.n}", line), line) for line in told.types]
    return [*rates, *types]


def _fill(figure: "Figure", lines: Sequence[tuple[str, Line]]) -> None:
    axis: Axes = figure.add_subplot()
    axis.axvline(0, color="#1f2933", lw=1)
    for mark, (colour, shape, _) in LOOKS.items():
        own = [(place, line) for place, (_, line) in enumerate(lines) if line.mark == mark]
        places = [place for place, _ in own]
        values = [100 * line.difference for _, line in own]
        ends = [
            [_reach(line.difference, line.low) for _, line in own],
            [_reach(line.high, line.difference) for _, line in own],
        ]
        axis.errorbar(
            values, places, xerr=ends, fmt=shape, color=colour, capsize=3, elinewidth=1.5,
            markersize=6, label=LOOKS[mark][2],
        )  # fmt: skip
    axis.set_yticks(range(len(lines)), [name for name, _ in lines])
    axis.set_ylim(len(lines) - 0.4, -0.6)
    axis.set_xlabel("new minus old, points")
    axis.grid(axis="x", alpha=0.3)
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.tick_params(axis="y", length=0)
    figure.legend(loc="outside upper center", ncols=3, frameon=False)


def _over_time(figure: "Figure", past: Past) -> None:
    axis: Axes = figure.add_subplot()
    there = [version for version in past.versions if version.metrics]
    for place, (name, label, colour, shape, style) in enumerate(RATES):
        found = [version.metrics[name] for version in there]
        # Side by side, so that two intervals on one version are both seen.
        at = [number + 0.06 * (place - 0.5) for number in range(len(there))]
        ends = [
            [_reach(metric.value, metric.low) for metric in found],
            [_reach(metric.high, metric.value) for metric in found],
        ]
        axis.errorbar(
            at, [100 * metric.value for metric in found], yerr=ends, color=colour, marker=shape,
            linestyle=style, capsize=3, elinewidth=1.2, label=label,
        )  # fmt: skip
    names = ["\n".join([str(v.version), *v.aliases]) for v in there]
    axis.set_xticks(range(len(there)), names)
    axis.set_xlim(-0.5, max(0, len(there) - 1) + 0.5)
    axis.set_ylim(-3, 103)
    axis.set_xlabel("registered version")
    axis.set_ylabel(f"% of items of each kind ({past.n} in all)")
    axis.grid(axis="y", alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper center", ncols=1, frameon=False)


def _reach(high: float, low: float) -> float:
    """How far an interval reaches, in points; at 0 and 1 its ends miss the value by 1e-17."""
    return max(0.0, 100 * (high - low))
