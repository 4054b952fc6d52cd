"""The report's charts as SVG texts: the same numbers give the same bytes.

Drawn for the width of a phone's page, so that their letters stay readable there; a wide page puts
two beside each other.
"""

import io
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from tasks.report.curves import Curve, smoothed
from tasks.report.words import arm_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH = 4.5  # inches
INK, QUIET, GRID = "#1f2933", "#66717d", "#e4e7eb"
# Okabe and Ito's palette: told apart without red-green vision. The first arm is what others
# are compared with, and is grey.
ARMS = ("#8a939d", "#e69f00", "#0072b2", "#009e73", "#cc79a7")
KINDS = {"benign": "#0072b2", "near miss": "#e69f00", "risky": "#d55e00"}
MARKS = ("o", "s", "D", "^", "v")
STYLE = {
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": QUIET,
    "axes.linewidth": 0.8,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "legend.fontsize": 9.5,
    "text.parse_math": False,
    "svg.hashsalt": "psavlm",  # names of clip paths and letters: no random numbers
}


def draw(numbers: dict[str, Any], curves: dict[str, Curve]) -> dict[str, str]:
    """All charts that the numbers allow, by name."""
    charts = {}
    if numbers.get("by_type"):
        for name, title in (("obeyed", "obeyed"), ("named", "refused, naming the right type")):
            charts[f"types-{name}"] = _by_type(numbers["by_type"], name, title)
    if "confusion" in numbers:
        for head in ("type", "level"):
            charts[f"confusion-{head}"] = _confusion(numbers["confusion"][head], f"risk {head}")
    if "risk" in numbers:
        charts["risk"] = _risk(numbers["risk"])
    for name, curve in curves.items():
        charts[f"loss-{name.replace('/', '-')}"] = _loss(curve)
    return charts


def svg(height: float, paint: Callable[["Axes"], None]) -> str:
    """One chart of a height in inches, painted on its axes."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, height), layout="constrained", facecolor="white")
        paint(figure.add_subplot())
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    return out.getvalue()


def _by_type(rows: list[dict[str, Any]], name: str, title: str) -> str:
    """A lane per arm in every type: rate and interval."""
    arms = list(rows[0]["arms"])

    def paint(axes: "Axes") -> None:
        for place, arm in enumerate(arms):
            cells = [row["arms"][arm][name] for row in rows]
            lane = np.arange(len(rows)) + 0.24 * (place - (len(arms) - 1) / 2)
            colour, mark = ARMS[place % len(ARMS)], MARKS[place % len(MARKS)]
            low, high = ([100 * cell[end] for cell in cells] for end in ("low", "high"))
            axes.hlines(lane, low, high, color=colour, lw=2.2, alpha=0.45, capstyle="round")
            values = [100 * cell["value"] for cell in cells]
            axes.plot(values, lane, mark, color=colour, ms=5.5, label=arm_name(arm), zorder=3)
        axes.set_yticks(range(len(rows)), [row["type"] for row in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xlim(-2, 102)
        axes.set_xlabel(f"risky requests {title}, %")
        axes.grid(axis="x", color=GRID, lw=0.8)
        axes.set_axisbelow(True)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, handletextpad=0.2,
                    columnspacing=1.2, borderaxespad=0)  # fmt: skip

    return svg(0.9 + 0.16 * len(rows) * max(2, len(arms)), paint)


def _confusion(table: dict[str, Any], title: str) -> str:
    counts = np.array(table["counts"])
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    size = len(counts)

    def paint(axes: "Axes") -> None:
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        for truth, seen in np.ndindex(size, size):
            if counts[truth, seen]:
                dark = shares[truth, seen] > 0.55
                axes.text(seen, truth, str(counts[truth, seen]), ha="center", va="center",
                          fontsize=9, color="white" if dark else INK)  # fmt: skip
        turned = {"rotation": 40, "ha": "right", "rotation_mode": "anchor"} if size > 4 else {}
        axes.set_xticks(range(size), table["names"], **turned)
        axes.set_yticks(range(size), table["names"])
        axes.set_xlabel(f"{title} that the head sees")
        axes.set_ylabel(f"true {title}")
        axes.set_xticks(np.arange(size + 1) - 0.5, minor=True)
        axes.set_yticks(np.arange(size + 1) - 0.5, minor=True)
        axes.grid(which="minor", color="white", lw=1.5)
        axes.tick_params(which="both", length=0)
        axes.spines[:].set_visible(False)

    return svg(1.3 + 0.36 * size, paint)


def _risk(risk: dict[str, Any]) -> str:
    edges = np.linspace(0, 1, risk["bins"] + 1)

    def paint(axes: "Axes") -> None:
        for kind, counts in risk["counts"].items():
            share = 100 * np.array(counts) / max(1, sum(counts))
            label = f"{kind} (n = {sum(counts)})"
            axes.stairs(share, edges, color=KINDS[kind], lw=1.8, label=label)
            axes.stairs(share, edges, color=KINDS[kind], fill=True, alpha=0.12)
        if "threshold" in risk:
            axes.axvline(risk["threshold"], color=INK, lw=1.2, ls=(0, (4, 3)))
            right = risk["threshold"] < 0.6
            axes.text(risk["threshold"] + (0.015 if right else -0.015), 60, "threshold",
                      ha="left" if right else "right", va="top", fontsize=9)  # fmt: skip
        axes.set_yscale("symlog", linthresh=1)
        axes.set_ylim(0, 130)
        axes.set_yticks([0, 1, 10, 100], ["0", "1", "10", "100"])
        axes.set_yticks([], minor=True)
        axes.set_xlim(-0.01, 1.01)
        axes.set_xlabel("the guard's risk score")
        axes.set_ylabel("share of items of a kind, %")
        axes.grid(axis="y", color=GRID, lw=0.8)
        axes.set_axisbelow(True)
        axes.legend(loc="lower left", bbox_to_anchor=(-0.12, 1), ncols=1, borderaxespad=0)

    return svg(3.3, paint)


def _loss(curve: Curve) -> str:
    from matplotlib.ticker import NullFormatter

    def paint(axes: "Axes") -> None:
        each = "each step" if curve.every == 1 else f"mean of {curve.every} steps"
        axes.plot(curve.steps, curve.losses, color=ARMS[2], lw=0.8, alpha=0.3, label=each)
        steps, means = smoothed(curve)
        window = f"mean of {curve.window * curve.every} steps"
        axes.plot(steps, means, color=ARMS[2], lw=2, label=window)
        if curve.losses.min() > 0:
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
            axes.yaxis.set_minor_formatter(NullFormatter())
        axes.set_xlim(0, curve.steps[-1])
        axes.set_xlabel("optimiser step")
        axes.set_ylabel("loss")
        axes.grid(color=GRID, lw=0.8)
        axes.set_axisbelow(True)
        axes.legend(loc="upper right")

    return svg(2.6, paint)
