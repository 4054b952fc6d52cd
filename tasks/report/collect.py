"""All that a report says, as one tree of plain numbers and texts: `numbers.json`."""

from dataclasses import dataclass
from typing import Any

from infra.store import Store
from schemas.config import ReportConfig
from tasks.attack import read_attack
from tasks.depth import depth
from tasks.report.arms import evaluated, read_items
from tasks.report.benchmarks import benchmarks
from tasks.report.curves import Curve, read_curves, summed_up
from tasks.report.inputs import ReportInputs
from tasks.report.looks import looks
from tasks.report.origin import origin
from tasks.report.pictures import find_images, thumbnail
from tasks.report.rows import data, from_world
from tasks.report.words import interval_of, sentence
from tasks.report.worst import worst


@dataclass(frozen=True)
class Contents:
    """`numbers` as JSON has them, the loss curves, and PNGs by name."""

    numbers: dict[str, Any]
    curves: dict[str, Curve]
    pictures: dict[str, bytes]


def collect(config: ReportConfig, inputs: ReportInputs, store: Store) -> Contents:
    """Read everything; a key whose step has not run is not there."""
    items, curves = read_items(inputs, store), read_curves(inputs, store)
    numbers = evaluated(inputs, items, store)
    seen, pictures = looks(config, inputs, items, store)
    found = worst(config, items)
    pictures |= _thumbnails(config, inputs, found, store)
    rest = {
        "depth": depth(*list(items.items())[-1], interval_of(numbers)) if items else {},
        "attack": _attacked(inputs, store),
        "benchmarks": benchmarks(inputs.benchmarks, store),
        "attention": seen,
        "worst": found if found.get("items") else {},
        "losses": summed_up(curves),
        "data": data(inputs, store),
        "origin": origin(inputs, store),
        "blurred": config.blur,
        "tiny": bool(inputs.samples) and from_world(store.manifest(inputs.samples)),
    }
    numbers |= {name: part for name, part in rest.items() if part not in ([], {})}
    numbers["sentence"] = sentence(numbers)
    return Contents(numbers, curves, pictures)


def _attacked(inputs: ReportInputs, store: Store) -> dict[str, Any]:
    """The attack's own report, or nothing where there was none."""
    if inputs.attack is None:
        return {}
    return read_attack(inputs.attack, store=store).model_dump(mode="json")


def _thumbnails(
    config: ReportConfig, inputs: ReportInputs, found: dict[str, Any], store: Store
) -> dict[str, bytes]:
    """`worst-<n>` for those of the worst items that have an image."""
    ids = {n: item["image_id"] for n, item in enumerate(found.get("items", []))}
    ids = {n: image_id for n, image_id in ids.items() if image_id}
    if not (ids and inputs.samples):
        return {}
    images = find_images(inputs.samples, list(ids.values()))
    return {f"worst-{n}": thumbnail(images[i], blur=config.blur) for n, i in ids.items()}
