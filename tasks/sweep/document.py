"""Tables and a plot for people: the same words as Markdown and as one self-contained HTML page."""

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from schemas.report import Metric
from tasks.sweep.figure import WIDE, Layout

TIED = "\u00a0"  # a space at which no line breaks


class Section(NamedTuple):
    """A heading, a remark, and a table of cells."""

    title: str
    remark: str
    header: list[str]
    lines: list[list[str]]


class Document(NamedTuple):
    """A title, sentences on what was compared, what the plot shows, and tables."""

    title: str
    told: list[str]
    plot: str
    sections: list[Section]


def as_markdown(document: Document) -> str:
    """The document with the plot that lies beside it."""
    told = [line.replace("|", "\\|").replace("<", "&lt;") for line in document.told]
    parts = [f"# {document.title}", *told, f"![{document.plot}]({WIDE}.png)"]
    for section in document.sections:
        rule = ["---" if word else "---:" for word in worded(section)]
        lines = [section.header, rule, *section.lines]
        table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        parts += [f"## {section.title}", *filter(None, [section.remark]), table]
    return "\n\n".join(parts) + "\n"


def as_html(document: Document, layouts: Sequence[Layout], folder: Path) -> str:
    """The document with the plots of `folder` (wide, narrow) inside; nothing is loaded."""
    from jinja2 import Environment, PackageLoader

    page = Environment(loader=PackageLoader("tasks.sweep", ""), autoescape=True)
    wide, narrow = (_data((folder / f"{x.name}.png").read_bytes()) for x in layouts)
    return page.get_template("page.html.j2").render(
        **document._asdict(),
        worded=list(map(worded, document.sections)),
        wide=wide,
        narrow=narrow,
        end=layouts[0].width,
    )


def worded(section: Section) -> list[bool]:
    """Which columns hold words, not numbers: every cell begins with a letter."""
    return [
        all(line[at][:1].isalpha() for line in section.lines) for at in range(len(section.header))
    ]


def cell(metric: Metric) -> str:
    """A metric in % with its interval; a dash where there was nothing to count."""
    if not metric.n:
        return "-"
    return f"{100 * metric.value:.1f} [{100 * metric.low:.1f},{TIED}{100 * metric.high:.1f}]"


def counted_header(columns: dict[str, str], metrics: Sequence[dict[str, Metric]]) -> list[str]:
    """Headings of metrics with how many items they count: `columns` is heading -> metric."""
    heads = []
    for name, key in columns.items():
        counts = sorted({found[key].n for found in metrics if key in found and found[key].n})
        heads.append(f"{name} (n{TIED}={TIED}{'/'.join(map(str, counts or [0]))})")
    return heads


def _data(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()
