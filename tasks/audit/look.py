"""What a head sees in rows: calibrated log-probabilities. N rows, K risk types, L levels."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from model.checkpoint import load_card
from schemas.errors import ConfigError
from schemas.taxonomy import Taxonomy
from tasks.audit.score import Seen
from tasks.encode import FeatureCache
from tasks.evaluate.arms import open_backbone, open_guarded
from tasks.evaluate.question import question_of
from tasks.progress import progress


def check_card(model: Path, taxonomy: Taxonomy) -> None:
    """Whether the labels of a taxonomy are the classes of a model's heads.

    Raises:
        ConfigError: types or levels differ.
    """
    own = load_card(model).taxonomy
    pairs = (
        ("types", own.type_ids, taxonomy.type_ids),
        ("levels", _levels(own), _levels(taxonomy)),
    )
    for what, trained, labelled in pairs:
        if trained != labelled:
            raise ConfigError(
                f"the model's taxonomy '{own.name}' has the {what} {trained}, that of the labels "
                f"('{taxonomy.name}') has {labelled}: audit with a model trained on this taxonomy"
            )


@torch.no_grad()
def look(rows: pa.Table, cache: FeatureCache, *, base: Path, model: Path, batch: int) -> Seen:
    """Every row's image and first question through the head.

    Args:
        rows: with `image_id` and `messages`.
        cache: features of these images by the same base.
        base: the base model's folder.
        model: the trained model's folder.
        batch: rows at a time.
    """
    guarded, _ = open_guarded(model, open_backbone(base))
    policy, types, levels = guarded.policy, [], []
    with progress("audit", rows.num_rows) as tick:
        for piece in rows.select(["image_id", "messages"]).to_batches(max_chunksize=batch):
            features = cache.batch(piece["image_id"].to_pylist())
            questions = [question_of(row) for row in piece.to_pylist()]
            of_type, of_level = guarded.model.concept_logits(features, questions)
            types.append(_calibrated(of_type, policy.temperature_type))
            levels.append(_calibrated(of_level, policy.temperature_level))
            tick(sum(map(len, types)), "rows")
    return Seen(np.concatenate(types), np.concatenate(levels))


def _calibrated(logits: Tensor, temperature: float) -> np.ndarray:
    # As the guard's policy has it (model/policy.py), in float64.
    return (logits.double() / temperature).log_softmax(-1).cpu().numpy()


def _levels(taxonomy: Taxonomy) -> list[str]:
    return [level.id for level in taxonomy.levels]
