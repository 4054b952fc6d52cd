"""The picture: test images on a plane before and after the safety projector, coloured by type."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from schemas.probe import ProbeRow
from tasks.sweep.figure import NARROW, WIDE, Layout, save

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from tasks.probe.experiments import Picture

LAYOUTS = (Layout(WIDE, 1000, 540, 2, 11.0), Layout(NARROW, 390, 860, 1, 9.0))
# Okabe and Ito's colours; clean images are grey and lie below. Shapes differ too.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
MARKERS = "os^vDPX"
GREY = "#BBBBBB"


def draw(picture: "Picture", rows: Sequence[ProbeRow], names: Sequence[str], folder: Path) -> None:
    """`plot` and `plot-narrow`, each as .png and .svg; the same rows give the same bytes.

    Args:
        picture: places of the images, and their numbers of a type.
        rows: of the projector's experiment, for the panels' titles.
        names: the types by number, clean last.
        folder: where the files go.
    """
    save(
        LAYOUTS, lambda figure, layout: _fill(figure, layout, picture, rows, names), folder,
        layout="constrained",
    )  # fmt: skip


def _fill(
    figure: "Figure", layout: Layout, picture: "Picture", rows: Sequence[ProbeRow],
    names: Sequence[str],
) -> None:  # fmt: skip
    count = len(picture.places)
    axes = figure.subplots(-(-count // layout.columns), layout.columns, squeeze=False).flat
    clean = len(names) - 1
    for axis, (title, places) in zip(axes, picture.places.items(), strict=True):
        for number in [clean, *range(clean)]:
            own = picture.types == number
            look = GREY if number == clean else COLOURS[number % len(COLOURS)]
            axis.scatter(
                *places[own].T, s=9, color=look, marker=MARKERS[number % len(MARKERS)],
                linewidths=0, alpha=0.75, label=names[number],
            )  # fmt: skip
        found = [row.metric.value for row in rows if row.what == title]
        axis.set_title(f"{title}\ntype by a straight line: {100 * found[0]:.0f} %")
        axis.set_xlabel("first and second principal axis")
        axis.set_xticks([])
        axis.set_yticks([])
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower center", ncols=4 if layout.columns > 1 else 3,
        markerscale=2.0, frameon=False,
    )  # fmt: skip
