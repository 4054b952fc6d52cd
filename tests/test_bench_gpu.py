"""The GPU's benchmark at a tiny shape on the CPU: the same code, in full and in half precision."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.benchmarks.train_loops import TINY, Bench, rows

torch.set_num_threads(1)
SMALL = replace(TINY, items=12, batch=4, micro=2, answer_words=4)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_what_is_measured_on_a_gpu_runs_on_a_cpu(precision: str, tmp_path: Path) -> None:
    shape = replace(
        SMALL, precision=precision, recompute="cheap" if precision == "bf16" else "none"
    )
    found = rows(Bench(shape, tmp_path), steps=1)
    assert set(found) == {
        "encode_images_per_s", "encode_of_peak", "concept_items_per_s", "concept_of_peak",
        "joint_items_per_s", "lora_tokens_per_s", "lora_of_peak", "trainer_over_lora", "peak",
    }  # fmt: skip
    assert all(value > 0 for value in found.values())
