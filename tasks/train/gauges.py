"""The figures of a training as Prometheus gauges on the scrape endpoint of its node.

infra/deploy has a Prometheus that reads them and a Grafana page that shows them; a test holds the
three together.
"""

import sys
from collections.abc import Mapping
from typing import Any

from tasks.train.job import Job

# What is shown of a training; each is a gauge of its own, behind Ray's own prefix `ray_`.
GAUGES = {
    "step": "Optimizer steps done in this part",
    "loss": "Loss of the last step",
    "gradient_norm": "Norm of the gradient before clipping",
    "lr": "Learning rate of the last step",
    "samples_per_s": "Items a second, without the time that checkpoints take",
    "tokens_per_s": "Positions a second, no padding: text, safety tokens, h_i (concept: patches)",
    "data_wait": "Share of the time in which the step waited for its data",
    "flop_utilisation": "Model FLOP utilisation (no recompute), of the device's own rate",
    "clean_per_unsafe": "Clean items per unsafe one among those trained on",
    "memory_bytes": "Most bytes that the worker has had",
    "types_accuracy": "Share of items whose risk type the head tells",
    "levels_accuracy": "Share of items whose level the head tells",
    "tokens_accuracy": "Share of answer tokens foreseen",
}
PREFIX, TAGS = "psavlm_train_", ("stage", "part", "run")


class Gauges:
    """Rank 0's gauges; made when first set, and nothing where there is no Ray."""

    def __init__(self, job: Job) -> None:
        self.run = job.progress.rpartition("/")[0].rpartition("/")[2]
        self.stage = job.config.stage.value
        self.made: dict[str, Any] = {}

    def set(self, told: Mapping[str, Any]) -> None:
        """Set all that is told of a step; `part` is a tag."""
        ray = sys.modules.get("ray")
        if ray is None or not ray.is_initialized():
            return
        from ray.util.metrics import Gauge

        tags = {"stage": self.stage, "part": str(told["part"]), "run": self.run}
        for name, text in GAUGES.items():
            if name not in told:
                continue
            if name not in self.made:
                self.made[name] = Gauge(PREFIX + name, description=text, tag_keys=TAGS)
            self.made[name].set(float(told[name]), tags=tags)
