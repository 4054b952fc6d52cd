"""Where the labels of marks go, so that none covers another, a mark or an interval; in pixels."""

from collections.abc import Iterator, Sequence
from math import cos, pi, sin
from typing import NamedTuple

import numpy as np

MARK = 6.0  # half the side of a mark
ANGLES = np.array([1, 7, 3, 5, 0, 2, 6, 4]) * pi / 4  # between the arms of intervals first
DISTANCES = np.arange(10.0, 200.0, 10.0)


class Box(NamedTuple):
    """A rectangle by its centre and half its sides."""

    x: float
    y: float
    wide: float
    high: float

    def meets(self, other: "Box") -> bool:
        """Whether the two have more than an edge in common."""
        apart = abs(self.x - other.x), abs(self.y - other.y)
        return apart[0] < self.wide + other.wide and apart[1] < self.high + other.high


def placed(
    marks: Sequence[tuple[float, float]],
    sizes: Sequence[tuple[float, float]],
    frame: tuple[float, float],
    arms: Sequence[Box] = (),
) -> list[Box]:
    """A box for each label, as near to its mark as there is room.

    Where there is room nowhere, the place that covers least.

    Args:
        marks: where the marks are, from the frame's lower left corner.
        sizes: width and height of each label.
        frame: width and height of what all must stay in.
        arms: what else is not to be covered.
    """
    taken = [*arms, *(Box(x, y, MARK, MARK) for x, y in marks)]
    found = []
    for mark, size in zip(marks, sizes, strict=True):
        inside = [box for box in _candidates(mark, size) if _inside(box, frame)]
        boxes = inside or [Box(*mark, size[0] / 2, size[1] / 2)]
        found.append(min(boxes, key=lambda box: sum(map(box.meets, taken))))
        taken.append(found[-1])
    return found


def _candidates(mark: tuple[float, float], size: tuple[float, float]) -> Iterator[Box]:
    wide, high = size[0] / 2, size[1] / 2
    for far in DISTANCES:
        for angle in ANGLES:
            x = mark[0] + cos(angle) * (far + wide)
            yield Box(x, mark[1] + sin(angle) * (far + high), wide, high)


def _inside(box: Box, frame: tuple[float, float]) -> bool:
    return box.wide <= box.x <= frame[0] - box.wide and box.high <= box.y <= frame[1] - box.high
