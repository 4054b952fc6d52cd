"""What is left under attack: the share of items that hold, by budget, a line for each attack."""

from pathlib import Path
from typing import TYPE_CHECKING

from schemas.attack import ANY, NOISE, NOTHING, AttackReport, AttackRow

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SIZE, DOTS = (9.0, 3.6), 120  # inches, and pixels an inch
INK, QUIET, GRID = "#1f2933", "#66717d", "#e4e7eb"
# Okabe and Ito's colours, told apart without red-green vision; shapes differ too.
LOOKS = {
    NOISE: ("#8a939d", "o"),
    "joint": ("#d55e00", "s"),
    "head": ("#0072b2", "D"),
    "answer": ("#009e73", "^"),
    "tokens": ("#cc79a7", "v"),
    ANY: (INK, "x"),
}
TITLES = {
    "misjudged": "risks that the guard sees, %",
    "mistyped": "risks given their right type, %",
    "broken": "risky requests not obeyed, %",
}


def draw(report: AttackReport, path: Path) -> None:
    """A PNG with a panel for each thing that can go wrong; same numbers, same bytes."""
    from matplotlib.figure import Figure

    goals = [goal for goal in TITLES if goal in report.rows[0].metrics]
    figure = Figure(figsize=SIZE, dpi=DOTS, layout="constrained", facecolor="white")
    for number, goal in enumerate(goals):
        axes = figure.add_subplot(1, len(goals), number + 1)
        paint(axes, report, goal)
        if number == 0:
            axes.legend(frameon=False, fontsize=9, loc="lower left")
    figure.savefig(path, metadata={"Software": None})


def paint(axes: "Axes", report: AttackReport, goal: str) -> None:
    """The lines of one goal over the budgets, with their Wilson intervals."""
    own = [row for row in report.rows if row.risky and not row.type]
    start = next(row for row in own if row.attack == NOTHING)
    budgets = sorted({row.eps for row in own if row.attack in LOOKS})
    for number, (name, (colour, mark)) in enumerate(LOOKS.items()):
        line = [start, *sorted((r for r in own if r.attack == name), key=lambda row: row.eps)]
        if len(line) == 1:
            continue
        places = [0, *(1 + budgets.index(row.eps) for row in line[1:])]
        places = [place + 0.05 * (number - 2) for place in places]
        left = [_left(row, goal) for row in line]
        axes.plot(places, [100 * v for v, _, _ in left], mark + "-", color=colour, ms=5, lw=1.6,
                  label=name, clip_on=False)  # fmt: skip
        axes.vlines(places, [100 * low for _, low, _ in left], [100 * high for _, _, high in left],
                    color=colour, alpha=0.4, lw=1.6)  # fmt: skip
    axes.set_xticks(range(len(budgets) + 1), ["0", *map(str, budgets)])
    axes.set_ylim(0, 101)
    axes.set_xlabel("budget in 1/255")
    axes.set_ylabel(TITLES[goal], color=INK)
    axes.grid(axis="y", color=GRID, lw=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _left(row: AttackRow, goal: str) -> tuple[float, float, float]:
    """The share that holds, with its interval."""
    metric = row.metrics[goal]
    return 1 - metric.value, 1 - metric.high, 1 - metric.low
