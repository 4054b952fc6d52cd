"""Charts of "Safety in depth": reliability, misses over false positives, accuracy under attack."""

from typing import TYPE_CHECKING, Any

from schemas.attack import AttackReport
from tasks.attack.plot import TITLES, paint
from tasks.report.plots import ARMS, GRID, INK, QUIET, svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes

HEIGHT = 3.3  # inches
LOW = 0.08
TICKS = (0, 1, 2, 5, 10, 20, 50, 100)  # of clean items flagged, in per cent
ABOVE = {"loc": "lower left", "bbox_to_anchor": (-0.02, 1), "borderaxespad": 0}


def draw_depth(numbers: dict[str, Any]) -> dict[str, str]:
    """Charts by name, as far as the numbers have them."""
    charts = {}
    told = numbers.get("depth", {})
    if "calibration" in told:
        charts["reliability"] = svg(HEIGHT, lambda axes: _reliability(axes, told["calibration"]))
        charts["trade"] = svg(HEIGHT, lambda axes: _trade(axes, told["trade"]))
    if "attack" in numbers:
        report = AttackReport.model_validate(numbers["attack"])
        for goal in (goal for goal in TITLES if goal in report.rows[0].metrics):
            charts[f"attack-{goal}"] = svg(
                HEIGHT, lambda axes, goal=goal: _attack(axes, report, goal)
            )
    return charts


def _reliability(axes: "Axes", told: dict[str, Any]) -> None:
    bins = told["bins"]
    scores = [one["score"] for one in bins]
    axes.plot([0, 1], [0, 1], color=QUIET, lw=1, ls=(0, (4, 3)), label="as it should be")
    axes.vlines(scores, [one["low"] for one in bins], [one["high"] for one in bins],
                color=ARMS[2], alpha=0.4, lw=2.2)  # fmt: skip
    axes.plot(scores, [one["risky"] for one in bins], "o", color=ARMS[2], ms=5.5, label="found",
              clip_on=False)  # fmt: skip
    for one in bins:
        below = one["risky"] > LOW  # a count below a low point would stand on the axis
        axes.annotate(str(one["n"]), (one["score"], one["risky"]), textcoords="offset points",
                      xytext=(7, -11 if below else 5), fontsize=8, color=QUIET)  # fmt: skip
    _square(axes)
    axes.set_xlabel("the guard's risk score, mean of a bin")
    axes.set_ylabel("share of its items that are risky")
    axes.legend(**ABOVE, ncols=2)


def _trade(axes: "Axes", told: dict[str, Any]) -> None:
    flagged, missed = ([100 * pair[i] for pair in told["curve"]] for i in (0, 1))
    axes.step(flagged, missed, where="post", color=ARMS[2], lw=2)
    used = [100 * told["used"][name]["value"] for name in ("flagged", "missed")]
    axes.plot(*used, "o", color=ARMS[1], ms=7, label="as the guard is set", clip_on=False, zorder=3)
    axes.set_xscale("function", functions=(_root, _square_of))
    axes.set_xticks(TICKS, [f"{tick:g}" for tick in TICKS])
    axes.set_xlim(0, 100)
    axes.set_ylim(0, 100)
    axes.set_xlabel("clean items flagged, %")
    axes.set_ylabel("risky items missed, %")
    axes.grid(color=GRID, lw=0.8)
    axes.set_axisbelow(True)
    axes.text(0.98, 0.93, f"AUROC {told['auroc']['value']:.3f}", transform=axes.transAxes,
              ha="right", color=INK)  # fmt: skip
    axes.legend(**ABOVE)


def _attack(axes: "Axes", report: AttackReport, goal: str) -> None:
    paint(axes, report, goal)
    axes.legend(**ABOVE, ncols=3, columnspacing=1.2, handletextpad=0.3)


def _square(axes: "Axes") -> None:
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.grid(color=GRID, lw=0.8)
    axes.set_axisbelow(True)


def _root(values: Any) -> Any:
    import numpy as np

    return np.sqrt(np.maximum(values, 0))


def _square_of(values: Any) -> Any:
    return values**2
