"""The GPU's benchmark at a tiny shape on the CPU: the same code, in half precision."""

from dataclasses import replace
from pathlib import Path

import torch

from tests.benchmarks.train_loops import TINY, Bench
from tests.benchmarks.train_rows import rows

torch.set_num_threads(1)


def test_what_is_measured_on_a_gpu_runs_on_a_cpu(tmp_path: Path) -> None:
    shape = replace(
        TINY, items=12, batch=4, micro=2, answer_words=4, precision="bf16", recompute="cheap"
    )
    found = rows(Bench(shape, tmp_path), steps=1)
    assert set(found) == {
        "encode_images_per_s", "encode_of_peak", "encode_files_images_per_s",
        "concept_items_per_s", "concept_of_peak", "concept_of_bandwidth", "joint_items_per_s",
        "joint_of_peak", "lora_tokens_per_s", "lora_of_peak", "trainer_over_lora", "peak",
        "bandwidth",
    }  # fmt: skip
    assert all(value > 0 for value in found.values())
