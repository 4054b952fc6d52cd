"""Where the safety head looks on a few held-out images, one of each risk type in turn."""

from collections import defaultdict
from typing import TYPE_CHECKING, Any

from infra.store import Store
from schemas.config import ReportConfig
from schemas.errors import ConfigError
from schemas.taxonomy import CLEAN
from tasks.answer import load_guarded
from tasks.encode import FeatureCache
from tasks.overlay import overlay
from tasks.report.arms import Items
from tasks.report.inputs import ReportInputs
from tasks.report.pictures import blurred, find_images, fitted, from_array, png

if TYPE_CHECKING:
    import numpy as np

    from model.guard import Verdict

Looks = tuple[list[dict[str, Any]], dict[str, bytes]]


def looks(config: ReportConfig, inputs: ReportInputs, items: Items, store: Store) -> Looks:
    """What the head found per image, and PNGs by name: `seen-<n>`, `heat-<n>`.

    Nothing where there is no trained model, no evaluated item with an image, no features, or where
    the projector's patches are no grid of the image.
    """
    rows = chosen(list(items.values())[-1], config.images) if items else []
    if not (rows and inputs.trained and inputs.features and inputs.samples):
        return [], {}
    from model.attention import attention, heat_maps
    from model.heads import CrossAttentionHead

    guarded, _ = load_guarded(inputs.trained)
    if not isinstance(guarded.model.safety.head, CrossAttentionHead):
        return [], {}  # there is no attention to show
    ids, questions = [r["image_id"] for r in rows], [r["question"] for r in rows]
    features = FeatureCache(inputs.features).batch(ids)
    found = attention(guarded.model, features, questions)
    try:
        maps = heat_maps(guarded.model, features, found)
    except ConfigError:  # the projector's positions are no grid: nothing to be drawn
        return [], {}
    verdicts = guarded.judge(features, questions)
    images = find_images(inputs.samples, ids)
    pictures = [blurred(images[i]) if config.blur else images[i] for i in ids]
    pixels = [guarded.model.backbone.as_seen(p).permute(1, 2, 0).numpy() for p in pictures]
    heats, tokens = [heat.float().cpu().numpy() for heat in maps], found.tokens.tolist()
    told = [_told(*found) for found in zip(rows, verdicts, heats, tokens, strict=True)]
    files: dict[str, bytes] = {}
    for number, (seen, heat) in enumerate(zip(pixels, heats, strict=True)):
        files |= _drawn(number, seen, heat)
    return told, files


def chosen(rows: list[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """The first items with an image by sample id, types taking turns; one is clean if any is."""
    kinds = defaultdict(list)
    for row in sorted(rows, key=lambda row: row["sample_id"]):
        if row.get("image_id"):
            kinds[row["risk_type"]].append(row)
    order = sorted(kinds.keys() - {CLEAN})
    if CLEAN in kinds:
        order.insert(count - 1, CLEAN)
    turns = max((len(found) for found in kinds.values()), default=0)
    taken = [kinds[name][turn] for turn in range(turns) for name in order if kinds[name][turn:]]
    return taken[:count]


def _told(
    row: dict[str, Any], verdict: "Verdict", heat: "np.ndarray", on_tokens: float
) -> dict[str, Any]:
    kept = ("sample_id", "image_id", "risk_type", "risk_level")
    seen = {name: getattr(verdict, name) for name in ("flagged", "type", "level", "risk")}
    # Against an even spread over the image, so that grids of different size compare.
    peak = float(heat.max()) * heat.size
    return {**{name: row[name] for name in kept}, **seen, "on_tokens": on_tokens, "peak": peak}


def _drawn(number: int, seen: "np.ndarray", heat: "np.ndarray") -> dict[str, bytes]:
    import numpy as np

    picture = fitted(from_array(seen))
    over = overlay(np.asarray(picture) / 255, heat)
    return {f"seen-{number}": png(picture), f"heat-{number}": png(from_array(over))}
