"""Training of a LLaVA-1.5-7B's shape on a GPU, with random weights that are made there.

What it measures is tests/benchmarks/train_rows.py's `rows`; tests/test_bench_gpu.py runs the same
on the CPU at a tiny shape. It needs about 81 GB of GPU memory (counted, not run): two bases in half
at a time, ours and the Trainer's, and the Trainer's logits of all positions. One GPU is used.
"""

import os
from pathlib import Path

import pytest
import torch

from tests.benchmarks.record import record
from tests.benchmarks.train_loops import SEVEN_B, Bench
from tests.benchmarks.train_rows import rows

STEPS = int(os.environ.get("STEPS", 5))


@pytest.mark.gpu
@pytest.mark.timeout(3600)
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_speed_of_a_7b_on_this_gpu(tmp_path: Path) -> None:
    found = rows(Bench(SEVEN_B, tmp_path), steps=STEPS)
    name = torch.cuda.get_device_name().lower().replace(" ", "-")
    record(f"gpu-{name}", {key: float(f"{value:.4g}") for key, value in found.items()})
