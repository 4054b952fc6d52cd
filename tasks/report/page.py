"""The report as one HTML file: no script, no font, no picture from elsewhere.

The page is also well-formed XML, so that a strict reader can check it.
"""

from base64 import b64encode
from collections.abc import Mapping
from importlib import resources
from typing import Any

from tasks.report import published, words
from tasks.report.benchmarks import blocks
from tasks.report.markdown import NOTE
from tasks.report.origin_words import commit, flat
from tasks.report.plots import ARMS

TEMPLATE, LOOKS = "template.html.j2", "page.css"
TILES = words.SENTENCE


def page(numbers: dict[str, Any], charts: Mapping[str, str], pictures: Mapping[str, bytes]) -> str:
    """The page for numbers (collect.py), charts as SVG texts and pictures as PNG bytes, by name."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    folder = resources.files("tasks.report")
    maker = Environment(
        loader=PackageLoader("tasks.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    maker.filters |= {
        "percent": words.percent,
        "interval": words.interval,
        "arm": words.arm_name,
    }
    rows = numbers.get("headline", [])
    return maker.from_string(folder.joinpath(TEMPLATE).read_text(encoding="utf-8")).render(
        numbers=numbers,
        css=folder.joinpath(LOOKS).read_text(encoding="utf-8"),
        charts={name: _uri("image/svg+xml", svg.encode()) for name, svg in charts.items()},
        pictures={name: _uri("image/png", data) for name, data in pictures.items()},
        tiles=[row for name in TILES for row in rows if row["metric"] == name],
        colours=dict(zip(numbers.get("arms", []), ARMS, strict=False)),
        note=NOTE,
        benchmarks=blocks(numbers.get("benchmarks", ())),
        published=published,
        attack_words=words.ATTACKED,
        strongest_attack=words.strongest_attack(numbers),
        counted=words.counted,
        rate_interval=words.interval_name(numbers),
        ratio=words.ratio,
        commit=commit,
        flat=flat,
    )


def _uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{b64encode(data).decode()}"
