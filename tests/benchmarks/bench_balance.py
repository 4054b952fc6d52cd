"""How long the training order of a million rows takes: `python -m pytest -s` on this file."""

import time

import numpy as np

from tasks.balance import hash_keys, plan_order
from tests.benchmarks.record import record

ROWS = 1_000_000
EPOCHS = 8


def test_time_to_plan_the_order_of_a_million_rows():
    names = [f"{i:064x}" for i in range(ROWS)]
    rows = np.arange(ROWS, dtype=np.int32)
    start = time.perf_counter()
    keys = hash_keys(names, seed=0)
    hashed = time.perf_counter()
    plan = plan_order(rows, keys, unsafe=rows % 8 == 0, epochs=EPOCHS)
    done = time.perf_counter()
    record(
        "balance",
        {
            "rows": ROWS,
            "epochs": EPOCHS,
            "hash_seconds": round(hashed - start, 3),
            "order_seconds": round(done - hashed, 3),
            "seconds": round(done - start, 3),
        },
    )
    assert len(plan) == ROWS * EPOCHS
