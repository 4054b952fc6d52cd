"""The longer proof of evaluation (`make prove`): how many are asked at once changes no answer."""

from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from transformers import GenerationMixin

from flows.line import pipeline, plainly, up_to
from infra import ray_cluster
from infra.store import Store
from schemas.presets import Parameters, resolve
from tasks.evaluate import evaluate
from tasks.evaluate.step import ITEMS
from tests.benchmarks.record import record

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
SIZES = (1, 4, 16)
TOLD = ["sample_id", "answer", "outcome", "flagged", "seen_type", "seen_level"]


@pytest.fixture
def gaps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Of each batch that is written: the smallest gap between its two likeliest next tokens."""
    found: list[float] = []
    generate = GenerationMixin.generate

    def watched(self: Any, *args: Any, **how: Any) -> torch.Tensor:
        told = generate(self, *args, **how, return_dict_in_generate=True, output_logits=True)
        first, second = torch.stack(told.logits, 1).topk(2).values.unbind(-1)
        ends = torch.isin(told.sequences, torch.tensor(how["eos_token_id"]))
        alive = ends.cumsum(1) - ends.long() == 0
        found.append(float((first - second)[alive].min()))
        return told.sequences

    monkeypatch.setattr(GenerationMixin, "generate", watched)
    return found


def test_no_answer_of_a_guarded_model_depends_on_the_batch(
    encoded_root: str, gaps: list[float], tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All held-out items of tiny, in float32, through both passes of the guard."""
    monkeypatch.setenv("PSAVLM_CACHE", str(tmp_path))
    torch.set_num_threads(1)
    store, config = Store(encoded_root), resolve(Parameters())
    try:
        made = up_to(pipeline(config, store=store, do=plainly), "stage2")
    finally:
        ray_cluster.leave()
    seen = [made[role] for role in ("base", "validate", "encode")]
    answers, smallest = {}, {}
    for size in SIZES:
        own = config.evaluate.model_copy(update={"batch": size})
        gaps.clear()
        # A name of its own: a store that is used again would answer for this run.
        arm = f"batch {size} {tmp_path.name}"
        found = evaluate(own, arm, *seen, store=store, model=made["stage2"])
        answers[size] = pq.read_table(store.local(found) / ITEMS, columns=TOLD).sort_by("sample_id")
        smallest[size] = min(gaps)
    items = answers[1].num_rows
    assert items >= 500 and all(answers[1].equals(answers[size]) for size in SIZES)
    numbers = {f"smallest_gap_batch_{size}": smallest[size] for size in SIZES}
    record("batch-sizes", {"items": items, "answers_that_differ": 0, **numbers})
