"""The contact sheet: the most disputed images, each with the label stated and the label seen."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from schemas.artifact import Artifact
from tasks.report.pictures import SIDE, blurred, find_images, fitted, png

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw
    from PIL.ImageFont import FreeTypeFont

COLUMNS = 6
GAP, LINE, LETTERS = 12, 17, 13  # pixels
HEAD = 2 * LINE + GAP
CELL = SIDE + GAP
CELL_HEIGHT = SIDE + 3 * LINE + GAP
INK, GREY, PAPER, EMPTY = "#1a1a1a", "#666666", "#ffffff", "#eeeeee"


def contact_sheet(disputed: pa.Table, samples: Artifact, *, count: int, blur: bool) -> bytes:
    """A PNG of the first `count` different images whose type is disputed, in order of rank.

    Args:
        disputed: ranked rows (schema DISPUTED).
        samples: where the images are.
        count: most images shown.
        blur: whether they are blurred.
    """
    rows = most_disputed(disputed, count)
    images = find_images(samples, [row["image_id"] for row in rows])
    return png(_drawn(rows, images, blur=blur))


def most_disputed(disputed: pa.Table, count: int) -> list[dict[str, Any]]:
    """The first rows with a disputed type, one an image."""
    found: dict[str, dict[str, Any]] = {}
    for batch in disputed.filter(pc.greater(disputed["dispute"], 0)).to_batches(1024):
        for row in batch.to_pylist():
            if len(found) == count:
                return list(found.values())
            found.setdefault(row["image_id"], row)
    return list(found.values())


def _drawn(rows: list[dict[str, Any]], images: dict[str, "Image"], *, blur: bool) -> "Image":
    from PIL import Image, ImageDraw

    columns = min(COLUMNS, max(3, len(rows)))
    height = HEAD + -(-len(rows) // columns) * CELL_HEIGHT + GAP
    paper = Image.new("RGB", (columns * CELL + GAP, height), PAPER)
    pen, font = ImageDraw.Draw(paper), _font()
    told = f"{len(rows)} images whose risk type the head disputes: stated → seen"
    notes = f"images {'blurred (--no-blur shows them)' if blur else 'not blurred'}"
    for line, text, ink in ((0, told, INK), (1, notes if rows else "none", GREY)):
        _text(pen, (GAP, GAP // 2 + line * LINE), text, font=font, ink=ink, width=paper.width - GAP)
    for number, row in enumerate(rows):
        left = GAP + number % columns * CELL
        top = HEAD + number // columns * CELL_HEIGHT
        picture = images[row["image_id"]]
        picture = fitted(blurred(picture) if blur else picture)
        pen.rectangle((left, top, left + SIDE - 1, top + SIDE - 1), fill=EMPTY)
        paper.paste(
            picture, (left + (SIDE - picture.width) // 2, top + (SIDE - picture.height) // 2)
        )
        for line, (text, ink) in enumerate(zip(_caption(row), (GREY, INK, GREY), strict=True)):
            place = (left, top + SIDE + 2 + line * LINE)
            _text(pen, place, text, font=font, ink=ink, width=SIDE)
    return paper


def _caption(row: dict[str, Any]) -> tuple[str, str, str]:
    stated, seen = (
        f"{row['risk_type']} {row['risk_level']}",
        f"{row['seen_type']} {row['seen_level']}",
    )
    head = f"#{row['rank']}  log-odds {row['dispute']:.1f}"
    return head, f"{stated} → {seen}", f"{row['source']}, {row['split']}"


def _text(
    pen: "ImageDraw",
    place: tuple[int, int],
    text: str,
    *,
    font: "FreeTypeFont",
    ink: str,
    width: int,
) -> None:
    """One line, shortened to `width` pixels."""
    shown = text
    while pen.textlength(shown, font=font) > width and len(text) > 1:
        text = text[:-1]
        shown = f"{text}…"
    pen.text(place, shown, font=font, fill=ink)


def _font() -> "FreeTypeFont":
    """The font that matplotlib brings along: Pillow's own has no arrow and no accents."""
    from matplotlib import get_data_path
    from PIL import ImageFont

    return ImageFont.truetype(Path(get_data_path()) / "fonts/ttf/DejaVuSans.ttf", LETTERS)
