"""Licences of the data that a model learnt from, rolled up to one word and told in a table."""

import json
from typing import Any

from infra.store import Store
from schemas.artifact import Artifact
from tasks.report.markdown import table

OTHER, UNNAMED = "other", "none named"


def rolled_up(licences: list[dict[str, Any]]) -> str:
    """One licence for all: that of every row if there is one, else `other`, told in the text."""
    names = {one["licence"] for one in licences}
    return names.pop().lower() if len(names) == 1 and "" not in names else OTHER


def licences_of(labelled: Artifact | None) -> list[dict[str, Any]]:
    """Licence, source, rows and images of the snapshot that the model learnt from."""
    if labelled is None:
        return []
    store = Store(labelled.uri.rsplit("/", 2)[0])
    verdict = json.loads((store.local(labelled) / "verdict.json").read_bytes())
    found: list[dict[str, Any]] = verdict["licences"]
    return found


def licence_words(licences: list[dict[str, Any]]) -> str:
    """What the licences forbid, and a table of them."""
    if not licences:
        return "The model does not say what it was trained on, so nothing is known of licences."
    rows = [
        {
            "licence": one["licence"] or UNNAMED,
            "source": one["source"],
            "rows": str(one["rows"]),
            "images": str(one["images"]),
        }
        for one in licences
    ]
    closed = sorted({one["licence"] for one in licences if one["non_commercial"]})
    told = []
    if closed:
        told.append(f"Part of the data forbids commercial use ({', '.join(closed)}).")
    if any(not one["named"] for one in licences):
        told.append("Part of the data names no licence: ask its source before you use the model.")
    told.append("The base model's own licence comes on top. The snapshot that it was trained on:")
    return f"{' '.join(told)}\n\n{table(rows)}"
