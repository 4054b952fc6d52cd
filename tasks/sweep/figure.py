"""A figure for a wide screen and for a narrow one, as PNG and SVG; the same rows, the same bytes.

Figures are made without pyplot, whose global state does not go with threads.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PIXELS_AN_INCH = 100  # of CSS; PNGs have twice as many, for sharp screens
WIDE, NARROW = "plot", "plot-narrow"


class Layout(NamedTuple):
    """A figure for a screen: its name, its size in CSS pixels, panels beside each other, type."""

    name: str
    width: int
    height: int
    columns: int
    points: float


def save(
    layouts: Sequence[Layout], fill: Callable[["Figure", Layout], None], folder: Path, **kind: Any
) -> None:
    """Each layout as .png and .svg.

    Args:
        layouts: the screens.
        fill: draws into an empty figure.
        folder: where the files go.
        kind: of the figure, such as layout="constrained".
    """
    import matplotlib
    from matplotlib.figure import Figure

    for layout in layouts:
        settings = {"font.size": layout.points, "svg.hashsalt": "psavlm", "svg.fonttype": "path"}
        with matplotlib.rc_context(settings):
            size = (layout.width / PIXELS_AN_INCH, layout.height / PIXELS_AN_INCH)
            figure = Figure(figsize=size, **kind)
            fill(figure, layout)
            path = folder / layout.name
            figure.savefig(path.with_suffix(".png"), dpi=2 * PIXELS_AN_INCH)
            figure.savefig(path.with_suffix(".svg"), metadata={"Date": None})
